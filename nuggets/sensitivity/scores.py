"""What a parameter's importance is: the sensitivity scores. One class and one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pydantic import Field

from nuggets.frozen import Frozen
from nuggets.sensitivity.selected_entries import top_entries

if TYPE_CHECKING:
    from torch import Tensor

    from nuggets.sensitivity.maps import SensitivityMap


class ThetaGrad(Frozen):
    """|θ · ∂L/∂θ|: the first-order estimate of how the loss changes if θ were 0 (the paper)."""

    kind: Literal["theta_grad"] = "theta_grad"

    def of(self, weight: Tensor, grad: Tensor, name: str) -> Tensor:
        """Scores one sample; `grad` may be overwritten. Returns float32, shaped as `weight`."""
        return grad.float().mul_(weight).abs_()  # a float32 copy of the weight is not needed


class Fisher(Frozen):
    """(∂L/∂θ)²: the diagonal of the empirical Fisher information."""

    kind: Literal["fisher"] = "fisher"

    def of(self, weight: Tensor, grad: Tensor, name: str) -> Tensor:
        """Scores one sample; `grad` may be overwritten. Returns float32, shaped as `weight`."""
        return grad.float().square_()


class Magnitude(Frozen):
    """|θ|: no data is used, so every sample adds the same (a control)."""

    kind: Literal["magnitude"] = "magnitude"

    def of(self, weight: Tensor, grad: Tensor, name: str) -> Tensor:
        """Scores one sample; `grad` may be overwritten. Returns float32, shaped as `weight`."""
        return weight.float().abs()


class RandomScore(Frozen):
    """Uniform noise, the same for every sample (a control)."""

    kind: Literal["random"] = "random"
    seed: int = Field(default=0, title="Draw", description="Seed of the noise.")

    def of(self, weight: Tensor, grad: Tensor, name: str) -> Tensor:
        """Scores one sample; `grad` may be overwritten. Returns float32, shaped as `weight`."""
        import zlib

        import torch

        # Drawn on the CPU from the parameter's name, so neither device nor order matters. torch
        # looks at the low 32 bits of a CPU seed only, hence the hash of both.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}:{name}".encode()))
        return torch.rand(weight.shape, generator=generator).to(weight.device)


class Compared(Frozen):
    """What scores have in common that set one skill's |θ · g| against that of other skills.

    Every map is measured by itself; what is compared are the finished maps, matrix by matrix.
    """

    against: tuple[str, ...] = Field(
        default=(),
        title="Reference set",
        description="Tasks, JSONL files or data sets, with commas; all other tasks if empty.",
    )

    def of(self, weight: Tensor, grad: Tensor, name: str) -> Tensor:
        """Scores one sample of one skill; `grad` may be overwritten."""
        return ThetaGrad().of(weight, grad, name)


class Specific(Compared):
    """|θ · ∂L/∂θ| where no skill of the reference set has one of its top weights, else 0.

    The set difference of Wei et al. 2024 (arXiv 2402.05162), against any number of skills.
    """

    kind: Literal["specific"] = "specific"
    q: float = Field(
        default=0.01, ge=1e-6, le=0.5, title="Top share", description="What of each other is out."
    )

    def scale(self, map: SensitivityMap) -> float:
        """The least entry among the top q of a map's blocks: from there on it is a top weight."""
        size = sum(matrix.size for _, matrix in map.blocks())
        return float(top_entries(map.blocks(), round(self.q * size) or 1)[0][-1])

    def compare(
        self, own: Float[ndarray, "_ _"], others: Sequence[ndarray], scales: Sequence[float]
    ) -> Float[ndarray, "_ _"]:
        """One matrix from those of all maps; `scales` starts with the own one's."""
        bounds = zip(others, scales[1:], strict=True)
        top = np.any([(other >= bound) & (other > 0) for other, bound in bounds], axis=0)
        return np.where(top, np.float32(0), own)


class Contrast(Compared):
    """How far |θ · ∂L/∂θ| is above the mean of the reference set, else 0."""

    kind: Literal["contrast"] = "contrast"
    unit: Literal["share", "log_ratio"] = Field(
        default="share", title="Unit", description="Difference of shares, or log2 of their ratio."
    )

    def scale(self, map: SensitivityMap) -> float:
        """The mean entry of a map's blocks, so that an entry's share is told in multiples of it."""
        blocks = [(matrix.sum(dtype=np.float64), matrix.size) for _, matrix in map.blocks()]
        return float(sum(total for total, _ in blocks) / sum(size for _, size in blocks)) or 1.0

    def compare(
        self, own: Float[ndarray, "_ _"], others: Sequence[ndarray], scales: Sequence[float]
    ) -> Float[ndarray, "_ _"]:
        """One matrix from those of all maps; `scales` starts with the own one's."""
        first, *shares = (np.divide(m, s) for m, s in zip([own, *others], scales, strict=True))
        mean = np.mean(shares, axis=0)
        if self.unit == "share":
            return np.maximum(first - mean, 0).astype(np.float32)
        # One mean entry is added to both: the ratio of two weights that hardly matter is noise.
        return np.maximum(np.log2((1 + first) / (1 + mean)), 0).astype(np.float32)


Score = Annotated[
    ThetaGrad | Fisher | Magnitude | RandomScore | Specific | Contrast, Field(discriminator="kind")
]
"""The sensitivity scores, chosen by `kind`."""


def score_name(score: Frozen) -> str:
    """Its kind with the parameters that are not as usual; a reference set is no part of it."""
    given = score.model_dump(exclude={"against", "kind"}, exclude_defaults=True)
    return " ".join([score.kind, *map(str, given.values())])  # type: ignore[attr-defined]
