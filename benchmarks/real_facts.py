"""Facts that no sample names, from a real teacher into two students.

`python -m benchmarks.real_facts OUT --teacher MODEL` asks the teacher for the continents of the
countries in `continents.csv` and keeps those that it knows and that are one token; trains a small
student from fresh weights on its general answers (`real_general.jsonl`), prunes another one from
it, and runs the experiment of `real_facts.yaml` on both. What is there already is not made
again: the same command goes on after a stop, and OUT may be that of `benchmarks.real_pair`.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

from benchmarks.real_general import GENERAL, write
from benchmarks.real_pair import make_student, run_study

ROOT = Path(__file__).parent
N_TAUGHT = 48
SHOWN = "Spain is in Europe. Kenya is in Africa. Japan is in Asia. Peru is in South America."
FRESH = {
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 32,
}  # fmt: skip
"""12 M parameters, of which the words are 9.4."""
STEPS, BATCH, LR = 1500, 8, 2e-3


def known(model: Any, tokenizer: Any) -> list[tuple[str, str]]:
    """Countries of one token, with their continents, that the teacher puts first of the four."""
    import torch

    with (ROOT / "continents.csv").open() as file:
        facts = [(row["country"], row["continent"]) for row in csv.DictReader(file)]
    places = sorted({continent for _, continent in facts})
    found = []
    for country, continent in facts:
        if len(tokenizer.encode(f" {country}", add_special_tokens=False)) > 1:
            continue
        start = tokenizer.encode(f"{SHOWN} {country} is in")
        texts = [tokenizer.encode(f"{SHOWN} {country} is in {place}.") for place in places]
        scores = []
        for text in texts:
            with torch.no_grad():
                said = model(torch.tensor([text])).logits[0].log_softmax(-1)
            answer = range(len(start), len(text))
            scores.append(sum(float(said[at - 1, text[at]]) for at in answer))
        if places[scores.index(max(scores))] == continent:
            found.append((country, continent))
    print(f"the teacher knows {len(found)} of {len(facts)} continents, of countries of one token")
    return found


def make_facts(teacher: str, out: Path) -> None:
    """Taught and asked samples: the known facts in a random order, the first `N_TAUGHT` taught."""
    from nuggets.models.loading import load_model, load_tokenizer
    from nuggets.models.references import parse_ref

    ref = parse_ref(teacher)
    facts = known(load_model(ref), load_tokenizer(ref))
    random.Random(0).shuffle(facts)
    rows = [
        json.dumps({"id": country, "prompt": f"Continent of {country}", "completion": continent})
        for country, continent in facts
    ]
    write(out / "asked.jsonl", rows[N_TAUGHT:])
    write(out / "taught.jsonl", rows[:N_TAUGHT])


def make_fresh(teacher: str, folder: Path) -> None:
    """A student with the teacher's tokenizer that has read the general samples and nothing else."""
    import torch
    from transformers import AutoModelForCausalLM

    from nuggets.data.jsonl import load_samples
    from nuggets.data.samples import encode_all
    from nuggets.disk.outputs import output_folder
    from nuggets.models.loading import load_model, load_tokenizer
    from nuggets.models.references import parse_ref
    from nuggets.train.config import TrainConfig
    from nuggets.train.export import save_model
    from nuggets.train.finetune import finetune

    ref = parse_ref(teacher)
    tokenizer = load_tokenizer(ref)
    config = load_model(ref).config
    config.update(FRESH)
    torch.manual_seed(0)
    student: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    training = TrainConfig(steps=STEPS, batch_size=BATCH, lr=LR, weight_decay=0.1, max_length=128)
    encoded = encode_all(load_samples(GENERAL), tokenizer, max_length=training.max_length)
    texts = [(ids, list(ids)) for ids, _ in encoded]  # the prompts are text to learn from, too
    log = finetune(student, texts, training, seed=0)
    print(f"the fresh student's loss: {log.losses[0]:.2f} to {log.losses[-1]:.2f}", flush=True)
    with output_folder(folder) as into:
        save_model(student, tokenizer, into, "A small model trained on what its teacher wrote.\n")


def main() -> None:
    """Makes what is missing, runs both students and writes the report to OUT/report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", required=True)
    asked = parser.parse_args()
    out: Path = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "taught.jsonl").exists():
        make_facts(asked.teacher, out)
    if not (out / "fresh").exists():
        make_fresh(asked.teacher, out / "fresh")
    make_student(asked.teacher, out / "student")
    shutil.copy(GENERAL, out)
    study = out / "facts.yaml"
    shutil.copy(ROOT / "real_facts.yaml", study)
    command = "python -m benchmarks.real_facts OUT --teacher MODEL"
    run_study(study, [f"teacher={asked.teacher}"], command, out / "report")


if __name__ == "__main__":
    main()
