"""Which matrices of a student can be cut out of a teacher, and why the others cannot.

Those start as plain LoRA, so that a pair of which most can be cut need not be refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nuggets.errors import BadInput
from nuggets.extraction.consistent import why_not_consistent
from nuggets.models.architecture import LAYER_ROLES, ArchSpec

DEEPER = "the student is deeper than the teacher"
Pairs = Sequence[tuple[int, int]]
"""`(student layer, teacher layer)`; a student deeper than its teacher has layers without one."""


@dataclass(frozen=True, eq=False)
class Site:
    """One matrix to fill: where in the student, from where in the teacher."""

    role: str
    student_module: str
    teacher_module: str
    student_layer: int | None
    teacher_layer: int | None


@dataclass(frozen=True)
class Uncut:
    """A matrix of the student that nothing is cut for, and why."""

    role: str
    student_module: str
    student_layer: int | None
    reason: str


def why_not_cut(role: str, teacher: ArchSpec, student: ArchSpec, whole_heads: bool = False) -> str:
    """Why a matrix cannot be cut out of the teacher's; empty if it can.

    Args:
        role: which one; the student has it.
        teacher: dimensions of the teacher.
        student: dimensions of the student.
        whole_heads: whether heads and circuits have to stay whole, as for `consistent`.
    """
    if not teacher.has(role):
        return "the teacher has none"
    large, small = teacher.shape(role), student.shape(role)
    if role in ("embed", "head") and large[0] != small[0]:
        return f"vocabularies of {large[0]} and {small[0]} tokens"
    if small[0] > large[0] or small[1] > large[1]:
        return f"the student's is larger: {small[0]} × {small[1]} > {large[0]} × {large[1]}"
    return why_not_consistent(role, teacher, student) if whole_heads else ""


def split_sites(
    teacher: ArchSpec,
    student: ArchSpec,
    pairs: Pairs,
    roles: Sequence[str],
    whole_heads: bool = False,
) -> tuple[list[Site], list[Uncut]]:
    """Every wanted matrix that the student has, in network order: to be cut, or not.

    Args:
        teacher: dimensions of the teacher.
        student: dimensions of the student.
        pairs: which teacher layer a student layer receives.
        roles: the wanted matrices.
        whole_heads: see `why_not_cut`.

    Raises:
        BadInput: if nothing at all can be cut, saying why not.
    """
    source = dict(pairs)
    layers = [(role, s) for s in range(student.n_layers) for role in LAYER_ROLES]
    places = [("embed", None), *layers, ("head", None)]
    sites: list[Site] = []
    uncut: list[Uncut] = []
    for role, layer in places:
        if role not in roles or not student.has(role):
            continue
        module = student.module(role, layer)
        reason = why_not_cut(role, teacher, student, whole_heads)
        if not reason and layer is not None and layer not in source:
            reason = DEEPER
        if reason:
            uncut.append(Uncut(role, module, layer, reason))
            continue
        above = None if layer is None else source[layer]
        sites.append(Site(role, module, _teacher_module(teacher, role, above), layer, above))
    if not sites:
        why = "; ".join(f"{names}: {reason}" for reason, names in _by_reason(uncut).items())
        raise BadInput(
            f"There is nothing to extract from this {teacher.model_type} teacher for this "
            f"{student.model_type} student ({why or 'the student has none of these roles'}). "
            + _advice(teacher, student, roles, whole_heads)
        )
    return sites, uncut


def _teacher_module(teacher: ArchSpec, role: str, layer: int | None) -> str:
    """A tied teacher keeps its head in the embedding."""
    return teacher.module("embed" if role == "head" and teacher.tied else role, layer)


def _advice(teacher: ArchSpec, student: ArchSpec, roles: Sequence[str], whole_heads: bool) -> str:
    """What to do where nothing can be cut; only what would then work."""

    def cut(teacher: ArchSpec, student: ArchSpec, roles: Sequence[str], whole: bool) -> list[str]:
        own = [role for role in roles if student.has(role)]
        return [role for role in own if not why_not_cut(role, teacher, student, whole)]

    if whole_heads and cut(teacher, student, roles, False):
        return "Use the selector window."
    if others := cut(teacher, student, LAYER_ROLES, whole_heads):
        return f"Extract {', '.join(others)} instead."
    if cut(student, teacher, roles, whole_heads):
        return "Swap the two models."
    heads = f", with heads of {student.head_dim} dimensions" if whole_heads else ""
    return f"Choose a teacher that is at least as large in these matrices{heads}."


class _WithReason(Protocol):
    """What is said of a matrix that is not cut."""

    @property
    def role(self) -> str: ...
    @property
    def student_layer(self) -> int | None: ...
    @property
    def reason(self) -> str: ...


def _by_reason(uncut: Sequence[_WithReason]) -> dict[str, str]:
    """Reason → the roles that it holds for, in drawing order."""
    roles: dict[str, dict[str, None]] = {}
    for each in uncut:
        roles.setdefault(each.reason, {})[each.role] = None
    return {reason: ", ".join(names) for reason, names in roles.items()}


def plain_sentence(n_cut: int, uncut: Sequence[_WithReason]) -> str:
    """What starts as plain LoRA, counted and named; empty where everything is cut."""
    if not uncut:
        return ""
    parts = []
    for reason, roles in _by_reason(uncut).items():
        layers = {each.student_layer or 0 for each in uncut if each.reason == reason}
        where = ", ".join(map(str, sorted(layers)))
        parts.append(f"layers {where}: {reason}" if reason == DEEPER else f"{roles}: {reason}")
    return (
        f"{len(uncut)} of {n_cut + len(uncut)} matrices start as plain LoRA, the others from the "
        f"teacher ({'; '.join(parts)})."
    )
