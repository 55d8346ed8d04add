"""A transfer between a real teacher and a student pruned from it, with every control.

`python -m benchmarks.real_pair OUT SKILL --teacher MODEL --gsm8k FILE --mmlu FILE` prunes a student
of 38 M parameters, fine-tunes it on what the teacher wrote (`real_general.jsonl`), and runs the
experiment of `real_pair.yaml` on one of the two skills; the other one is its location control.
Files hold samples as `nuggets samples` reads them, at least 292 different ones each. What is there
already is not made again: the same command goes on after a stop. Takes hours; says the processor
time and the peak of memory of every step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.real_general import GENERAL, write
from nuggets.data.shapes import read_conversation

ROOT = Path(__file__).parent
SIZES = ("--layers", "12", "--width", "384", "--ffn", "1024", "--kv-heads", "2")
HEALING = ("--heal-steps", "600", "--heal-batch-size", "8", "--heal-lr", "1e-3")
SKILLS = ("gsm8k", "mmlu")
N_SEEDS, N_TRAIN, N_TEST = 32, 180, 80


def make_student(teacher: str, folder: Path) -> None:
    """A student pruned from the teacher and fine-tuned on the general samples."""
    if not folder.exists():
        seeds = ("--seed-samples", GENERAL, "--heal", GENERAL)
        nuggets("cut", teacher, *SIZES, *seeds, *HEALING, "--out", folder)


def split(source: Path, folder: Path) -> None:
    """Seed, training and test samples of a skill, by their place in its file; none comes twice."""
    lines = distinct(source)
    ends = (0, N_SEEDS, N_SEEDS + N_TRAIN, N_SEEDS + N_TRAIN + N_TEST)
    if len(lines) < ends[-1]:
        sys.exit(f"{source} has {len(lines)} different samples; {ends[-1]} are needed.")
    folder.mkdir(exist_ok=True)
    for name, start, stop in zip(("seeds", "train", "test"), ends, ends[1:], strict=False):
        write(folder / f"{name}.jsonl", lines[start:stop])


def distinct(source: Path) -> list[str]:
    """A file's samples, without those whose prompt an earlier one has, whatever their answers."""
    first: dict[object, str] = {}
    for number, line in enumerate(source.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
            messages, _, _ = read_conversation(record)
        except ValueError as problem:
            sys.exit(f"{source}, line {number}, is not a sample: {problem}.")
        first.setdefault(tuple((m.role, m.content.strip()) for m in messages[:-1]), line)
    return list(first.values())


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


def write_study(skill: str, out: Path) -> Path:
    """The experiment on one skill."""
    study = yaml.safe_load((ROOT / "real_pair.yaml").read_text())
    study["name"] = f"real_{skill}"
    study["title"] += f" ({skill.upper()})"
    study["runs"] = [run for run in study["runs"] if run["name"] == skill]
    path = out / f"real_{skill}.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def main() -> None:
    """Makes what is missing, runs a skill and writes the report to OUT/report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("skill", choices=SKILLS)
    for name in ("teacher", *SKILLS):
        parser.add_argument(f"--{name}", required=True)
    asked = parser.parse_args()
    out: Path = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for skill in SKILLS:
        split(Path(getattr(asked, skill)), out / skill)
    make_student(asked.teacher, out / "student")
    study = write_study(asked.skill, out)
    command = (
        f"python -m benchmarks.real_pair OUT {asked.skill} --teacher MODEL --gsm8k FILE --mmlu FILE"
    )
    changes = (f"teacher={asked.teacher}", f"student={out / 'student'}")
    run_study(study, changes, command, out / "report")


if __name__ == "__main__":
    main()
