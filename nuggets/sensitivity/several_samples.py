"""Several samples in one pass, each with its own gradient: faster where a model is small.

|Σ g| is not Σ |g|, so that samples cannot share a gradient. A small model spends its time between
operations, not in them; there one operation over all samples takes no longer than over one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from nuggets.compute.products import fast_products
from nuggets.data.samples import Encoded
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import pad_right
from nuggets.sensitivity.footprint import activation_bytes

PASS_BYTES = 2**28
"""Memory for the gradients of all samples of a pass and for what they are computed from."""
MOST, FEWEST = 32, 4
"""Samples per pass. Four of a model of 14 million weights gained 1.2 times, of 33 million 1.15;
from 17 million on fewer fit."""


def samples_per_pass(spec: ArchSpec, n_parameters: int, tokens: Sequence[int]) -> int:
    """How many samples of a model fit into one pass; 1 where one after another is as fast.

    Args:
        spec: of the model.
        n_parameters: of the model.
        tokens: of each sample.
    """
    longest = max(tokens)
    # Scores and probabilities: the plain kernel of attention keeps both for the way back.
    attention = 2 * spec.n_layers * spec.n_heads * longest**2
    numbers = n_parameters + attention  # float32, and a whole gradient per sample
    fit = PASS_BYTES // (4 * numbers + activation_bytes(spec, longest, 4))
    return min(fit, MOST, len(tokens)) if fit >= FEWEST else 1


def reads_lengths(model: nn.Module) -> bool:
    """Whether a model's rotations depend on how much it reads, as with long and dynamic RoPE.

    Padded to the longest of a pass, a short sample would be rotated as a long one; and the tables
    are changed in place, which `torch.func` refuses. Such samples go one by one.
    """
    found = [getattr(module, "rope_type", None) for module in model.modules()]
    kinds = [k for each in found for k in (each.values() if isinstance(each, dict) else [each])]
    return any(kind == "longrope" or "dynamic" in (kind or "") for kind in kinds)


def gradients(
    model: nn.Module, parameters: Mapping[str, Tensor], encoded: Sequence[Encoded]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradient of each sample, in one pass.

    Samples are padded on the right: what follows changes nothing in a causal model, and padding
    has no part in the loss.

    Args:
        model: without dropout.
        parameters: those of the model that gradients are taken of, a tied one once.
        encoded: `(input_ids, labels)` per sample.

    Returns:
        Losses `[samples]`, and gradients `[samples, *shape]` by name.
    """
    device = next(iter(parameters.values())).device
    ids, labels = pad_right(encoded, device)

    # Without a mask GPT-2 looks for padding among the ids, which are not numbers inside `vmap`.
    options = {"attention_mask": torch.ones_like(ids[:1]), "use_cache": False}

    def loss(weights: dict[str, Tensor], ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # One sample, as the model would see it alone: `vmap` makes the batch, so that losses are
        # means over a sample's own answer tokens and gradients are never added up.
        arguments = {"input_ids": ids[None], "labels": labels[None], **options}
        value = functional_call(model, weights, (), arguments).loss
        return value, value.detach()  # what is differentiated, and what is handed on beside it

    weights = {name: parameter.detach() for name, parameter in parameters.items()}
    # The other kernels of attention, and of products, cannot compute many samples at once.
    with sdpa_kernel(SDPBackend.MATH), fast_products(False):
        per_sample = vmap(grad(loss, has_aux=True), in_dims=(None, 0, 0))
        gradients_by_name, losses = per_sample(weights, ids, labels)
    return losses, gradients_by_name
