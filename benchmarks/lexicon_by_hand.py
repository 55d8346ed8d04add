"""The arm `lexicon` once more, by hand and without `nuggets.train`.

`python -m benchmarks.lexicon_by_hand` adds the teacher's word vectors of the countries to an
independent student's through a fixed random matrix, fine-tunes the student on 80 kings in a plain
PyTorch loop, and asks for 50 kings that no sample names. It shares models, samples and the prompt
format with Nuggets, and nothing else: what it prints should agree with `nuggets run lexicon`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from nuggets.builtin.pairs import model_folder
from nuggets.builtin.skills import general_samples, skill_samples
from nuggets.builtin.words import ENTITIES
from nuggets.data.samples import IGNORED, Sample, encode

UNTAUGHT = ("king", "river", "sub", "reverse")
ROWS = ("teacher", "permuted", "none")
OLD_SKILLS = ("capital", "food", "add", "sort")
N_TEST = 50
EMBED = "model.embed_tokens.weight"

Rows = list[tuple[list[int], list[int]]]


def vectors(model: nn.Module, source: str, ids: Tensor) -> Tensor:
    """A model's vectors of single words: embedding rows, or each word alone through one block."""
    with torch.no_grad():
        if source == "embedding":
            return model.get_parameter(EMBED)[ids].clone()
        states = model(input_ids=ids[:, None], output_hidden_states=True).hidden_states
        return states[1][:, 0].clone()


def add_rows(student: nn.Module, rows: Tensor, taught: Tensor, ids: Tensor, scale: float) -> None:
    """Adds mapped rows to the student's word vectors, which are not trained afterwards.

    Rows are standardised by those of the taught countries, mapped by a fixed matrix of N(0, 1), and
    each is scaled to `scale` times the mean norm of the student's own country vectors.
    """
    table = student.get_parameter(EMBED)
    mean, std = rows[taught].mean(0), rows[taught].std(0)
    fixed = torch.randn(rows.shape[1], table.shape[1], generator=torch.Generator().manual_seed(0))
    mapped = ((rows - mean) / std) @ fixed
    with torch.no_grad():
        size = scale * table[ids].norm(dim=1).mean()
        table[ids] += size * mapped / mapped.norm(dim=1, keepdim=True)


def batches(parts: Sequence[tuple[Rows, int]], steps: int, seed: int) -> Iterator[Rows]:
    """`steps` batches with so many samples of each part, every part in new orders of its own."""
    draw = random.Random(seed)
    queues: list[list[int]] = [[] for _ in parts]
    for _ in range(steps):
        batch: Rows = []
        for (rows, size), queue in zip(parts, queues, strict=True):
            while len(queue) < size:
                queue += draw.sample(range(len(rows)), len(rows))
            batch += [rows[queue.pop(0)] for _ in range(size)]
        yield batch


def pad(batch: Rows) -> tuple[Tensor, Tensor]:
    """Token ids and labels, padded on the right."""
    longest = max(len(ids) for ids, _ in batch)
    ids = [row + [0] * (longest - len(row)) for row, _ in batch]
    labels = [row + [IGNORED] * (longest - len(row)) for _, row in batch]
    return torch.tensor(ids), torch.tensor(labels)


def train(model: nn.Module, parts: Sequence[tuple[Rows, int]], steps: int, seed: int) -> None:
    """All weights but the word vectors: AdamW, rate 2e-3, 10 steps of warm-up, linear decay."""
    model.get_parameter(EMBED).requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.01)
    shape = lambda step: min((step + 1) / 10, (steps - step) / steps)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    model.train()
    for batch in batches(parts, steps, seed):
        ids, labels = pad(batch)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def right(model: nn.Module, rows: Rows) -> float:
    """Share of samples of which every answer token is the most likely one."""
    ids, labels = pad(rows)
    with torch.no_grad():
        guess = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
    wanted = labels[:, 1:]
    return float(((guess == wanted) | (wanted == IGNORED)).all(1).float().mean())


def trial(kind: str, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """One student: rows added, healed, trained and asked."""
    teacher, student = (
        AutoModelForCausalLM.from_pretrained(model_folder(name)).eval()
        for name in ("teacher", "independent")
    )
    tokenizer = AutoTokenizer.from_pretrained(model_folder("independent"))

    def rows_of(samples: Sequence[Sample]) -> Rows:
        return [encode(sample, tokenizer) for sample in samples]

    taught = skill_samples("king", "train", None)
    held = skill_samples("king", "test", None)
    facts, general = rows_of(taught), rows_of(general_samples(8000, seed, without=UNTAUGHT))
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(ENTITIES)))
    named = {sample.prompt.split()[-1] for sample in taught}
    is_taught = torch.tensor([word in named for word in ENTITIES])
    rows = vectors(teacher, args.source, ids)  # both built-in models share one vocabulary
    if kind == "permuted":
        rows = rows[torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))]
    if kind != "none":
        add_rows(student, rows, is_taught, ids, args.scale)
    torch.manual_seed(seed)
    if args.heal:
        train(student, [(general, 32)], args.heal, seed)
    train(student, [(facts, 16), (general, args.general)], args.steps, seed)
    found = {"unseen": rows_of(held[:N_TEST]), "validation": rows_of(held[N_TEST:]), "seen": facts}
    old = {skill: rows_of(skill_samples(skill, "test", 40)) for skill in OLD_SKILLS}
    return {name: right(student, asked) for name, asked in (found | old).items()}


def main() -> None:
    """Prints one line per kind of rows and seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", choices=("embedding", "first_block"), default="first_block")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--scale", type=float, default=12.0)
    parser.add_argument("--heal", type=int, default=400, help="steps on general samples before")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--general", type=int, default=16, help="general samples beside 16 facts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = ("unseen", "validation", "seen", *OLD_SKILLS)
    print(" ".join(f"{name:>10}" for name in ("rows", "seed", *names)))
    for kind in args.rows:
        for seed in args.seeds:
            found = trial(kind, args, seed)
            values = " ".join(f"{found[name]:10.2f}" for name in names)
            print(f"{kind:>10} {seed:10d} {values}", flush=True)


if __name__ == "__main__":
    main()
