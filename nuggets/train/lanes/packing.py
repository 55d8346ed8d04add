"""Which cells are trained side by side, in which form, and how many fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from nuggets.compute.device import free_memory
from nuggets.compute.threads import SMALL
from nuggets.frozen import Frozen
from nuggets.sensitivity.footprint import SHARE, head_bytes, row_bytes, rows_at_once
from nuggets.train.arms.family import Arm
from nuggets.train.lab import Lab

Form = Literal["merged", "shared", "alone"]
"""How cells share a program: each with a base of its own, all on one base, or not at all."""

MOST_LANES = 64
"""More lanes bring nothing more, and the first result would come later."""


class CellGroup(Frozen):
    """Cells that are trained together.

    Attributes:
        form: how.
        cells: arm's name and seed of each.
    """

    form: Form
    cells: tuple[tuple[str, int], ...]


def plan_batches(lab: Lab, cells: Sequence[tuple[Arm, int]]) -> list[CellGroup]:
    """Groups cells that can share a program, as many as fit into memory, in the given order.

    Args:
        lab: its `train.concurrent` says whether at all.
        cells: arms and seeds, in the order in which results are wanted; each takes a lane per
            learning rate.
    """
    copies = len(lab.train.rates)
    forms: dict[str, Form] = {arm.name: _form(lab, arm) for arm, _ in cells}
    kinds: dict[tuple[str, Form], list[tuple[Arm, int]]] = {}
    for arm, seed in cells:
        key = (str(arm.stacks), forms[arm.name])
        kinds.setdefault(key, []).append((arm, seed))
    batches = []
    for (_, form), alike in kinds.items():
        size = 1 if form == "alone" else max(1, lanes_that_fit(lab, *alike[0], form) // copies)
        for start in range(0, len(alike), size):
            batch = alike[start : start + size]
            # One lane alone gains nothing from the stack, and `run_cell` is the plainer way.
            its_form: Form = form if len(batch) * copies > 1 else "alone"
            names = tuple((arm.name, seed) for arm, seed in batch)
            batches.append(CellGroup(form=its_form, cells=names))
    # Grouping reordered the cells: whoever waits for the first result gets its batch first.
    position = {(arm.name, seed): index for index, (arm, seed) in enumerate(cells)}
    return sorted(batches, key=lambda batch: position[batch.cells[0]])


def _form(lab: Lab, arm: Arm) -> Form:
    """How an arm can share a program with others."""
    small = sum(p.numel() for p in lab.student.parameters()) < SMALL
    # A large model on a CPU keeps its processor busy alone; a GPU waits for work in any case.
    worth = lab.train.concurrent == "always" or small or lab.device.type == "cuda"
    never = lab.train.concurrent == "never" or lab.train.activation_checkpointing
    never = never or lab.train.processes > 1 or not lab.untouched.spare
    never = never or lab.train.dtype != "float32"  # merged weights would be rounded
    if never or arm.stacks is None or not worth:
        return "alone"
    drops = lab.lora.dropout > 0 and arm.stacks != "whole"
    if drops and lab.device.type != "cpu":
        return "alone"  # other devices cannot draw each lane's own numbers again
    # Dropout acts on what A reads and not on what W reads: B·A cannot be added to W then.
    if arm.stacks == "adapter":
        return "merged" if small and not drops else "shared"
    return "alone" if drops else "merged"


def lanes_that_fit(lab: Lab, arm: Arm, seed: int, form: Form) -> int:
    """How many lanes memory has room for, at least one."""
    spec = lab.student_spec
    weights = sum(p.numel() * p.element_size() for p in lab.student.parameters())
    trained = weights if arm.stacks == "whole" else 4 * lab.plan().trainable_parameters  # bytes
    tokens = max((len(ids) for ids, _ in lab.training(seed)), default=1)
    row = row_bytes(spec, tokens, 4)
    free, device = free_memory(str(lab.device)), str(lab.device)
    rows = min(lab.train.batch_size, rows_at_once(row, free, device))  # as it would be alone
    batch = rows * row + head_bytes(spec, rows * tokens, device)
    # Values, gradients and two moments; in the merged form also the arm's own model, its stacked
    # base, and the merged weights with their gradient.
    lane = 4 * trained + batch + (4 * weights if form == "merged" else 0)
    return max(1, min(MOST_LANES, int(SHARE * free / lane)))
