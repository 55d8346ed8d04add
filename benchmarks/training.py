"""A training step of a model with SmolLM2-135M's dimensions: memory, and the time of its loss."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.models import random_llama, samples
from benchmarks.rows import Row
from benchmarks.sensitivity import high_water
from nuggets.amounts import size
from nuggets.compute.device import free_memory
from nuggets.compute.threads import threads_of
from nuggets.extraction.adapter import add_lora
from nuggets.extraction.plan import LoraConfig
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import answer_logits, pad_right
from nuggets.preflight.resources import Machine, Size, Work, estimate_stages
from nuggets.train.config import TrainConfig
from nuggets.train.finetune import finetune
from nuggets.train.losses import answer_loss

SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
MORE = {"num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}
BATCH, TOKENS = 16, 512
TIMED = 2
"""Samples at once in the comparison of times: their whole logits must fit."""


def measure(small: bool = False) -> list[Row]:
    """Peak of a fresh process against its estimate, and time against a loss of whole logits."""
    batch, tokens = (4, 64) if small else (BATCH, TOKENS)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", str(batch), str(tokens)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    model, spec = adapted()
    estimate = _estimate(spec, model, batch, tokens)
    plain, ours = _times(model, spec, tokens)
    what = f"training step, 135 M, LoRA r 16, {batch} × {tokens} tokens, fp32"
    return [
        Row(
            f"{what}: memory of the process",
            f"{size(estimate, digits=3)} estimated",
            size(found["peak"], digits=3),
            f"{found['peak'] / estimate:.2f}",
            "≤ 1.5",
            f"aim: ≤ 4 GB; {size(found['start'], digits=3)} before; {found['cpu']:.1f} s of CPU",
        ),
        Row(
            f"{what}, {TIMED} at once: CPU time, loss of whole logits → of chunks",
            f"{plain:.2f} s",
            f"{ours:.2f} s",
            f"{ours / plain:.2f}",
            "≤ 1.15",
        ),
    ]


def adapted() -> tuple[Any, ArchSpec]:
    """The model with a LoRA on every matrix of its layers."""
    model, spec = random_llama(SMOLLM2, **MORE)
    ranks = {module: 16 for module, _, layer in spec.modules() if layer is not None}
    return add_lora(model, ranks, LoraConfig(r=16)), spec


def _estimate(spec: ArchSpec, model: Any, batch: int, tokens: int) -> int:
    """What preflight says of the stage."""
    weights = sum(p.numel() for n, p in model.named_parameters() if "lora" not in n)
    whole = Size(spec=spec, format="safetensors", parameters=weights, bytes_on_disk=0)
    free = free_memory("cpu")
    machine = Machine(memory_free=free, ram_free=free, disk_free=2**60)
    work = Work(batch_size=batch, max_tokens=tokens)
    stages = estimate_stages(whole, whole, work, machine)
    return next(need.bytes_needed for need in stages if need.stage == "training")


def _times(model: Any, spec: ArchSpec, tokens: int) -> tuple[float, float]:
    """CPU seconds of a loss and its gradient, whole and in chunks; the best of alternate rounds."""

    def plain(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(*answer_logits(model, ids, labels))

    batch = pad_right(samples(TIMED, tokens, spec.vocab_size), "cpu")
    best = {plain: float("inf"), answer_loss: float("inf")}
    with threads_of(model, "cpu"):
        for _ in range(3):
            for loss in best:
                start = time.process_time()
                loss(model.train(), *batch).backward()
                best[loss] = min(best[loss], time.process_time() - start)
    return best[plain], best[answer_loss]


def run_once(batch: int, tokens: int) -> dict[str, float]:
    """Trains one step in this process: its memory before and at most, and CPU seconds."""
    model, spec = adapted()
    student = copy.deepcopy(model)  # the untouched one stays beside it in a run
    encoded = samples(batch, tokens, spec.vocab_size)
    tiny = TrainConfig(steps=1, batch_size=1)
    with threads_of(model, "cpu"):
        finetune(model, [(ids[-8:], labels[-8:]) for ids, labels in encoded[:1]], tiny, 0)
        Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark from here
        before, start = high_water(), time.process_time()
        finetune(model, encoded, TrainConfig(steps=1, batch_size=batch), 0)
    del student
    return {"peak": high_water(), "start": before, "cpu": time.process_time() - start}


if __name__ == "__main__":
    print(json.dumps(run_once(*map(int, sys.argv[1:]))))
