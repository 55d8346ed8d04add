"""How the arm `lexicon` is built: the teacher's word vectors, mapped and added to the student's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nuggets.alignment.linear_maps import ridge_map
from nuggets.alignment.words import differing, prompt_of
from nuggets.compute.svd import LowRankFactors
from nuggets.data.samples import IGNORED, Encoded
from nuggets.errors import BadInput
from nuggets.extraction.adapter import add_lora, untie
from nuggets.train.checkpoints import TrainLog
from nuggets.train.config import TrainConfig
from nuggets.train.flops import training_flops
from nuggets.train.lab import Lab, Trainee
from nuggets.train.randomness import generator, seeded
from nuggets.train.schedule import count_steps

if TYPE_CHECKING:
    from nuggets.train.arms.lexicon import Lexicon

PENALTY = 1.0
"""Ridge penalty of the supervised map: there are fewer training samples than dimensions."""


@dataclass(frozen=True)
class Words:
    """Words that both models have, by their text.

    Attributes:
        student: ids of those that get rows, in ascending order.
        teacher: their ids in the teacher.
        others: `(student, teacher)` ids of all other words that both models have.
        left_out: how many should get rows, but are no words of the teacher.
    """

    student: list[int]
    teacher: list[int]
    others: list[tuple[int, int]]
    left_out: int


def with_lexicon(lab: Lab, seed: int, arm: Lexicon) -> Trainee:
    """The student with the teacher's rows added, and general samples among the training samples.

    `e_w ← e_w + scale · ē · u_w`, where u_w is the teacher's standardised and mapped vector of the
    word w, of norm 1, and ē the mean norm of the student's own vectors of these words.

    Raises:
        BadInput: if the two vocabularies share none of the words.
    """
    words = words_of(lab, seed, arm)
    rows = None if arm.control == "no_rows" else mapped_rows(lab, seed, arm, words)
    model, embed = lab.fresh_student(), lab.student_spec.module("embed")
    untie(model, [embed])  # what is added to a word's vector must not change how it is said
    table = model.get_submodule(embed).weight
    added = torch.zeros_like(table)
    if rows is not None:
        size = table.detach()[words.student].norm(dim=1).mean()
        added[words.student] = arm.scale * size * _unit(rows).to(added)
    with torch.no_grad():
        table.add_(added)
    initial = {}
    if arm.trained == "lora":
        with seeded(seed, lab.device):
            model = add_lora(model, lab.ranks(), lab.lora)
        initial = {embed: _as_factors(added, lab.lora.scale(lab.ranks()[embed]))}
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(arm.trained == "all" or name != f"{embed}.weight")
    general = _general(lab, seed, arm)
    healing, flops = _heal(lab, seed, arm, model, general)
    facts = lab.training(seed)
    total = count_steps(lab.train, len(facts)) * lab.train.batch_size
    n_general = round(arm.general * total)
    drawn = min(len(general), n_general + arm.heal_steps * lab.train.batch_size)
    return Trainee(
        model,
        mixed(facts, general, total - n_general, n_general),
        initial=initial,
        n_samples=len(facts) + drawn,
        seconds=healing.seconds,
        flops=flops,
        note=_note(arm, words, drawn),
    )


def words_of(lab: Lab, seed: int, arm: Lexicon) -> Words:
    """Which words get rows, matched by their text.

    Raises:
        BadInput: if the two vocabularies share none of them.
    """
    ours = lab.tokenizer.get_vocab()
    theirs = (lab.teacher_tokenizer or lab.tokenizer).get_vocab()
    shared = {i: theirs[text] for text, i in ours.items() if text in theirs}
    wanted = sorted(_task_words(lab, seed) if arm.words == "task" else shared)
    chosen = [i for i in wanted if i in shared]
    if not chosen:
        raise BadInput(
            f"The arm {arm.name} finds none of the {len(wanted)} words of the task in the "
            "teacher's vocabulary. Set its words to shared, or choose a teacher with the student's "
            "tokenizer."
        )
    others = [pair for pair in sorted(shared.items()) if pair[0] not in set(chosen)]
    return Words(chosen, [shared[i] for i in chosen], others, len(wanted) - len(chosen))


def _task_words(lab: Lab, seed: int) -> set[int]:
    """The words in which the task's questions differ, those of validation and test included."""
    asked = lab.encode(list(lab.questions))
    return differing([prompt_of(sample) for sample in [*lab.training(seed), *asked]])


def mapped_rows(
    lab: Lab, seed: int, arm: Lexicon, words: Words
) -> Float[Tensor, "words hidden_student"]:
    """What is added to the chosen words, up to the norm of each row; float32.

    A map is fitted on other words than those it is applied to (`ridge`), on the training samples
    (`supervised`), or on nothing (`random`).
    """
    blocks = {"embedding": 0, "first_block": 1}[arm.source]
    if arm.control == "late_blocks":
        blocks = lab.teacher_spec.n_layers
    n = len(words.teacher)
    others = [teacher for _, teacher in words.others] if arm.map == "ridge" else []
    vectors = lab.words([*words.teacher, *others], blocks)
    own = controlled(vectors[:n], arm, seed)
    mean, std = own.mean(0), own.std(0, correction=0).clamp_min(1e-6)
    rows = (own - mean) / std
    if arm.map == "ridge":
        # Where all words get rows, they are all that there is to fit on.
        fitted, ids = (
            (vectors[n:], [i for i, _ in words.others]) if others else (own, words.student)
        )
        table = lab.student.get_submodule(lab.student_spec.module("embed")).weight
        targets = table.detach()[ids].float().cpu().numpy()
        weight, _ = ridge_map(((fitted - mean) / std).numpy(), targets)
        return rows @ torch.from_numpy(weight).float()
    if arm.map == "supervised":
        rows = _towards_answers(lab, seed, rows, words)
    return rows @ random_map(rows.shape[1], lab.student_spec.hidden_size, seed)


