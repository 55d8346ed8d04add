"""The published procedure written plainly: the yardstick of the benchmarks and the tests' oracle.

Loops where the paper's script loops, one accumulator for everything, full SVD. Our own words;
nothing here is fast and nothing in `nuggets` imports it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nuggets.data.samples import Encoded


def sensitivity(
    model: nn.Module, encoded: Sequence[Encoded], device: str = "cpu"
) -> dict[str, Tensor]:
    """Σ |θ·g|: all gradients, one sample's scores and the sums are in memory at once.

    With the weights these are the four float32 copies of the model that the published script
    holds: it returns a sample's scores from a function, and adds them up outside.
    """
    sums: dict[str, Tensor] = {}
    for ids, labels in encoded:
        for name, score in _of_one_sample(model, ids, labels, device).items():
            if name in sums:
                sums[name] += score
            else:
                sums[name] = score
    return sums


def _of_one_sample(
    model: nn.Module, ids: Sequence[int], labels: Sequence[int], device: str
) -> dict[str, Tensor]:
    model.zero_grad()
    batch = (torch.tensor([list(part)], device=device) for part in (ids, labels))
    out = model(**dict(zip(("input_ids", "labels"), batch, strict=True)))
    out.loss.backward()
    scores = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        scores[name] = (parameter * parameter.grad).abs().detach()
    model.zero_grad()
    return scores


def layers(sums: dict[str, Tensor], n: int) -> list[int]:
    """The `n` layers of largest total, in their order."""
    totals: dict[int, float] = {}
    for name, values in sums.items():
        if ".layers." in name:
            layer = int(name.split(".")[2])
            totals[layer] = totals.get(layer, 0.0) + values.sum().item()
    best = sorted(totals, key=lambda layer: totals[layer], reverse=True)[:n]
    return sorted(best)


def window(values: Tensor, height: int, width: int) -> tuple[int, int]:
    """Top-left corner of the best window: a loop over all of them on a summed-area table."""
    table = values.cumsum(0).cumsum(1)
    best, corner = -float("inf"), (0, 0)
    for i in range(height - 1, values.shape[0]):
        for j in range(width - 1, values.shape[1]):
            mass = table[i, j]
            if i >= height:
                mass = mass - table[i - height, j]
            if j >= width:
                mass = mass - table[i, j - width]
            if i >= height and j >= width:
                mass = mass + table[i - height, j - width]
            if mass > best:
                best, corner = mass, (i - height + 1, j - width + 1)
    return corner


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """`(B, A)` from a full SVD, cut to the rank afterwards."""
    u, s, vh = torch.linalg.svd(matrix)
    return u[:, :rank] @ torch.diag(s[:rank]), vh[:rank]
