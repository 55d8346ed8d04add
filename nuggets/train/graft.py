"""Graft and heal: cut a student out of the teacher, heal it, and give it a plain LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nuggets.core.adapter import add_lora
from nuggets.core.consistent import Order, choose_consistent
from nuggets.core.cut import cut_model, permute_matrices
from nuggets.train.checkpoints import TrainLog
from nuggets.train.config import TrainConfig
from nuggets.train.finetune import finetune
from nuggets.train.flops import training_flops
from nuggets.train.lab import Lab, Trainee
from nuggets.train.randomness import seeded

if TYPE_CHECKING:
    from nuggets.train.arms import Graft


def grafted(lab: Lab, seed: int, arm: Graft) -> Trainee:
    """Cuts a student of the student's dimensions, heals it on general data, adds a LoRA.

    Every seed cuts (where the cut is random), heals and trains anew: seeds are students.
    """
    model = cut(lab, seed, arm.origin)
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
        note=f"Cut from the teacher ({arm.origin}) and healed for {arm.heal_steps} steps.",
    )


def cut(lab: Lab, seed: int, origin: str) -> Any:
    """A student-shaped model out of the teacher, from the layers of the extraction plan."""
    layers = [teacher for _, teacher in lab.plan().alignment.pairs]
    orders: dict[str, Order] = {"first": "first", "random": "random"}
    order = orders.get(origin, "sensitivity")
    choice = choose_consistent(lab.map, lab.student_spec, layers, order, seed)
    model = cut_model(lab.teacher, choice)
    if origin == "permuted":
        permute_matrices(model, seed)
    return model


def heal(lab: Lab, model: Any, seed: int, arm: Graft) -> tuple[TrainLog, float]:
    """Trains every weight of a cut model on general data, in place; also its FLOPs."""
    if arm.heal_steps == 0:
        return TrainLog(), 0.0
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
    work = lab.workspace
    encoded = lab.encode(lab.general_samples(arm.heal_samples, seed))
    flops = training_flops(model, encoded, arm.heal_steps, arm.heal_batch, seed, None, lab.device)
    log = finetune(
        model,
        encoded,
        config,
        seed,
        work.folder / "healing",
        device=lab.device,
        progress=work.progress,
        storage=work.storage,
        bf16=lab.bf16,
    )
    return log, flops
