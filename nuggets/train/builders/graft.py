"""Graft and heal: cut a student out of the teacher, heal it, and give it a plain LoRA."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nuggets.compute.versions import installed_versions
from nuggets.data.samples import Encoded
from nuggets.disk.commit import commit_folder
from nuggets.errors import BadInput
from nuggets.extraction.adapter import add_lora
from nuggets.extraction.consistent import Order, choose_consistent
from nuggets.extraction.cut import cut_model, permute_matrices
from nuggets.train.checkpoints import LOG, TrainLog, load_weights, save_weights
from nuggets.train.config import TrainConfig
from nuggets.train.flops import training_flops
from nuggets.train.lab import Lab, Trainee
from nuggets.train.randomness import seeded

if TYPE_CHECKING:
    from nuggets.train.arms.graft import Graft


def grafted(lab: Lab, seed: int, arm: Graft) -> Trainee:
    """Prunes the teacher to the student's dimensions, fine-tunes to recover, adds a LoRA.

    Every seed cuts (where the cut is random), heals and trains separately: seeds are students.

    Raises:
        BadInput: if the student's dimensions cannot be cut out of the teacher.
        Unsupported: if the teacher has a weight that its architecture does not describe.
    """
    model = cut(lab, seed, arm)
    healing, flops = heal(lab, model, seed, arm)
    encoded = lab.training(seed)
    with seeded(seed, lab.device):
        peft = add_lora(model, lab.ranks(), lab.lora)
    return Trainee(
        peft,
        encoded,
        own_base=True,
        n_samples=len(encoded),
        seconds=healing.seconds,
        flops=flops,
        note=f"Pruned from the teacher ({arm.origin}), then fine-tuned for {arm.heal_steps} "
        "steps to recover.",
    )


def cut(lab: Lab, seed: int, arm: Graft) -> Any:
    """A student-shaped model out of the teacher, from the layers of the extraction plan.

    It has the teacher's rows of words: beyond the words are only unused ones, of which two models
    with one tokenizer may have more or fewer.
    """
    map = lab.located_by(arm.task, arm.score)
    layers = [teacher for _, teacher in lab.plan().alignment.pairs]
    orders: dict[str, Order] = {"first": "first", "random": "random"}
    order = orders.get(arm.origin, "sensitivity")
    rows = lab.teacher_spec.vocab_size
    if rows < min(lab.student_spec.vocab_size, 1 + max(lab.tokenizer.get_vocab().values())):
        raise BadInput(
            f"The arm {arm.name} reads the student's words, of which the teacher's embedding of "
            f"{rows} rows does not hold all. Choose a teacher with the same tokenizer."
        )
    wanted = lab.student_spec.model_copy(update={"vocab_size": rows})
    choice = choose_consistent(map, wanted, layers, order, seed)
    model = cut_model(lab.teacher, choice)
    if arm.origin == "permuted":
        permute_matrices(model, seed)
    return model


def heal(lab: Lab, model: Any, seed: int, arm: Graft) -> tuple[TrainLog, float]:
    """Trains every weight of a cut model on general data, in place; also its FLOPs.

    A student that was cut and healed in the same way before, perhaps for another run or beside
    others, is read back.
    """
    if arm.heal_steps == 0:
        return TrainLog(), 0.0
    healing = Healing.of(lab, model, seed, arm)
    of = model, healing.encoded, healing.config, seed
    flops = training_flops(*of, None, lab.device, lab.once)
    if healing.done:
        return healing.read_back(), flops
    work = lab.workspace
    from nuggets.train.finetune import finetune  # Trainer imports what small models never need

    log = finetune(
        model,
        healing.encoded,
        healing.config,
        seed,
        work.folder and work.folder / "healing",
        device=lab.device,
        progress=work.progress,
        bf16=lab.bf16,
    )
    healing.keep(log)
    return log, flops


@dataclass(frozen=True, eq=False)
class Healing:
    """A cut model and what it is healed with.

    Attributes:
        model: the cut; all of its weights ask for gradients.
        encoded: general samples; the same for all students of a seed.
        config: as full fine-tuning has it.
        seed: of the order of samples.
        kept: where the healed student is kept, named by everything that goes in; None for nowhere.
    """

    model: Any
    encoded: list[Encoded]
    config: TrainConfig
    seed: int
    kept: Path | None

    @classmethod
    def of(cls, lab: Lab, model: Any, seed: int, arm: Graft) -> Healing:
        """Prepares the healing of a cut model; its weights may be trained from now on."""
        n = arm.heal_samples
        samples = lab.once(
            ("healing", n, seed, lab.general_samples, lab.train.max_length),
            lambda: lab.encode(lab.general_samples(n, seed)),
        )
        config = TrainConfig(
            steps=arm.heal_steps,
            batch_size=arm.heal_batch,
            lr=arm.heal_lr,
            schedule="cosine",
            weight_decay=0.01,
            checkpoint_every=lab.train.checkpoint_every,
            max_length=lab.train.max_length,
        )
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        how = torch.device(lab.device).type, lab.bf16
        kept = lab.kept and lab.kept / digest(model, samples, config, seed, *how)
        return cls(model, samples, config, seed, kept)

    @property
    def done(self) -> bool:
        """Whether such a student was healed before."""
        return self.kept is not None and self.kept.is_dir()

    def read_back(self) -> TrainLog:
        """Gives the model the weights that were kept."""
        assert self.kept is not None
        load_weights(self.model, self.kept)
        return TrainLog.model_validate_json((self.kept / LOG).read_text())

    def keep(self, log: TrainLog) -> None:
        """Writes a healed student where others find it."""
        if self.kept is not None and not self.kept.is_dir():
            with commit_folder(self.kept) as folder:
                save_weights(self.model, folder)
                (folder / LOG).write_text(log.model_dump_json())


def digest(
    model: Any,
    encoded: Sequence[Encoded],
    config: TrainConfig,
    seed: int,
    device: str,
    bf16: bool = False,
) -> str:
    """Names a healing by all that goes in: weights, samples, settings, seed, what computes it."""
    how = installed_versions(), device, bf16
    found = hashlib.sha256(f"{config.model_dump_json()} {seed} {encoded} {how}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:24]
