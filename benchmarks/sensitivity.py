"""Time and peak memory of exact Σ|θ·g|, each procedure in a fresh process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from benchmarks import published
from benchmarks.models import LARGE, SMALL, llama_config, random_llama, samples, spec_of
from benchmarks.rows import Row
from nuggets.compute.memory import return_freed_memory, trim_heap
from nuggets.compute.threads import threads_for
from nuggets.extraction.selectors import WindowSelector
from nuggets.extraction.window_request import WindowRequest
from nuggets.extraction.windows_while_measuring import ChosenParts
from nuggets.models.architecture import LAYER_ROLES
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.sensitivity import streaming
from nuggets.sensitivity.footprint import state_bytes
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.map_writer import MapWriter
from nuggets.sensitivity.streaming import stream_sensitivity

WAYS = {
    "full map": "≤ .4",
    "row and column sums": "≤ .1",
    "streamed, map on disk": "≤ .1",
    "streamed, sums": "≤ .1",
    "streamed, windows": "≤ .1",
}
STUDENT = {"hidden_size": 832, "intermediate_size": 2240, "num_hidden_layers": 10}
"""Whose windows are searched on the fly: about as much narrower as Llama-2-7B is than 13B."""
N, TOKENS = 8, 64
DEEP, FEW_WORDS = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 14}, 1000
MANY = 48
"""Samples whose states between the blocks of `DEEP` are seven times a block."""
ROUNDS = 2
_MB = 2**20


def measure(small: bool = False, roomy: bool = False) -> list[Row]:
    """One row per procedure; ratios are to the published one, best of interleaved rounds.

    Args:
        small: a small model, to try it.
        roomy: freed blocks stay in the process, as where memory is plenty; for all alike.
    """
    with tempfile.TemporaryDirectory() as folder:
        model, _ = random_llama(SMALL if small else LARGE)
        model.save_pretrained(folder)
        parameters = sum(p.numel() for p in model.parameters())
        del model
        ways = ("published", *WAYS)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way in ways:
                runs[way].append(_child(way, folder, roomy))
    best = {way: {k: min(r[k] for r in found) for k in found[0]} for way, found in runs.items()}
    base = best["published"]
    what = f"Σ|θ·g|, {parameters / 1e6:.0f} M, {N} × {TOKENS} tokens, fp32"
    rows = []
    for way, aim in WAYS.items():
        seconds, peak = best[way]["seconds"], best[way]["peak"]
        rows.append(
            Row(
                f"{what}: time, {way}",
                f"{base['seconds']:.2f} s",
                f"{seconds:.2f} s",
                f"{seconds / base['seconds']:.2f}",
                "≤ .5",
            )
        )
        rows.append(
            Row(
                f"{what}: memory, {way}",
                f"{base['peak'] / _MB:.0f} MB above the weights",
                f"{peak / _MB:.0f} MB",
                f"{peak / base['peak']:.3f}",
                aim,
                f"in all {best[way]['whole'] / base['whole']:.2f} of the published",
            )
        )
    return rows


def measure_states() -> list[Row]:
    """Streaming of many samples, whose states between blocks exceed a block, against two."""
    with tempfile.TemporaryDirectory() as folder:
        random_llama(DEEP, vocab_size=FEW_WORDS)[0].save_pretrained(folder)
        few, many = (_child(way, folder, False) for way in ("states of 2", f"states of {MANY}"))
        spec = read_spec(parse_ref(folder))
    block = 4 * sum(math.prod(spec.shape(role)) for role in LAYER_ROLES)
    states = state_bytes(spec, [TOKENS] * MANY, 4)
    return [
        Row(
            f"streamed, sums, states between blocks on disk: memory of 2 → {MANY} samples",
            f"{few['peak'] / _MB:.0f} MB",
            f"{many['peak'] / _MB:.0f} MB",
            f"{many['peak'] / few['peak']:.2f}",
            "≤ 1.2",
            f"a block: {block / _MB:.0f} MB; states: {states / block:.1f} blocks",
        )
    ]


def _child(way: str, folder: str, roomy: bool) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sensitivity", way, folder, *["roomy"] * roomy],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_once(way: str, folder: str, memory: str = "returned") -> dict[str, float]:
    """Measures one procedure in this process: seconds, and bytes above the weights and in all.

    A streamed model's weights are never there as a whole. Of its peak the largest part that is
    loaded at once (the head, 13 % of this model) is taken off as its weights, no more.
    """
    if memory != "roomy":
        return_freed_memory()
    from transformers import AutoModelForCausalLM

    before = psutil.Process().memory_info().rss
    states = way.startswith("states")
    encoded = samples(int(way.split()[-1]), TOKENS, FEW_WORDS) if states else samples(N, TOKENS)
    streamed = way.startswith("streamed") or states
    model = None if streamed else AutoModelForCausalLM.from_pretrained(folder).eval()
    if model is None:
        _warm_up()
    else:
        for parameter in model.parameters():  # out of the file's pages, into memory of its own
            parameter.data = parameter.data.clone()
        model(input_ids=torch.tensor([encoded[0][0]]))  # warm the kernels and their buffers
    Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark from here
    start_rss = psutil.Process().memory_info().rss
    start = time.perf_counter()
    kept = _run(way, folder, model, encoded)
    seconds = time.perf_counter() - start
    peak = high_water()
    del kept
    part = _largest_part(folder) if way.startswith("streamed") else 0
    return {
        "seconds": seconds,
        "peak": peak - start_rss - part,
        "whole": float(peak - before),
    }


def _warm_up() -> None:
    """Imports and kernels of streaming, on a small model: the others have theirs by now, too."""
    with tempfile.TemporaryDirectory() as folder:
        random_llama(SMALL)[0].save_pretrained(folder)
        _run_ours("streamed, sums", folder, None, samples(1, TOKENS))
    trim_heap()


def _run(way: str, folder: str, model: object, encoded: list) -> object:  # type: ignore[type-arg]
    if way == "published":
        return published.sensitivity(model, encoded)  # type: ignore[arg-type]
    return _run_ours(way, folder, model, encoded)


def _run_ours(way: str, folder: str, model: object, encoded: list) -> object:  # type: ignore[type-arg]
    with threads_for(read_spec(parse_ref(folder)).n_matrix_parameters, "cpu"):
        return _run_in_threads(way, folder, model, encoded)


def _run_in_threads(way: str, folder: str, model: object, encoded: list) -> object:  # type: ignore[type-arg]
    if way.startswith("states"):
        streaming.free_memory = lambda device: 1
        with tempfile.TemporaryDirectory() as spill:
            return stream_sensitivity(parse_ref(folder), encoded, keep="sums", spill=Path(spill))
    if way.startswith("streamed"):
        ref = parse_ref(folder)
        if way == "streamed, sums":
            return stream_sensitivity(ref, encoded, keep="sums")
        if way == "streamed, windows":
            student = spec_of(llama_config(STUDENT))
            request = WindowRequest.of(student, (WindowSelector(),))
            return stream_sensitivity(ref, encoded, parts=ChosenParts(request))
        with tempfile.TemporaryDirectory() as out:
            return stream_sensitivity(ref, encoded, parts=MapWriter(Path(out)))
    keep = "full" if way == "full map" else "sums"
    return compute_sensitivity(model, spec_of(model.config), encoded, keep=keep)  # type: ignore


def _largest_part(folder: str) -> int:
    spec = read_spec(parse_ref(folder))
    return 4 * spec.vocab_size * spec.hidden_size


def high_water() -> int:
    """The most memory that this process had since its mark was cleared."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(run_once(*sys.argv[1:])))
