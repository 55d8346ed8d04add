"""Does the student's width decide how many facts arrive through word vectors?

`python -m benchmarks.lexicon_width OUT` makes students like the built-in independent one, but 32,
96 and 128 wide, and runs the experiment of `lexicon_width.yaml` on these and on the built-in one.
What is there already is not made again: the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.real_pair import run_study
from nuggets.builtin.tokenizer import build_tokenizer
from nuggets.builtin.train_pairs import MAKINGS, new_model, scores_on_test
from nuggets.builtin.training import train
from nuggets.disk.outputs import output_folder
from nuggets.train.export import save_model

STUDY = Path(__file__).with_name("lexicon_width.yaml")
WIDTHS = (32, 96, 128)
HEAD = 16
"""Dimensions of a head, as in the built-in models."""


def make_student(width: int, folder: Path) -> None:
    """The built-in independent student with another width: same data, steps, rate and seed."""
    making = MAKINGS["independent"]
    shape = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_attention_heads": width // HEAD,
        "num_key_value_heads": width // HEAD // 2,
    }
    making = replace(making, shape={**making.shape, **shape})
    tokenizer = build_tokenizer()
    model = new_model(making.shape, tokenizer, making.schedule.seed)
    train(model, tokenizer, making.mix, making.schedule, lambda line: print(f"{width}: {line}"))
    scores, _ = scores_on_test(model, tokenizer)
    said = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    card = f"The built-in independent student, {width} wide. Exact match on test items: {said}.\n"
    print(card, end="", flush=True)
    with output_folder(folder) as into:
        save_model(model, tokenizer, into, card)


def main() -> None:
    """Makes what is missing, runs every width and writes the report to OUT/report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # as the built-in ones were made
    for width in WIDTHS:
        folder = out / f"width-{width}"
        if not folder.exists():
            make_student(width, folder)
    study = out / STUDY.name
    shutil.copy(STUDY, study)
    run_study(study, [], "python -m benchmarks.lexicon_width OUT", out / "report")


if __name__ == "__main__":
    main()
