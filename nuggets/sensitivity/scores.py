"""What a parameter's importance is: the sensitivity scores. One class and one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from nuggets.frozen import Frozen

if TYPE_CHECKING:
    from torch import Tensor


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


Score = Annotated[ThetaGrad | Fisher | Magnitude | RandomScore, Field(discriminator="kind")]
"""The sensitivity scores, chosen by `kind`."""
