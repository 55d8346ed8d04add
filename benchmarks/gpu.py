"""`python -m benchmarks.gpu`: the same on CUDA, and shapes of Llama-2-13B → 7B made there.

Nothing is downloaded: weights are random and made on the device. Without CUDA it says so and ends.
"""

from __future__ import annotations

import sys

import torch
from rich.console import Console

from benchmarks import published
from benchmarks.__main__ import table
from benchmarks.extraction import RANK, SHAPES, random_matrix
from benchmarks.machine import matmul_peak
from benchmarks.models import LARGE, flops, random_llama, samples
from benchmarks.rows import Row, timed
from nuggets.compute.svd import truncated_svd
from nuggets.extraction.factors import extract_factors
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.extraction.selectors import RowsColsSelector
from nuggets.sensitivity.hooks import compute_sensitivity

TEACHER = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40}
STUDENT = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
DEVICE = "cuda"


def main() -> None:
    """Runs on the first CUDA device and prints the table."""
    if not torch.cuda.is_available():
        print("No CUDA device here: benchmarks.gpu measures nothing. `python -m benchmarks` does.")
        return
    label = torch.cuda.get_device_name()
    rows = [*_against_published(), *_peaks(), *_factorisation()]
    rows += _whole_job() if "--short" not in sys.argv else []
    Console(width=150).print(table(f"{label}, torch {torch.__version__}", rows))


def _synchronised(call: object) -> object:
    result = call()  # type: ignore[operator]
    torch.cuda.synchronize()
    return result


def _against_published() -> list[Row]:
    """Time and peak memory above the weights, published procedure / hooks."""
    model, spec = random_llama(LARGE, device=DEVICE)
    encoded = samples(8, 512)
    _synchronised(lambda: compute_sensitivity(model, spec, encoded[:1], keep="sums"))
    found = {}
    for way in ("published", "full", "sums"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()

        def run(way: str = way) -> object:
            if way == "published":
                return published.sensitivity(model, encoded, DEVICE)
            return compute_sensitivity(model, spec, encoded, keep=way)  # type: ignore[arg-type]

        seconds, kept = timed(lambda run=run: _synchronised(run))
        found[way] = (seconds, torch.cuda.max_memory_allocated() - before)
        del kept
    time, memory = found.pop("published")
    return [
        Row(
            f"Σ|θ·g|, 245 M, 8 × 512 tokens, fp32, {way}", f"{time:.2f} s, {memory / 2**20:.0f} MB",
            f"{s:.2f} s, {m / 2**20:.0f} MB", f"{s / time:.2f}, {m / memory:.2f}", "≤ .5, ≤ .4",
        )
        for way, (s, m) in found.items()
    ]  # fmt: skip


def _peaks() -> list[Row]:
    rows = []
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        peak = matmul_peak(dtype, DEVICE, 8192)
        model, spec = random_llama(TEACHER | {"num_hidden_layers": 4}, dtype, DEVICE)
        encoded = samples(4, 512)
        seconds, _ = timed(
            lambda m=model, s=spec, e=encoded: _synchronised(
                lambda: compute_sensitivity(m, s, e, keep="sums")
            ),
            2,
        )
        reached = flops(spec, 4, 512) / seconds
        rows.append(
            Row(f"share of the matmul peak, {name}, 13B's width", f"{peak / 1e12:.1f} TFLOP/s",
                f"{reached / 1e12:.1f} TFLOP/s", f"{reached / peak:.2f}", "≥ .5")
        )  # fmt: skip
        del model
        torch.cuda.empty_cache()
    return rows


def _factorisation() -> list[Row]:
    rows = []
    for name, (_, small) in SHAPES.items():
        window = random_matrix(small)[0].to(DEVICE)
        ours, _ = timed(lambda w=window: _synchronised(lambda: truncated_svd(w, RANK)), 2)
        theirs, _ = timed(lambda w=window: _synchronised(lambda: published.factors(w, RANK)))
        rows.append(
            Row(f"SVD, {name}", f"{theirs:.2f} s", f"{ours:.3f} s", f"{theirs / ours:.0f}×")
        )
    return rows


def _whole_job() -> list[Row]:
    """32 × 512 tokens through 13B in bf16, row and column sums, and all factors of 7B."""
    model, spec = random_llama(TEACHER, torch.bfloat16, DEVICE)
    seconds, map = timed(
        lambda: _synchronised(
            lambda: compute_sensitivity(model, spec, samples(32, 512), keep="sums")
        )
    )
    with torch.device("meta"):
        student = random_llama(STUDENT, device="meta")[1]

    def extract() -> object:
        config = ExtractionConfig(matrices=RowsColsSelector())
        plan = make_plan(map, student, config, LoraConfig(r=RANK))
        weights = lambda module: model.get_submodule(module).weight.detach()  # noqa: E731
        return extract_factors(weights, plan, device=DEVICE)

    more, _ = timed(lambda: _synchronised(extract))
    return [
        Row("13B → 7B, 32 × 512 tokens, bf16: sensitivity + extraction", "120 s",
            f"{seconds:.1f} + {more:.1f} s", f"{(seconds + more) / 120:.2f}", "≤ 1")
    ]  # fmt: skip


if __name__ == "__main__":
    main()
