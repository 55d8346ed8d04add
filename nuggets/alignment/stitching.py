"""Stitching: the student's lower part, a linear map, and the teacher's upper part as one model.

Bansal, Nakkiran & Barak 2021 ("Revisiting model stitching"); here the map is fitted on states by
ridge regression, without training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from nuggets.alignment.linear_maps import PENALTY, ridge_map
from nuggets.alignment.states import Batch, check_samples, make_batches, record_states
from nuggets.data.samples import IGNORED, Encoded
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import (
    blocks_of,
    decoder_of,
    evaluation,
    reading_states,
    replaced_forward,
)
from nuggets.progress import Progress

Maps = dict[tuple[int, int], tuple[Tensor, Tensor]]
"""`(teacher layer, student layer)` → float32 weight `[student hidden, teacher hidden]` and bias."""
AT_ONCE = 1024
"""Answer positions whose logits are in memory together."""


def stitching_accuracy(
    student: nn.Module,
    student_spec: ArchSpec,
    teacher: nn.Module,
    teacher_spec: ArchSpec,
    maps: Maps,
    test: Sequence[Encoded],
    progress: Progress | None = None,
) -> Float[ndarray, "teacher_layers student_layers"]:
    """Accuracy of student-up-to-block-j, linear map, teacher-after-block-i, for every map (i, j).

    A map takes the states after student block j to those after teacher block i. It is applied
    at every position, since the teacher's attention looks back at the question. Fitted on answer
    positions it is best in the late rows, which need little else: .97 in the last cell over the
    skills that both models of the independent pair know, against .88 when fitted everywhere (an
    untrained student: at most .09). The early rows still read the question through a map not
    made for it, and score low; read the late ones.

    Args:
        student: gives the states; on the teacher's device.
        student_spec: its dimensions.
        teacher: continues from the mapped states.
        teacher_spec: its dimensions.
        maps: of `fit_maps`, fitted on other samples of the skill.
        test: samples of the skill.
        progress: asked for a cancel before every batch of every cell.

    Returns:
        Share of test samples whose answer tokens, the end of sequence included, are all the
        stitched model's first choice given the right ones before; NaN where there is no map.
    """
    device = next(student.parameters()).device
    maps = {cell: (w.to(device), b.to(device)) for cell, (w, b) in maps.items()}
    check_samples(test, teacher_spec)
    # Counts of samples answered right; NaN stays where nothing is measured, and divides to NaN.
    right = np.full((teacher_spec.n_layers, student_spec.n_layers), np.nan)
    right[tuple(zip(*maps, strict=True))] = 0.0
    with evaluation(student), evaluation(teacher):
        for batch in make_batches(test, student):
            # The student runs once per batch; every cell starts from its recorded states.
            with record_states(student, student_spec) as states:
                decoder_of(student, student_spec)(input_ids=batch.ids, use_cache=False)
            for (i, j), stitched in _stitched(teacher, teacher_spec, batch, states, maps, progress):
                right[i, j] += _n_right(stitched, batch)
    return right / len(test)


def _stitched(
    teacher: nn.Module,
    spec: ArchSpec,
    batch: Batch,
    states: Sequence[Tensor],
    maps: Maps,
    progress: Progress | None,
) -> Iterator[tuple[tuple[int, int], Float[Tensor, "answers vocab"]]]:
    """The answers' logits of every stitched model, one after another."""
    for (i, j), (weight, bias) in maps.items():
        if progress is not None:
            progress.check_cancelled()
        # j + 1, since entry 0 is what enters the first block: [b, t, student] → [b, t, teacher].
        mapped = states[j + 1].float() @ weight + bias
        yield (i, j), stitched_logits(teacher, spec, batch, i, mapped)


def fit_maps(
    teacher_states: Float[ndarray, "teacher_layers n p"],
    student_states: Float[ndarray, "student_layers n q"],
    rows: Sequence[int],
    columns: Sequence[int],
    penalty: float = PENALTY,
) -> Maps:
    """Ridge maps from chosen student layers to chosen teacher layers, on states of one skill."""
    # Teacher layers side by side are one target [n, rows · p].
    targets = np.concatenate([teacher_states[i] for i in rows], axis=1)
    maps: Maps = {}
    for j in columns:
        # One factorisation per student layer serves all teacher layers.
        weight, bias = ridge_map(student_states[j], targets, penalty)
        weights, biases = np.split(weight, len(rows), axis=1), np.split(bias, len(rows))
        for i, w, b in zip(rows, weights, biases, strict=True):
            maps[i, j] = (torch.from_numpy(w).float(), torch.from_numpy(b).float())
    return maps


def exact_match(
    model: nn.Module, spec: ArchSpec, samples: Sequence[Encoded], last: Float[ndarray, "n hidden"]
) -> float:
    """Share of samples that the whole model answers rightly under teacher forcing.

    Args:
        model: a causal language model.
        spec: its dimensions.
        samples: `(input_ids, labels)` each.
        last: the states after its last block at their answer positions, of `collect_states`.
    """
    like = next(model.parameters())
    best: list[Tensor] = []
    with evaluation(model):
        for states in torch.from_numpy(last).to(like).split(AT_ONCE):
            ids = torch.zeros(1, len(states), dtype=torch.long, device=like.device)
            with reading_states(model, spec, states[None]):
                best.append(model(input_ids=ids, use_cache=False).logits[0].argmax(-1).cpu())
    answers = [[label for label in labels[1:] if label != IGNORED] for _, labels in samples]
    targets = torch.tensor([label for answer in answers for label in answer])
    hits = (torch.cat(best) == targets).split([len(answer) for answer in answers])
    return sum(bool(answer.all()) for answer in hits) / len(samples)


def stitched_logits(
    model: nn.Module,
    spec: ArchSpec,
    batch: Batch,
    layer: int = -1,
    states: Float[Tensor, "b t d"] | None = None,
) -> Float[Tensor, "answers vocab"]:
    """Logits at the answer positions, as if block `layer` had put out `states`.

    The model's own forward stays in charge (masks, positions, final norm); only the blocks up to
    `layer` are made to return the given states, so they cost nothing. −1 replaces nothing.
    """
    replaced = blocks_of(model, spec)[: layer + 1]
    head = model.get_submodule(spec.architecture.head)

    # The vocabulary can be large and answers short: the head sees answer positions only.
    def at_answers(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (args[0][batch.answers],)  # [b, t, d] → [answers, d]

    given = None if states is None else states.to(next(model.parameters()).dtype)
    handle = head.register_forward_pre_hook(at_answers)
    try:
        with replaced_forward(replaced, lambda *_, **__: given):
            return model(input_ids=batch.ids, use_cache=False).logits
    finally:
        handle.remove()


def _n_right(logits: Float[Tensor, "answers vocab"], batch: Batch) -> int:
    # A sample is right if every one of its answer tokens is: under teacher forcing that is what
    # greedy decoding would have to write, token by token.
    hits = logits.argmax(-1) == batch.targets
    return sum(bool(sample.all()) for sample in hits.split(batch.counts))
