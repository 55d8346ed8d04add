"""Float32 matrix products on CPUs where PyTorch's own leave half of the processor unused.

PyTorch's products on x86 are MKL's, and MKL does not use AVX-512 on AMD's processors. oneDNN, which
PyTorch carries as well, does: 459 instead of 207 GFLOP/s on two Zen 5 cores, with the same float32
rounding. Which of the two computes depends on the processor and on the shapes alone, so that the
same work on the same machine always gives the same bits.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

WORTH = 2**22
"""Multiplications from which on a product is worth the longer way to oneDNN."""
SLOW = 2**30
"""Multiplications that take float64 a thirtieth of a second on one core."""
# Not a global: what one thread asks for must not change how another one computes.
_on: ContextVar[bool] = ContextVar("fast_products", default=False)


@cache
def has_faster() -> bool:
    """Whether this processor is one that MKL holds back: AMD's with AVX-512."""
    # By its name, never by a measurement: that would choose now this library, now that one, and
    # the bits of a resumed run would follow.
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "AuthenticAMD" in _processor()
    )


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return platform.processor()


def product(a: Float[Tensor, "m k"], b: Float[Tensor, "n k"]) -> Float[Tensor, "m n"]:
    """The product a · bᵀ, by the faster library where it is worth it; it has no gradient."""
    if not _is_worth(a, b):
        return a @ b.T
    if a.shape[0] < b.shape[0]:
        return product(b, a).T  # (b · aᵀ)ᵀ = a · bᵀ
    # The larger one comes first, unless it is stored by columns: that would take ten times as long.
    return _onednn(a, b, None) if a.is_contiguous() else _onednn(b, a, None).T


def precision_of(multiplications: int) -> type[np.floating]:
    """In what statistics of states are multiplied: float32 where float64 would take seconds."""
    return np.float32 if multiplications >= SLOW else np.float64


def cross_product(x: Float[ndarray, "n p"], y: Float[ndarray, "n q"]) -> Float[ndarray, "p q"]:
    """xᵀ·y of two arrays of one precision.

    In float32 an entry is off by about 1e-7 of the product of its two columns' norms: centre
    columns before, since a mean is part of a norm.
    """
    if x.dtype == np.float64:
        return x.T @ y
    return product(torch.from_numpy(x).T, torch.from_numpy(y).T).numpy()


def stored_whole(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """What many products with one matrix start from: a copy, if it is a window of a larger one."""
    return matrix.contiguous() if _has_right_kind(matrix) and not _is_plain(matrix) else matrix


@contextmanager
def fast_products(on: bool) -> Iterator[None]:
    """Linear layers multiply by the faster library while this is open, forward and backward.

    Args:
        on: false switches off what an outer one switched on: the rule for small models, whose
            time goes into calls and not into products.
    """
    token = _on.set(on and has_faster())
    try:
        if _on.get():
            with _Linears():
                yield
        else:
            yield
    finally:
        _on.reset(token)


class _Linears(TorchFunctionMode):
    """Sends what `torch.nn.functional.linear` is asked to `_Linear`, where that is worth it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # As nn.Linear calls it; whoever passes names, or calls `matmul`, gets torch's own.
        if func is linear and _on.get() and len(args) > 1 and not kwargs:
            states, weight = args[:2]
            matrices = states.is_contiguous() and weight.ndim == 2 <= states.ndim
            if matrices and _is_worth(states, weight):
                return _Linear.apply(states, weight, args[2] if len(args) > 2 else None)
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """`torch.nn.functional.linear`; the gradient has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight)
        return _onednn(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        states, weight = ctx.saved_tensors
        # Y = X Wᵀ + c with G = ∂L/∂Y: ∂L/∂X = G W, ∂L/∂W = Gᵀ X, ∂L/∂c the sum of G's rows. oneDNN
        # computes a · bᵀ, so that W and X are given as transposed views, without a copy.
        rows = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        of_states, of_weight, of_bias = ctx.needs_input_grad
        return (
            _onednn(rows, weight.T, None).view(states.shape) if of_states else None,
            _onednn(rows.T, states.view(-1, states.shape[-1]).T, None) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )


def _is_worth(a: Tensor, b: Tensor) -> bool:
    return (
        a.numel() * b.shape[0] >= WORTH
        and all(_has_right_kind(matrix) and _is_plain(matrix) for matrix in (a, b))
        and not torch.is_autocast_enabled("cpu")  # which would compute in half precision
    )


def _has_right_kind(tensor: Tensor) -> bool:
    return has_faster() and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _is_plain(matrix: Tensor) -> bool:
    """Whether a matrix is stored whole, by rows or by columns.

    With entries left out in between (a window of a larger matrix), oneDNN is hundreds of times
    slower than MKL.
    """
    return matrix.is_contiguous() or matrix.mT.is_contiguous()


def _onednn(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    # a · bᵀ + bias; the rest says that no activation is fused into it.
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
