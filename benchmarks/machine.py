"""Sensitivity against the machine: its measured matmul peak, and how time grows."""

from __future__ import annotations

import torch

from benchmarks.models import LARGE, MEDIUM, SMALL, flops, random_llama, samples
from benchmarks.rows import Row, timed
from nuggets.builtin.resolve import model_named
from nuggets.compute.products import product
from nuggets.compute.threads import threads_of
from nuggets.planning.datasets import seed_samples
from nuggets.recipe import DataConfig
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.several_samples import samples_per_pass
from nuggets.stages.measuring import Loaded

SIDE = 3072
TOKENS = 512


def measure(small: bool = False) -> list[Row]:
    """Share of the matmul peak in both number formats, then scaling."""
    return [*_peaks(small), *_scaling(small), _together()]


def matmul_peak(dtype: torch.dtype, device: str = "cpu", side: int = SIDE) -> float:
    """Operations per second of the fastest large matrix product."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        product(a, b)
        if device != "cpu":
            torch.cuda.synchronize()

    multiply()
    return 2.0 * side**3 / timed(multiply, 8)[0]


def _peaks(small: bool) -> list[Row]:
    rows = []
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        peak = matmul_peak(dtype)
        model, spec = random_llama(SMALL if small else LARGE, dtype)
        encoded = samples(2, TOKENS)
        seconds, _ = timed(lambda m=model, s=spec, e=encoded: _sums(m, s, e), 4)
        reached = flops(spec, 2, TOKENS) / seconds
        rows.append(
            Row(
                f"share of the matmul peak, {name}, 2 × {TOKENS} tokens",
                f"{peak / 1e9:.0f} GFLOP/s",
                f"{reached / 1e9:.0f} GFLOP/s",
                f"{reached / peak:.2f}",
                "≥ .5",
            )
        )
    return rows


def _sums(model: object, spec: object, encoded: list) -> object:  # type: ignore[type-arg]
    with threads_of(model, "cpu"):
        return compute_sensitivity(model, spec, encoded, keep="sums")  # type: ignore[arg-type]


def _scaling(small: bool) -> list[Row]:
    """Time when one thing doubles or so: ratio of the ratios, 1 is proportional."""
    sizes = [SMALL, MEDIUM] if small else [MEDIUM, LARGE]
    models = [random_llama(each) for each in sizes]
    weights = [flops(spec, 1, 1) for _, spec in models]
    few, many = (timed(lambda m=m: _sums(*m, samples(2, 128)), 2)[0] for m in models)
    rows = [_growth("weights", weights[1] / weights[0], few, many)]
    model = models[0]
    for what, sets in {
        "samples": (samples(2, 128), samples(4, 128)),
        "tokens": (samples(2, 128), samples(2, 256)),
    }.items():
        few, many = (timed(lambda e=e: _sums(*model, e), 2)[0] for e in sets)
        rows.append(_growth(what, 2.0, few, many))
    return [*rows, *_cores(model)]


def _growth(what: str, factor: float, few: float, many: float) -> Row:
    growth = many / few
    return Row(
        f"time with {factor:.1f}× the {what}", f"{few:.2f} s", f"{many:.2f} s",
        f"{growth:.2f}×", "", f"{growth / factor:.2f} of proportional",
    )  # fmt: skip


def _cores(model: tuple[object, object]) -> list[Row]:
    cores = torch.get_num_threads()
    if cores == 1:
        return []
    encoded = samples(2, 256)
    many, _ = timed(lambda: _sums(*model, encoded), 2)
    torch.set_num_threads(1)
    one, _ = timed(lambda: _sums(*model, encoded), 2)
    torch.set_num_threads(cores)
    note = f"{one / many / cores:.2f} of {cores}-fold"
    return [Row(f"1 core → {cores} cores", f"{one:.2f} s", f"{many:.2f} s",
                f"{one / many:.2f}× faster", "", note)]  # fmt: skip


def _together() -> Row:
    """Samples in one pass against one after another, where models are small."""
    loaded = Loaded(model_named("teacher"), "cpu", "float32")
    encoded = loaded.encode(seed_samples(DataConfig(task="reverse")), 256)
    tokens = [len(ids) for ids, _ in encoded]
    fit = samples_per_pass(loaded.spec, loaded.parameters, tokens)
    with loaded.threads():
        one, many = (
            timed(
                lambda n=n: compute_sensitivity(loaded.model, loaded.spec, encoded, per_pass=n), 5
            )
            for n in (1, fit)
        )
    return Row(f"built-in teacher, {len(encoded)} samples, {fit} per pass", f"{one[0]:.3f} s",
               f"{many[0]:.3f} s", f"{one[0] / many[0]:.2f}× faster", "≥ 1.2×")  # fmt: skip
