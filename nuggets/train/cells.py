"""One cell of a transfer: one arm with one seed, built, trained and measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from nuggets.data.samples import IGNORED, Sample
from nuggets.errors import NonFinite
from nuggets.evaluation.outcomes import Metric, Outcomes, evaluate
from nuggets.extraction.adapter import save_adapter, stack_factors
from nuggets.frozen import Frozen
from nuggets.models.forward import answer_logits, evaluation, pad_right
from nuggets.progress import Progress, with_metrics
from nuggets.statistics.cells import CellOutcome, Learned, Trial
from nuggets.train.arms.family import Arm
from nuggets.train.checkpoints import TrainLog, trainable
from nuggets.train.config import TrainConfig
from nuggets.train.export import save_model
from nuggets.train.flops import training_flops
from nuggets.train.lab import Lab, Trainee, Workspace
from nuggets.train.losses import DistillationLoss
from nuggets.train.schedule import count_steps
from nuggets.train.tuning import best_trial

EVALUATION_BATCHES = 4
"""Training batches that fit into one evaluation batch: there are no gradients."""
PROBED = 4
"""Items on which the identity at step 0 is measured."""
LEARNED_ITEMS = 80
"""Training items, at most, that are asked again after training."""
LEARNED_METRICS: tuple[Metric, ...] = ("exact_match", "loss")


class CellRecord(Frozen):
    """Everything about a cell but its weights.

    Attributes:
        outcome: what the report counts.
        step0_difference: largest absolute logit difference to the student before training,
            over a few items; None for arms that do not start from the student.
        losses: training loss of every step.
        answers: greedy answer per item, when asked for.
        note: what the user should know, one sentence.
        peak_memory: largest memory in bytes on a GPU while training; None elsewhere.
    """

    outcome: CellOutcome
    step0_difference: float | None
    losses: list[float] = Field(default_factory=list)
    answers: list[str] = Field(default_factory=list)
    note: str = ""
    peak_memory: int | None = None


@dataclass(frozen=True, eq=False)
class CellResult:
    """A finished cell: its record, and the trained model."""

    record: CellRecord
    trainee: Trainee
    lab: Lab

    def save_weights(self, folder: Path, base: str, card: str) -> None:
        """Writes what was trained into an existing folder.

        An adapter of the untouched student where there is one (rank 2r if the arm changed its
        base), otherwise a whole model.

        Args:
            folder: an existing folder.
            base: name or path of the untouched student.
            card: text of the model card.
        """
        lab, trainee = self.lab, self.trainee
        if not trainee.is_adapter:
            save_model(trainee.model, lab.tokenizer, folder, card)
            return
        weights = stack_factors(trainee.factors(), trainee.initial)
        scales = {name: lab.lora.scale(rank) for name, rank in lab.ranks().items()}
        card += f"\n{lab.plan().plain_sentence}\n" if lab.plan().plain else ""
        save_adapter(folder, weights, scales, lab.student_spec, base, card)


def run_cell(
    lab: Lab,
    arm: Arm,
    seed: int,
    folder: Path | None = None,
    *,
    test: Sequence[Sample],
    validation: Sequence[Sample] = (),
    old_skills: Mapping[str, Sequence[Sample]] | None = None,
    metrics: Sequence[Metric] = ("exact_match", "loss"),
    answers: bool = False,
    progress: Progress | None = None,
) -> CellResult:
    """Builds one arm with one seed, trains it and measures it item by item.

    With several learning rates (`lab.train.rates`) it is trained at each from the same start, and
    the one that does best on the validation items is kept.

    Args:
        lab: models, map, data and settings.
        arm: what is compared.
        seed: of samples, initialisation and order.
        folder: for checkpoints, with which a call with the same arguments resumes; may be deleted
            afterwards. None for none.
        test: items that the report counts.
        validation: items on which rates are chosen; needed for several rates.
        old_skills: skill → items that show what was forgotten, by exact match.
        metrics: what is measured on the test items; the first makes the learning curve.
        answers: also keep what the trained model writes.
        progress: receives events and can cancel.

    Raises:
        BadInput: if the pair or the data cannot serve the arm.
        NonFinite: if training, at every rate, or evaluation went to NaN or infinity.
        Cancelled: on request.
    """
    student_logits(lab, test)  # now, since the arm may take the student and change it
    trainee = arm.build(replace(lab, workspace=Workspace(folder, progress)), seed)
    difference = step0_difference(lab, trainee, test)
    if progress is not None:
        progress.metric(step0=difference)
    flops = count_flops(lab, trainee, shared_config(lab, seed), seed)
    _forget_peak(lab.device)
    config, log, trials = _train_at_rates(
        lab, arm.name, trainee, seed, folder, test, validation, metrics[0], progress
    )
    learned = measure_learned(lab, trainee.model, seed, progress)
    measured = measure(lab, trainee.model, test, metrics, progress, answers)
    kept = {
        skill: measure(lab, trainee.model, items, ("exact_match",), progress)
        for skill, items in (old_skills or {}).items()
    }
    record = record_cell(
        arm, seed, trainee, config, log, trials, learned, measured, kept, difference, flops
    )
    record = record.model_copy(update={"peak_memory": _peak_memory(lab.device)})
    return CellResult(record, trainee, lab)


def record_cell(
    arm: Arm,
    seed: int,
    trainee: Trainee,
    config: TrainConfig,
    log: TrainLog,
    trials: Sequence[Trial],
    learned: Learned | None,
    measured: Outcomes,
    kept: Mapping[str, Outcomes],
    difference: float | None,
    flops: float,
) -> CellRecord:
    """Everything about a trained and measured cell but its weights."""
    outcome = CellOutcome(
        arm=arm.name,
        role=arm.role,
        seed=seed,
        items=measured.items,
        outcomes=measured.values,
        old_skills={skill: found.values["exact_match"] for skill, found in kept.items()},
        curve=log.curve,
        seconds=log.seconds + trainee.seconds,
        trainable_parameters=_count(trainee),
        learning_rate=config.lr if trainee.trains else None,
        trials=list(trials),
        learned=learned,
        samples=trainee.n_samples,
        steps=config.steps if trainee.trains else 0,
        flops=flops,
    )
    return CellRecord(
        outcome=outcome,
        step0_difference=difference,
        losses=log.losses,
        answers=measured.answers,
        note=trainee.note,
    )


def _train_at_rates(
    lab: Lab,
    name: str,
    trainee: Trainee,
    seed: int,
    folder: Path | None,
    test: Sequence[Sample],
    validation: Sequence[Sample],
    metric: Metric,
    progress: Progress | None,
) -> tuple[TrainConfig, TrainLog, list[Trial]]:
    """Trains at every rate; leaves the trainee as the kept one made it."""
    rates = lab.train.rates
    if len(rates) == 1 or not trainee.trains:
        config = shared_config(lab, seed, rates[0])
        return config, train_cell(lab, trainee, config, seed, folder, test, metric, progress), []
    start, kept = _copy_trainable(trainee.model), None
    trials: list[Trial] = []
    for lr in rates:
        _set_trainable(trainee.model, start)
        config, place = shared_config(lab, seed, lr), folder and folder / f"lr-{lr:g}"
        own = with_metrics(progress, lr == rates[len(rates) // 2])
        try:
            log = train_cell(lab, trainee, config, seed, place, test, metric, own)
            found = measure(lab, trainee.model, validation, (metric, "loss"), own)
        except NonFinite:
            trials.append(Trial(lr=lr, value=None, loss=None))
            continue
        value, loss = found.mean(metric), found.mean("loss")
        trials.append(Trial(lr=lr, value=value, loss=loss, seconds=log.seconds))
        if best_trial(trials, metric, name) is trials[-1]:
            kept = config, log, _copy_trainable(trainee.model)
    best_trial(trials, metric, name)  # says so if every rate diverged
    assert kept is not None
    _set_trainable(trainee.model, kept[2])
    return kept[0], kept[1], trials


def _copy_trainable(model: Any) -> dict[str, torch.Tensor]:
    """What training changes, in main memory: a GPU has room for one."""
    return {name: p.detach().to("cpu", copy=True) for name, p in trainable(model).items()}


def _set_trainable(model: Any, values: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(values[name])


def measure_learned(
    lab: Lab, model: Any, seed: int, progress: Progress | None = None
) -> Learned | None:
    """What a model can say of its seed's training items; None if all of them are cut."""
    samples, guessing = learned_items(lab, seed)
    if not samples:
        return None
    return learned_of(measure(lab, model, samples, LEARNED_METRICS, progress), guessing)


