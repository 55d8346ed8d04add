"""Looks into a model while it is given an answer: logit lens, and attribution to layers."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nuggets.alignment.states import record_states
from nuggets.data.samples import IGNORED, Encoded, Format, Sample, encode
from nuggets.errors import BadInput, NonFinite
from nuggets.lens.report import Lens
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import decoder_of, evaluation, reading_states
from nuggets.sensitivity.hooks import compute_sensitivity

MOST_TOKENS = 64
"""Tokens of an answer: each costs a backward pass through the whole model."""


def look(
    model: nn.Module,
    spec: ArchSpec,
    tokenizer: Any,
    prompt: str,
    answer: str,
    format: Format = "paper",
) -> Lens:
    """Shows when a model knows an answer, and on which of its layers the loss rests.

    Args:
        model: a causal language model, as `load_model` gives it; left as it was.
        spec: its dimensions.
        tokenizer: its own, so that models with different ones can be looked at side by side.
        prompt: the question.
        answer: the right answer, given to the model token by token (teacher forcing).
        format: how both are written.

    Raises:
        BadInput: if the two are longer than the model reads, or the answer than `MOST_TOKENS`.
        NonFinite: if the model computes NaN.
    """
    encoded = encode(Sample.of("prompt", prompt, answer), tokenizer, 1 << 20, format)
    ids, labels = encoded
    targets = [label for label in labels if label != IGNORED]
    room = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    if len(ids) > room:
        raise BadInput(
            f"Prompt and answer have {len(ids)} tokens together, but the model accepts at most "
            f"{room}."
        )
    if len(targets) > MOST_TOKENS:
        raise BadInput(
            f"The answer has {len(targets)} tokens; at most {MOST_TOKENS} are looked at, since "
            "each takes a backward pass. Give the part of it that matters."
        )
    ranks, probabilities, best = logit_lens(model, spec, encoded)
    return Lens(
        tokens=tuple(tokenizer.decode([token]) for token in targets),
        rank=tuple(map(tuple, ranks.tolist())),
        probability=tuple(map(tuple, probabilities.tolist())),
        best=tuple(tuple(tokenizer.decode([i]) for i in row) for row in best.tolist()),
        attribution=tuple(map(tuple, attribution(model, spec, encoded).tolist())),
    )


def logit_lens(
    model: nn.Module, spec: ArchSpec, encoded: Encoded
) -> tuple[
    Int[Tensor, "states tokens"], Float[Tensor, "states tokens"], Int[Tensor, "states tokens"]
]:
    """What the model's own final norm and head read off its states, layer by layer.

    The logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020): the states that
    enter the first layer and leave each layer are read as if they were the last. The last row is
    what the model says.

    Args:
        model: a causal language model; left as it was.
        spec: its dimensions.
        encoded: token ids and labels; read is where an answer token is to be predicted.

    Returns:
        `[layers + 1, answer tokens]` each: the right token's rank (1 is the first choice; of equal
        ones the lowest id is first), its probability, and the id of the first choice.

    Raises:
        NonFinite: if logits are NaN or infinite, naming the layer.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([encoded[0]], device=device)
    at = [i - 1 for i, label in enumerate(encoded[1]) if label != IGNORED]
    targets = ids[0, 1:][at]
    rows = []
    with evaluation(model):
        with record_states(model, spec) as states:
            decoder_of(model, spec)(input_ids=ids, use_cache=False)
        for place, state in enumerate(states):  # one at a time: a vocabulary can be large
            with reading_states(model, spec, state[:, at]):
                logits = model(input_ids=ids[:, at], use_cache=False).logits[0].float()
            if not torch.isfinite(logits).all():
                raise NonFinite(
                    f"What is read off the states after {place} of {spec.n_layers} layers is NaN "
                    "or infinite; use float32."
                )
            rows.append(_read(logits, targets))
    ranks, probabilities, best = zip(*rows, strict=True)
    return torch.stack(ranks), torch.stack(probabilities), torch.stack(best)


def _read(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"]
) -> tuple[Tensor, Tensor, Tensor]:
    own = logits.gather(1, targets[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
    before = (logits > own) | ((logits == own) & lower)
    probability = logits.softmax(-1).gather(1, targets[:, None])[:, 0]
    return before.sum(1) + 1, probability, logits.argmax(-1)


def attribution(
    model: nn.Module, spec: ArchSpec, encoded: Encoded
) -> Float[Tensor, "layers tokens"]:
    r"""How much the loss of each answer token rests on each layer: the map of that token alone.

    A[l, t] = Σ_{θ in layer l} |θ · ∂ℓ_t/∂θ|, where ℓ_t = −log p(token t | all before it).

    It is the sensitivity of the page's map (equation 2 of the paper) with one token as the only
    sample, so that both can be compared. The signed sum would be no measure of a layer: it is how
    ℓ_t changes as all weights grow alike, which by Euler's theorem is 0 for every matrix whose
    output a norm rescales (q, k, v, o, up and down of OLMo 2), whatever the matrix does.

    Args:
        model: a causal language model; left as it was.
        spec: its dimensions.
        encoded: token ids and labels.

    Returns:
        float64.

    Raises:
        NonFinite: if a loss or a gradient is not finite.
    """
    ids, labels = encoded
    # What follows a token is not seen by it, and left out.
    alone = [
        (ids[: i + 1], [*[IGNORED] * i, label])
        for i, label in enumerate(labels)
        if label != IGNORED
    ]
    map = compute_sensitivity(model, spec, alone, keep="sums")
    return torch.from_numpy(map.layer_samples.T.copy())
