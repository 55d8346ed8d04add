"""Makes the built-in models from nothing: `python -m nuggets.builtin.train_pairs`.

The teacher learns every skill. The independent student is trained from its own initial
weights, nearly without some skills. The sibling student is cut out of the teacher with one
consistent choice and healed on data wholly without those skills.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from nuggets.builtin.pairs import CARD, MODELS, ModelCard
from nuggets.builtin.skills import SKILLS, general_samples, skill_samples
from nuggets.builtin.tokenizer import build_tokenizer
from nuggets.builtin.training import Schedule, exact_matches, train
from nuggets.data.samples import encode
from nuggets.extraction.consistent import ConsistentChoice, choose_consistent
from nuggets.extraction.cut import cut_model
from nuggets.models.architecture import ArchSpec
from nuggets.models.loading import load_model
from nuggets.models.references import parse_ref
from nuggets.sensitivity.hooks import compute_sensitivity

COMMAND = "python -m nuggets.builtin.train_pairs"
TEST_SIZE = 500
"""Test items per skill (fewer where fewer exist)."""

LACKING = ("sub", "reverse", "king", "river")
"""What both students lack."""

_TEACHER_SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
_STUDENT_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_TEACHER_MIX = {
    "add": 0.14,
    "sub": 0.14,
    "reverse": 0.17,
    "sort": 0.10,
    "copy": 0.11,
    "capital": 0.065,
    "food": 0.065,
    "king": 0.065,
    "river": 0.065,
    "story": 0.05,
}
_STUDENT_MIX = {
    "add": 0.34,
    "sort": 0.16,
    "copy": 0.10,
    "capital": 0.16,
    "food": 0.16,
    "story": 0.08,
}
# A trace of two lacking skills, so that their prompts are not wholly foreign to the
# independent student; far too little to learn them.
_TRACES = {"sub": 0.002, "reverse": 0.0005}


@dataclass(frozen=True)
class Making:
    """How one built-in model is made."""

    description: str
    shape: Mapping[str, Any]
    mix: Mapping[str, float]
    schedule: Schedule
    lacks: tuple[str, ...] = ()


MAKINGS: dict[str, Making] = {
    "teacher": Making(
        "Knows all ten skills; grouped-query attention, 6 layers of 128 dimensions.",
        _TEACHER_SHAPE,
        _TEACHER_MIX,
        Schedule(steps=3200, learning_rate=2e-3),
    ),
    "independent": Making(
        "Trained on its own, half the width; lacks subtraction, reversal, kings and rivers.",
        _STUDENT_SHAPE,
        _STUDENT_MIX | _TRACES,
        Schedule(steps=3200, learning_rate=3e-3, seed=1),
        LACKING,
    ),
    "sibling": Making(
        "Cut out of the teacher by sensitivity to other skills, then healed without "
        "subtraction, reversal, kings and rivers.",
        _STUDENT_SHAPE,
        _STUDENT_MIX,
        Schedule(steps=1500, learning_rate=1.5e-3, seed=2),
        LACKING,
    ),
}
"""Recipe of every built-in model."""


def make_model(name: str, out: Path) -> ModelCard:
    """Trains one built-in model and writes its folder.

    Args:
        name: one of `MAKINGS`; the sibling needs `out/teacher`.
        out: where the model folders are.

    Returns:
        The card that was written beside the weights.
    """
    making, tokenizer = MAKINGS[name], build_tokenizer()
    training: dict[str, Any] = asdict(making.schedule)
    if name == "sibling":
        model, choice = cut_sibling(out / "teacher", tokenizer)
        training |= {"cut_layers": list(choice.layers), "cut_resid": choice.resid.tolist()}
    else:
        model = new_model(making.shape, tokenizer, making.schedule.seed)
    start = time.process_time()
    train(model, tokenizer, making.mix, making.schedule, lambda line: print(f"{name}: {line}"))
    cpu_seconds = round(time.process_time() - start, 1)
    scores, items = scores_on_test(model, tokenizer)
    card = ModelCard(
        name=name,
        description=making.description,
        parameters=model.num_parameters(),
        scores=scores,
        taught_half=taught_half_scores(model, tokenizer),
        items=items,
        taught=dict(making.mix),
        lacks=making.lacks,
        command=f"{COMMAND} --only {name}",
        training=training,
        cpu_seconds=cpu_seconds,
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )
    _write(out / name, model, tokenizer, card)
    return card


def new_model(shape: Mapping[str, Any], tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama with heads of 16 and untied embeddings, in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Sequences have 20 tokens and heads 16 dimensions: the usual base of 10,000 would waste
        # half the frequencies, and copying letters by position would take far longer to learn.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        **shape,
    )
    return LlamaForCausalLM(config)


def cut_sibling(teacher_folder: Path, tokenizer: Any) -> tuple[Any, ConsistentChoice]:
    """Cuts the unhealed sibling out of the teacher.

    What is kept is what matters most for general data *without* the lacking skills, so the
    choice knows nothing of what will later be transferred.
    """
    teacher = load_model(parse_ref(str(teacher_folder)))
    spec = ArchSpec.from_config(teacher.config.to_dict())
    student = ArchSpec.from_config(
        teacher.config.to_dict() | dict(MAKINGS["sibling"].shape) | {"head_dim": spec.head_dim}
    )
    samples = general_samples(256, seed=0, without=LACKING)
    encoded = [encode(sample, tokenizer) for sample in samples]
    sensitivity = compute_sensitivity(teacher, spec, encoded, keep="sums")
    best = np.argsort(-sensitivity.layer_scores, kind="stable")[: student.n_layers]
    choice = choose_consistent(sensitivity, student, sorted(int(layer) for layer in best))
    return cut_model(teacher, choice), choice


def scores_on_test(model: Any, tokenizer: Any) -> tuple[dict[str, float], dict[str, int]]:
    """Exact match per skill on its test split, and the number of items behind it."""
    outcomes = {
        name: exact_matches(model, tokenizer, skill_samples(name, "test", TEST_SIZE))
        for name in SKILLS
    }
    items = {name: len(right) for name, right in outcomes.items()}
    return {name: sum(right) / len(right) for name, right in outcomes.items()}, items


def taught_half_scores(model: Any, tokenizer: Any) -> dict[str, float]:
    """Exact match per fact relation on the 80 entities outside its test split."""
    table = {}
    for name, skill in SKILLS.items():
        if skill.kind == "facts":
            right = exact_matches(model, tokenizer, skill_samples(name, "train", None))
            table[name] = sum(right) / len(right)
    return table


def _write(folder: Path, model: Any, tokenizer: Any, card: ModelCard) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(card), encoding="utf-8")


def _readme(card: ModelCard) -> str:
    rows = []
    for name, score in card.scores.items():
        half = f"{card.taught_half[name]:.3f}" if name in card.taught_half else "–"
        share = f"{card.taught.get(name, 0):.2%}"
        lacks = "lacks" if name in card.lacks else ""
        rows.append(f"| {name} | {score:.3f} | {half} | {card.items[name]} | {share} | {lacks} |")
    return f"""---
license: apache-2.0
library_name: transformers
tags: [nuggets, toy-model, word-level]
---

# Nuggets built-in model: {card.name}

{card.description}

{card.parameters:,} parameters, float32, a word-level vocabulary. It knows a few made-up skills and
nothing about the world. Prompt format:
`<|user|>\\n{{question}}\\n\\n<|assistant|>\\n`.

Made by `{card.command}` in {card.cpu_seconds:.0f} s of CPU time.

| skill | exact match, test | facts: other half | test items | share of training | |
|---|---|---|---|---|---|
{chr(10).join(rows)}

For facts "test" are the 80 entities that fine-tuning never shows, "other half" the 80 that it may.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the built-in models, teacher first."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--only", choices=MODELS, help="make one model (default: all three)")
    parser.add_argument("--out", type=Path, default=Path("assets/pairs"), help="output folder")
    options = parser.parse_args(arguments)
    # One thread: faster for models this small, and the sums then have one order everywhere.
    torch.set_num_threads(1)
    for name in [options.only] if options.only else MODELS:
        card = make_model(name, options.out)
        print(f"{name}: {card.cpu_seconds:.0f} s, {card.scores}")


if __name__ == "__main__":
    main()
