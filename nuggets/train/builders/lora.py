"""How arms turn a lab into something to train. The torch side of `nuggets.train.arms.family`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from nuggets.compute.svd import LowRankFactors
from nuggets.data.samples import Message, Sample
from nuggets.errors import BadInput
from nuggets.evaluation.answers import greedy_answers
from nuggets.extraction.adapter import add_lora, inject
from nuggets.models.forward import evaluation
from nuggets.train.flops import answering_flops
from nuggets.train.lab import Lab, Trainee
from nuggets.train.losses import DistillationLoss
from nuggets.train.randomness import seeded

LABEL_BATCH = 128
"""Prompts that the teacher answers at once."""


def with_lora(lab: Lab, seed: int, **options: Any) -> Trainee:
    """The student with a LoRA on the plan's matrices; `options` reach PEFT."""
    encoded = lab.training(seed)
    with seeded(seed, lab.device):
        model = add_lora(lab.fresh_student(), lab.ranks(), lab.lora, **options)
    return Trainee(model, encoded, n_samples=len(encoded))


def injected(lab: Lab, seed: int, factors: Mapping[str, LowRankFactors]) -> Trainee:
    """The student with a LoRA that starts from factors, on a function-preserving base."""
    encoded = lab.training(seed)
    with seeded(seed, lab.device):
        model = inject(lab.fresh_student(), factors, lab.lora, lab.ranks())
    note = lab.plan().plain_sentence
    return Trainee(model, encoded, initial=factors, n_samples=len(encoded), note=note)


def distilled(lab: Lab, seed: int) -> Trainee:
    """A plain LoRA that is trained to imitate the teacher on the same samples.

    Raises:
        BadInput: if the tokenizers differ.
    """
    theirs = lab.teacher_tokenizer
    if theirs is not None and theirs.get_vocab() != lab.tokenizer.get_vocab():
        raise BadInput(
            f"Distillation compares token distributions, but the two tokenizers differ: "
            f"{len(theirs)} tokens in the teacher and {len(lab.tokenizer)} in the student. Remove "
            "the arm distill; teacher_labels works with any two tokenizers."
        )
    # Rows beyond the words are padding, and two models of one tokenizer may have more or fewer.
    rows = lab.teacher_spec.vocab_size, lab.student_spec.vocab_size
    n_words = 1 + max(lab.tokenizer.get_vocab().values())
    n_words = None if rows[0] == rows[1] else min(*rows, n_words)
    plain = with_lora(lab, seed)
    return Trainee(
        plain.model,
        plain.encoded,
        loss=DistillationLoss(lab.teacher, n_words),
        n_samples=plain.n_samples,
    )


def with_teacher_labels(lab: Lab, seed: int, n: int) -> Trainee:
    """A plain LoRA on the training samples and on prompts that the teacher answered.

    Sequence-level distillation (Kim & Rush 2016, arXiv 1606.07947) with greedy answers.

    Raises:
        BadInput: if the teacher finishes no answer.
    """
    start = time.monotonic()
    prompts = lab.extra_prompts(n, seed)
    with evaluation(lab.teacher):
        (answers,) = greedy_answers(
            lab.teacher,
            lab.teacher_tokenizer or lab.tokenizer,
            prompts,
            LABEL_BATCH,
            lab.device,
            lab.workspace.progress,
            lab.format,
        )
    # An answer that did not end would teach the student to end in mid-sentence.
    labelled = [_answered(p, a.text) for p, a in zip(prompts, answers, strict=True) if a.finished]
    if not labelled:
        raise BadInput(
            f"The teacher finished none of its {len(prompts)} answers within the token limit, so "
            "the arm teacher_labels would be plain LoRA. Remove the arm, or choose a teacher "
            "that knows the task."
        )
    cut = len(prompts) - len(labelled)
    seconds = time.monotonic() - start
    plain, written = with_lora(lab, seed), lab.encode(labelled)
    flops = answering_flops(lab.teacher, written, lab.device, lab.once)
    note = f"The teacher answered {len(labelled)} extra prompts."
    if cut:
        note += f" {cut} more answers were not finished and were left out."
    return Trainee(
        plain.model,
        plain.encoded + written,
        n_samples=plain.n_samples + len(prompts),
        seconds=seconds,
        flops=flops * len(prompts) / len(written),
        note=note,
    )


def _answered(sample: Sample, text: str) -> Sample:
    last = Message(role="assistant", content=text)
    return sample.model_copy(update={"messages": (*sample.messages[:-1], last)})


def fully_trainable(lab: Lab, seed: int) -> Trainee:
    """A copy of the student with every weight trainable."""
    encoded = lab.training(seed)
    model = lab.fresh_student()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return Trainee(model, encoded, n_samples=len(encoded))