def learned_items(lab: Lab, seed: int) -> tuple[list[Sample], float]:
    """Training items of a seed that are not cut, and the loss of guessing their answer tokens."""
    pairs = zip(lab.train_samples(seed), lab.training(seed), strict=True)
    whole = [(sample, labels) for sample, (ids, labels) in pairs if len(ids) < lab.train.max_length]
    chosen = whole[:LEARNED_ITEMS]
    answers = [[token for token in labels if token != IGNORED] for _, labels in chosen]
    return [sample for sample, _ in chosen], guessing_loss(answers)


def guessing_loss(answers: Sequence[Sequence[int]]) -> float:
    """Loss per answer token, averaged over items as `loss` is, of one who knows the frequencies."""
    counts = Counter(token for answer in answers for token in answer)
    total = sum(counts.values())
    of_item = [sum(-math.log(counts[t] / total) for t in own) / len(own) for own in answers]
    return sum(of_item) / max(len(of_item), 1)


def learned_of(found: Outcomes, guessing: float) -> Learned:
    """The record of what was measured on training items."""
    exact, loss = found.mean("exact_match"), found.mean("loss")
    return Learned(exact_match=exact, loss=loss, guessing=guessing, n=len(found.items))


def train_cell(
    lab: Lab,
    trainee: Trainee,
    config: TrainConfig,
    seed: int,
    folder: Path | None,
    test: Sequence[Sample],
    metric: Metric,
    progress: Progress | None = None,
) -> TrainLog:
    """Trains what an arm built; the learning curve is left out where there are no test items.

    An arm that does not train gets the one point of its curve.
    """

    def point(step: int) -> float:
        return measure(lab, trainee.model, test, (metric,), None).mean(metric)

    if not trainee.trains:
        return TrainLog(curve=[(0, point(0))])
    helpers = lab.helpers
    if helpers and not (trainee.loss is None or isinstance(trainee.loss, DistillationLoss)):
        helpers = ()  # shares of a batch are weighted by the answer tokens that losses are means of
        if progress is not None:
            progress.log(
                "This arm is trained by one process, because its loss is not a mean "
                "over answer tokens."
            )
    from nuggets.train.finetune import finetune  # Trainer imports what small models never need

    return finetune(
        trainee.model,
        trainee.encoded,
        config,
        seed,
        folder and folder / "training",
        device=lab.device,
        progress=progress,
        on_evaluate=point if test else None,
        loss=trainee.loss,
        bf16=lab.bf16,
        helpers=helpers,
    )