def random_map(rows: int, columns: int, seed: int) -> Float[Tensor, "rows columns"]:
    """A random matrix whose shorter side is orthonormal: it keeps distances as its width allows."""
    draw = torch.randn(max(rows, columns), min(rows, columns), generator=generator(seed, "lexicon"))
    q = torch.linalg.qr(draw)[0]
    return q if rows >= columns else q.T


def controlled(
    vectors: Float[Tensor, "words hidden"], arm: Lexicon, seed: int
) -> Float[Tensor, "words hidden"]:
    """The teacher's vectors, or what a content control puts in their place."""
    draw = generator(seed, f"lexicon {arm.control}")
    if arm.control == "permuted":
        return vectors[torch.randperm(len(vectors), generator=draw)]
    if arm.control == "noise":
        # Random mixtures of the centred rows: normal, with their mean and covariance.
        mean = vectors.mean(0)
        mixture = torch.randn(len(vectors), len(vectors), generator=draw)
        return mean + mixture @ (vectors - mean) / max(1, len(vectors) - 1) ** 0.5
    return vectors


def _towards_answers(
    lab: Lab, seed: int, rows: Float[Tensor, "words hidden"], words: Words
) -> Float[Tensor, "words answers"]:
    """How much of each answer token a ridge regression on the training samples sees in a word."""
    place = {token: index for index, token in enumerate(words.student)}
    questions, answers = [], []
    for sample in lab.training(seed):
        if named := sorted(place[token] for token in prompt_of(sample) if token in place):
            questions.append(rows[named].mean(0))
            answers.append([label for label in sample[1] if label != IGNORED])
    said = sorted({token for answer in answers for token in answer})
    counts = np.zeros((len(answers), len(said)))
    for line, answer in zip(counts, answers, strict=True):
        for token in answer:
            line[said.index(token)] += 1
    weight, _ = ridge_map(torch.stack(questions).numpy(), counts, PENALTY)
    return rows @ torch.from_numpy(weight).float()


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _as_factors(added: Float[Tensor, "vocab hidden"], scale: float) -> LowRankFactors:
    """Rows as what an export stacks on a LoRA of the embedding: it adds `−scale · B·A`."""
    width = added.shape[1]
    b = -torch.eye(width, device=added.device) / scale
    return LowRankFactors(added.T.float(), b, torch.ones(width), 1.0)


def _general(lab: Lab, seed: int, arm: Lexicon) -> list[Encoded]:
    if not arm.needs_general:
        return []
    key = ("lexicon", arm.general_samples, seed, lab.general_samples, lab.train.max_length)
    return lab.once(key, lambda: lab.encode(lab.general_samples(arm.general_samples, seed)))


def mixed(
    facts: Sequence[Encoded], general: Sequence[Encoded], n_facts: int, n_general: int
) -> list[Encoded]:
    """So many of each, in turn and as often as it takes; all steps of a training are one epoch."""
    if not n_general:
        return list(facts)
    return [*islice(cycle(facts), n_facts), *islice(cycle(general), n_general)]


def _heal(
    lab: Lab, seed: int, arm: Lexicon, model: Any, general: Sequence[Encoded]
) -> tuple[TrainLog, float]:
    """Trains what the arm trains on general samples alone, in place; also its FLOPs."""
    if not arm.heal_steps:
        return TrainLog(), 0.0
    from nuggets.train.finetune import finetune  # Trainer imports what small models never need

    config = TrainConfig(
        steps=arm.heal_steps,
        batch_size=lab.train.batch_size,
        lr=arm.heal_lr,
        checkpoint_every=lab.train.checkpoint_every,
        max_length=lab.train.max_length,
    )
    flops = training_flops(model, general, config, seed, None, lab.device, lab.once)
    work = lab.workspace
    folder = work.folder and work.folder / "healing"
    options: dict[str, Any] = {"device": lab.device, "progress": work.progress, "bf16": lab.bf16}
    return finetune(model, general, config, seed, folder, **options), flops


def _note(arm: Lexicon, words: Words, drawn: int) -> str:
    """What was added and what it cost beside the task's samples."""
    what = {
        None: f"Added the teacher's vectors of {len(words.student)} words",
        "no_rows": "Added nothing to the word vectors",
        "permuted": f"Added the teacher's vectors of {len(words.student)} words, permuted",
        "noise": f"Added noise to the vectors of {len(words.student)} words",
        "late_blocks": f"Added the teacher's last states of {len(words.student)} words",
    }[arm.control]
    how = f" ({arm.source.replace('_', ' ')}, {arm.map} map, scale {arm.scale:g})"
    lacking = f" The teacher lacks {words.left_out} more." if words.left_out else ""
    healing = f", {arm.heal_steps} steps of healing before" if arm.heal_steps else ""
    share = f"{arm.general:.0%} general samples in the batches ({drawn} different ones)"
    return (
        f"{what}{'' if arm.control == 'no_rows' else how}.{lacking} Trained with {share}{healing}."
    )
