"""Time and peak memory of exact Σ|θ·g| on a Llama of 138 M parameters, each in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import published
from nuggets.core.architecture import ArchSpec
from nuggets.core.memory import return_freed_memory
from nuggets.core.sensitivity import compute_sensitivity

TITLE = "Sensitivity of 8 samples × 64 tokens, 138 M parameters, float32"
WAYS = ("published", "full map", "row and column sums")
ROUNDS = 2
_MB = 2**20


def measure() -> list[dict[str, str]]:
    """One row per procedure; ratios are to the published one, best of interleaved rounds."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:
            runs[way].append(_child(way))
    best = {way: {k: min(r[k] for r in found) for k in found[0]} for way, found in runs.items()}
    base = best["published"]
    return [
        {
            "procedure": way,
            "time": f"{found['seconds']:.2f} s",
            "time ratio": f"{found['seconds'] / base['seconds']:.2f}",
            "peak above the weights": f"{found['peak'] / _MB:.0f} MB",
            "memory ratio": f"{found['peak'] / base['peak']:.2f}",
        }
        for way, found in best.items()
    ]


def _child(way: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sensitivity", way],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_once(way: str) -> dict[str, float]:
    """Measures one procedure in this process: seconds, and bytes above the loaded weights."""
    return_freed_memory()  # for all three alike
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        vocab_size=32000,
    )
    model = LlamaForCausalLM(config).eval()
    spec = ArchSpec.from_config(json.loads(config.to_json_string()))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 32000, (8, 64), generator=generator).tolist()
    encoded = [(row, [-100] * 16 + row[16:]) for row in rows]
    model(input_ids=torch.tensor([rows[0]]))  # warm the kernels and their buffers
    Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark from here
    weights = psutil.Process().memory_info().rss
    start = time.perf_counter()
    if way == "published":
        kept: object = published.sensitivity(model, encoded)
    else:
        kept = compute_sensitivity(
            model, spec, encoded, keep="full" if way == "full map" else "sums"
        )
    seconds = time.perf_counter() - start
    del kept
    return {"seconds": seconds, "peak": float(_high_water() - weights)}


def _high_water() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(run_once(sys.argv[1])))
