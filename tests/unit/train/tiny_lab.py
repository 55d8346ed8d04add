"""A lab with tiny random models, and the digit and letter samples they are trained on."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from nuggets.data.samples import Sample, encode
from nuggets.extraction.plan import ExtractionConfig, LoraConfig
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.train.config import TrainConfig
from nuggets.train.finetune import finetune
from nuggets.train.lab import Lab
from nuggets.train.untouched import Untouched

# Two threads wait for each other longer than such small models compute.
torch.set_num_threads(1)

LETTERS = "abcdefgh"
TEACHER: dict[str, Any] = {"num_hidden_layers": 3}
STUDENT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "seed": 1,
}


@dataclass
class Loaded:
    model: Any
    tokenizer: Any
    spec: ArchSpec


def load(folder: Path) -> Loaded:
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    spec = ArchSpec.from_config(model.config.to_dict())
    return Loaded(model, AutoTokenizer.from_pretrained(folder), spec)


def letters(n: int, seed: int = 0) -> list[Sample]:
    """Reversed letters, two to four of them; the choices are two wrong orders and the answer."""
    draw = random.Random(seed)
    made = []
    for i in range(n):
        word = draw.sample(LETTERS, draw.randint(2, 4))
        answer = " ".join(reversed(word))
        choices = (" ".join(word), answer, word[0])
        made.append(Sample.of(f"{seed}-{i}", " ".join(word), answer, choices))
    return made


@cache
def taught(folder: Path) -> Loaded:
    """A teacher that ends its answers, right or wrong: a random one goes on for ever."""
    loaded = load(folder)
    encoded = [encode(sample, loaded.tokenizer) for sample in letters(32, 5000)]
    config = TrainConfig(steps=30, batch_size=16, lr=1e-2)
    finetune(loaded.model, encoded, config, 0)
    return loaded


def make_lab(
    tiny: Callable[..., Path],
    lora: LoraConfig | None = None,
    extraction: ExtractionConfig | None = None,
    train: TrainConfig | None = None,
    **student: Any,
) -> Lab:
    teacher = taught(Path(tiny("llama", **TEACHER)))
    pupil = load(tiny("llama", **(STUDENT | student)))
    tokenizer = pupil.tokenizer

    def map_of(seed: int):
        encoded = [encode(sample, tokenizer) for sample in letters(4, seed)]
        return compute_sensitivity(teacher.model, teacher.spec, encoded)

    return Lab(
        teacher=teacher.model,
        teacher_spec=teacher.spec,
        untouched=Untouched(pupil.model),
        student_spec=pupil.spec,
        tokenizer=tokenizer,
        map=map_of(7),
        extraction=extraction or ExtractionConfig(),
        lora=lora or LoraConfig(r=4, alpha=12),
        train=train or TrainConfig(steps=4, batch_size=4, lr=1e-2, checkpoint_every=2),
        train_samples=lambda seed: letters(10, seed),
        extra_prompts=lambda n, seed: letters(n, 1000 + seed),
        general_samples=lambda n, seed: letters(n, 2000 + seed),
        other_map=lambda task, score: map_of(8),
    )
