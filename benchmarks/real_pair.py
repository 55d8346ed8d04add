"""A transfer between a real teacher and a student pruned from it, with every control.

`python -m benchmarks.real_pair OUT --teacher MODEL --gsm8k FILE --mmlu FILE` lets the teacher write
general samples, prunes a student of 38 M parameters and fine-tunes it on these, and runs the
experiment of `real_pair.yaml` on both skills. Files hold samples as `nuggets samples` reads them,
at least 292 each. What is there already is not made again: the same command goes on after a stop.
Takes hours; says the processor time and the peak of memory of every step.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
SIZES = ("--layers", "12", "--width", "384", "--ffn", "1024", "--kv-heads", "2")
HEALING = ("--heal-steps", "600", "--heal-batch-size", "8", "--heal-lr", "1e-3")
N_SEEDS, N_TRAIN, N_TEST = 32, 180, 80
BATCH, NEW_TOKENS = 25, 120
TOPICS = (
    "a market", "rain", "bread", "the moon", "bicycles", "a garden", "bridges", "school", "birds",
    "a long train journey", "friendship", "rivers", "music", "winter", "a library", "the heart",
    "coffee", "maps", "a small town", "glass", "horses", "elections", "sleep", "mountains", "salt",
    "a lost key", "paper", "bees", "the sea", "clocks", "football", "a hospital", "trees", "money",
    "painting", "cooking rice", "volcanoes", "the internet", "a new job", "honesty",
)  # fmt: skip
REQUESTS = (
    "Tell me something about {}.", "Write a short story about {}.", "Why do people care about {}?",
    "Explain {} to a child.", "Write a letter in which {} plays a part.", "List five facts on {}.",
    "Describe {} in detail.", "What is the history of {}?", "Write a dialogue about {}.",
    "What could go wrong with {}?", "Give advice on {}.", "Write a poem about {}.",
    "Compare {} with something else.", "What do scientists say about {}?", "Write news about {}.",
    "How would you draw {}?", "What is the use of {}?", "Write a diary entry that mentions {}.",
    "Ask three questions about {} and answer them.", "Summarise what one should know of {}.",
    "What has changed about {} in a century?", "Invent a proverb about {} and explain it.",
    "Which words go with {}, and why?", "Argue for and against {}.", "Plan a day around {}.",
)  # fmt: skip


def make_general(teacher: str, out: Path) -> Path:
    """1,000 samples, every topic with every request, with what the teacher says to each."""
    path = out / "general.jsonl"
    if path.exists():
        return path
    from nuggets.models.loading import load_model, load_tokenizer
    from nuggets.models.references import parse_ref

    ref = parse_ref(teacher)
    model: Any = load_model(ref)
    tokenizer = load_tokenizer(ref)
    tokenizer.padding_side = "left"
    prompts = [request.format(topic) for topic, request in product(TOPICS, REQUESTS)]
    parts = []
    for start in range(0, len(prompts), BATCH):
        part = out / f"general_{start}.jsonl"
        if not part.exists():
            write(part, said(model, tokenizer, prompts[start : start + BATCH], start))
        parts.append(part)
        print(f"the teacher wrote {start + BATCH} of {len(prompts)} samples", flush=True)
    write(path, (line for part in parts for line in part.read_text().splitlines()))
    return path


def said(model: Any, tokenizer: Any, prompts: Sequence[str], seed: int) -> list[str]:
    """Samples, as lines, with what the teacher says to some prompts."""
    import torch

    torch.manual_seed(seed)  # per batch, so that a stop, or a second process, changes nothing
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]
    asked = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    new = model.generate(
        **asked, max_new_tokens=NEW_TOKENS, do_sample=True, temperature=0.8, top_p=0.95
    )[:, asked["input_ids"].shape[1] :]
    answers = tokenizer.batch_decode(new, skip_special_tokens=True)
    rows = [{"prompt": p, "completion": a.strip()} for p, a in zip(prompts, answers, strict=True)]
    return [json.dumps(row) for row in rows if row["completion"]]


def make_student(teacher: str, general: Path, folder: Path) -> None:
    """A student pruned from the teacher and fine-tuned on the general samples."""
    if not folder.exists():
        seeds = ("--seed-samples", general, "--heal", general)
        nuggets("cut", teacher, *SIZES, *seeds, *HEALING, "--out", folder)


def split(source: Path, folder: Path) -> None:
    """Seed, training and test samples of a skill, by their place in its file."""
    lines = source.read_text().splitlines()
    ends = (0, N_SEEDS, N_SEEDS + N_TRAIN, N_SEEDS + N_TRAIN + N_TEST)
    if len(lines) < ends[-1]:
        sys.exit(f"{source} has {len(lines)} lines; {ends[-1]} are needed.")
    folder.mkdir(exist_ok=True)
    for name, start, stop in zip(("seeds", "train", "test"), ends, ends[1:], strict=False):
        write(folder / f"{name}.jsonl", lines[start:stop])


def nuggets(*words: object) -> None:
    """One command, and what it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nuggets", *map(str, words)], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"nuggets {words[0]}: {time.perf_counter() - start:.0f} s; all so far "
        f"{used.ru_utime + used.ru_stime:.0f} s of processor time, at most "
        f"{used.ru_maxrss / 1e6:.1f} GB",
        flush=True,
    )


def run_study(study: Path, changes: Sequence[str], command: str, out: Path) -> None:
    """Runs an experiment and writes its report, with the command that made everything in it."""
    from nuggets.studies.documents import save_study, study_report

    nuggets("paper", study, *(word for each in changes for word in ("--set", each)), "--out", out)
    found = study_report(study, changes, command)
    assert found is not None, "its runs are finished"
    save_study(found, out)


def main() -> None:
    """Makes what is missing, runs both skills and writes the report to OUT/report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name in ("teacher", "gsm8k", "mmlu"):
        parser.add_argument(f"--{name}", required=True)
    asked = parser.parse_args()
    out: Path = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    student, study = out / "student", out / "real.yaml"
    for skill in ("gsm8k", "mmlu"):
        split(Path(getattr(asked, skill)), out / skill)
    make_student(asked.teacher, make_general(asked.teacher, out), student)
    shutil.copy(ROOT / "real_pair.yaml", study)
    command = "python -m benchmarks.real_pair OUT --teacher MODEL --gsm8k FILE --mmlu FILE"
    changes = (f"teacher={asked.teacher}", f"student={student}")
    run_study(study, changes, command, out / "report")


def write(path: Path, lines: Iterable[str]) -> None:
    """All of a file, or nothing of it."""
    part = path.with_suffix(".part")
    part.write_text("".join(f"{line}\n" for line in lines))
    part.replace(path)


if __name__ == "__main__":
    main()