def measure(
    lab: Lab,
    model: Any,
    samples: Sequence[Sample],
    metrics: Sequence[Metric],
    progress: Progress | None,
    answers: bool = False,
) -> Outcomes:
    """Evaluates a model with the lab's tokenizer, device and lengths."""
    return evaluate(
        model,
        lab.tokenizer,
        samples,
        metrics,
        batch_size=EVALUATION_BATCHES * lab.train.batch_size,
        device=lab.device,
        progress=progress,
        max_length=lab.train.max_length,
        answers=answers,
        format=lab.format,
    )


def step0_difference(lab: Lab, trainee: Trainee, samples: Sequence[Sample]) -> float | None:
    """Largest absolute logit difference between an arm before training and the student.

    None for an arm that does not start from the student. The other arms promise a function that
    is unchanged at step 0 (section 3.4 of the paper).
    """
    if trainee.own_base:
        return None
    batch = pad_right(lab.encode(list(samples[:PROBED])), lab.device)
    with evaluation(trainee.model):
        ours = answer_logits(trainee.model, *batch)[0]
    return float((ours - student_logits(lab, samples)).abs().max())


def student_logits(lab: Lab, samples: Sequence[Sample]) -> torch.Tensor:
    """The untouched student's logits where the identity at step 0 is measured; made once."""
    encoded = lab.encode(list(samples[:PROBED]))

    def make() -> torch.Tensor:
        with evaluation(lab.student):
            return answer_logits(lab.student, *pad_right(encoded, lab.device))[0]

    return lab.once(("step0", str(encoded)), make)


def shared_config(lab: Lab, seed: int, lr: float | None = None) -> TrainConfig:
    """The run's training settings in steps: arms with more samples get no more of them."""
    steps = count_steps(lab.train, len(lab.training(seed)))
    changes: dict[str, Any] = {"steps": steps, "epochs": None}
    return lab.train.model_copy(update=changes if lr is None else changes | {"lr": lr})


def count_flops(lab: Lab, trainee: Trainee, config: TrainConfig, seed: int) -> float:
    """Operations of building and training, before anything is trained."""
    if not trainee.trains:
        return trainee.flops
    of = trainee.model, trainee.encoded, config, seed
    own = training_flops(*of, trainee.loss, lab.device, lab.once)
    return trainee.flops + own


def _count(trainee: Trainee) -> int:
    if not trainee.trains:
        return 0
    if trainee.whole:
        return sum(parameter.numel() for parameter in trainable(trainee.model).values())
    return sum(a.numel() + b.numel() for a, b in trainee.factors().values())


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
