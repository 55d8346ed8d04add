"""The extraction plan: what goes where, known before any weight is touched."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pydantic import Field, model_validator

from nuggets.errors import BadInput
from nuggets.extraction.layers import LayerSelector, TopLayers
from nuggets.extraction.selectors import (
    MatrixSelector,
    Request,
    WindowSelector,
    residual_agreement,
)
from nuggets.extraction.sites import Site, Uncut, plain_sentence, split_sites
from nuggets.frozen import Frozen
from nuggets.models.architecture import LAYER_ROLES, ArchSpec
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.selected_entries import Pick, keep_share, top

Role = Literal["embed", "q", "k", "v", "o", "gate", "up", "down", "head"]


class ExtractionConfig(Frozen):
    """What to take out of the teacher.

    Attributes:
        layers: which teacher layers.
        matrices: which entries of each matrix.
        roles: which matrices of a layer, and embedding or head.
        ratio: extraction ratio, the share of the chosen entries that are taken, the most
            sensitive ones; the others become 0. The paper takes all of them (1).
    """

    layers: LayerSelector = Field(default_factory=TopLayers)
    matrices: MatrixSelector = Field(default_factory=WindowSelector)
    roles: tuple[Role, ...] = LAYER_ROLES  # type: ignore[assignment]
    ratio: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _some_role(self) -> ExtractionConfig:
        if not self.roles:
            raise ValueError("give at least one role to extract, such as q or down")
        return self


class LoraConfig(Frozen):
    """Shape of the adapter: ΔW = (alpha / r) · B·A.

    Attributes:
        r: rank of every module, unless `ranks` or `energy` says otherwise.
        alpha: PEFT's `lora_alpha`; equal to the rank when not given (the paper).
        ranks: role → rank, for roles that differ.
        energy: keep this share of the squared singular values instead; `r` is then the cap.
        svd: `randomized` (fixed seed, error measured) or `exact`.
        dropout: PEFT's `lora_dropout`.
    """

    r: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    ranks: dict[Role, int] = Field(default_factory=dict)
    energy: float | None = Field(default=None, gt=0, le=1)
    svd: Literal["randomized", "exact"] = "randomized"
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def rank(self, role: str, shape: tuple[int, int]) -> int:
        """The rank asked for a role.

        Raises:
            BadInput: if its matrix `[out, in]` cannot have that rank.
        """
        rank = self.ranks.get(role, self.r)  # type: ignore[call-overload]
        if rank > min(shape):
            raise BadInput(
                f"Rank {rank} is too large: the student's {role} matrix is {shape[0]} × "
                f"{shape[1]} and has rank {min(shape)} at most. Lower lora.r, or set "
                f"lora.ranks.{role}."
            )
        return rank

    def scale(self, rank: int) -> float:
        """`alpha / r`, the factor in front of B·A."""
        return 1.0 if self.alpha is None else self.alpha / rank


class LayerAlignment(Frozen):
    """Which teacher layer each student layer receives: `[student, teacher]` pairs."""

    selector: str
    pairs: tuple[tuple[int, int], ...]


class PlanItem(Frozen):
    """One student matrix and the teacher's entries it receives.

    Attributes:
        shape: of the student's weight as stored, `[out, in]`.
        rows: chosen rows of the teacher's weight as stored `[out, in]` (embedding: `[vocab,
            hidden]`); None for the selector `weights`.
        cols: chosen columns, likewise.
        kept_mass: share of the teacher matrix's sensitivity inside the choice, 0 to 1.
        area: share of the teacher matrix's entries inside the choice.
        runner_up: for windows, the next best corner `[row, col]` and its share.
        rank: rank asked for; `energy` may lower it when the weights are read.
    """

    student_module: str
    teacher_module: str
    role: Role
    student_layer: int | None
    teacher_layer: int | None
    shape: tuple[int, int]
    rows: tuple[int, ...] | None
    cols: tuple[int, ...] | None
    kept_mass: float
    area: float
    runner_up: tuple[int, int, float] | None
    rank: int


class PlainItem(Frozen):
    """A student matrix that starts as plain LoRA, since nothing can be cut for it.

    Attributes:
        shape: of the student's weight as stored, `[out, in]`.
        rank: of its LoRA.
        reason: why nothing can be cut, in a few words.
    """

    student_module: str
    role: Role
    student_layer: int | None
    shape: tuple[int, int]
    rank: int
    reason: str


class ExtractionPlan(Frozen):
    """Everything a person should see before spending hours: layers, windows, mass kept.

    Attributes:
        alignment: layer pairs.
        items: one per student matrix that is cut out of the teacher, in network order.
        plain: the others.
        residual_agreement: overlap of the residual dimensions of neighbouring matrices, 0 to
            1; None for the selector `weights`.
        trainable_parameters: entries of all A and B together.
        notes: what the user should know, one sentence each.
        provenance: digests of teacher, map and samples.
    """

    version: Literal[1] = 1
    alignment: LayerAlignment
    items: tuple[PlanItem, ...]
    lora: LoraConfig
    extraction: ExtractionConfig
    residual_agreement: float | None
    trainable_parameters: int
    notes: tuple[str, ...] = ()
    plain: tuple[PlainItem, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def ranks(self) -> dict[str, int]:
        """Student module → rank asked for, of all that get a LoRA."""
        return {item.student_module: item.rank for item in (*self.items, *self.plain)}

    @property
    def plain_sentence(self) -> str:
        """What starts as plain LoRA, and why; empty where everything is cut."""
        return plain_sentence(len(self.items), self.plain)

    @property
    def digest(self) -> str:
        """Names this plan's content."""
        unsaid = set() if self.plain else {"plain"}  # plans without it have kept their names
        text = self.model_dump_json(exclude=unsaid)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_plan(
    map: SensitivityMap,
    student: ArchSpec,
    extraction: ExtractionConfig,
    lora: LoraConfig,
    cka: Float[ndarray, "n_teacher n_student"] | None = None,
) -> ExtractionPlan:
    """Chooses layers and entries for every student matrix from a sensitivity map.

    Args:
        map: the teacher's sensitivity.
        student: dimensions of the student.
        extraction: selectors and roles.
        lora: rank and scale.
        cka: layer similarity, for the layer selector `cka`.

    Raises:
        BadInput: for pairs or options that cannot work, in one sentence.
    """
    teacher, whole_heads = map.spec, extraction.matrices.whole_heads
    pairs = extraction.layers.pairs(map.layer_scores, student.n_layers, cka)
    sites, uncut = split_sites(teacher, student, pairs, extraction.roles, whole_heads)
    request = Request(map, teacher, student, sites, pairs)
    picks = extraction.matrices.pick(request)
    if extraction.ratio < 1:
        for site in sites:
            scores = map.matrix(site.teacher_module)
            picks[site.student_module] = keep_share(
                picks[site.student_module], scores, extraction.ratio
            )
    items = tuple(_item(site, picks[site.student_module], request, lora) for site in sites)
    plain = tuple(_plain(each, student, lora) for each in uncut)
    notes = _notes(teacher, student, extraction)
    return ExtractionPlan(
        alignment=LayerAlignment(selector=extraction.layers.kind, pairs=pairs),
        items=items,
        lora=lora,
        extraction=extraction,
        residual_agreement=residual_agreement(picks, sites, teacher),
        trainable_parameters=sum(i.rank * sum(i.shape) for i in (*items, *plain)),
        notes=(*filter(None, [plain_sentence(len(sites), uncut)]), *notes),
        plain=plain,
        provenance=dict(map.meta),
    )


def _item(site: Site, pick: Pick, request: Request, lora: LoraConfig) -> PlanItem:
    small, large = request.student.shape(site.role), request.teacher.shape(site.role)
    corner, total = pick.runner_up, pick.total or 1.0  # a matrix without sensitivity has no share
    taken = small[0] * small[1] if pick.kept is None else pick.kept.size
    return PlanItem(
        student_module=site.student_module,
        teacher_module=site.teacher_module,
        role=site.role,  # type: ignore[arg-type]
        student_layer=site.student_layer,
        teacher_layer=site.teacher_layer,
        shape=small,
        rows=None if pick.rows is None else tuple(pick.rows.tolist()),
        cols=None if pick.cols is None else tuple(pick.cols.tolist()),
        kept_mass=pick.mass / total,
        area=taken / (large[0] * large[1]),
        runner_up=None if corner is None else (corner[0], corner[1], corner[2] / total),
        rank=lora.rank(site.role, small),
    )


def _plain(uncut: Uncut, student: ArchSpec, lora: LoraConfig) -> PlainItem:
    shape = student.shape(uncut.role)
    return PlainItem(
        student_module=uncut.student_module,
        role=uncut.role,  # type: ignore[arg-type]
        student_layer=uncut.student_layer,
        shape=shape,
        rank=lora.rank(uncut.role, shape),
        reason=uncut.reason,
    )


def _notes(teacher: ArchSpec, student: ArchSpec, extraction: ExtractionConfig) -> tuple[str, ...]:
    notes = []
    if absent := [role for role in extraction.roles if not student.has(role)]:
        notes.append(f"The student has no {', '.join(absent)}, so nothing is extracted there.")
    if student.tied and {"embed", "head"} & set(extraction.roles):
        notes.append(
            "The student's embedding and head are tied, but are trained separately. The adapter "
            "still loads on the tied model; the merged model is saved untied."
        )
    heads = (teacher.n_heads, teacher.n_kv_heads), (student.n_heads, student.n_kv_heads)
    if heads[0] != heads[1] and not extraction.matrices.whole_heads:
        notes.append(
            "Windows can cut through attention heads; the selector consistent keeps whole head "
            "groups."
        )
    return tuple(notes)


def picks_of(plan: ExtractionPlan, map: SensitivityMap | None = None) -> dict[str, Pick]:
    """The plan's choices as index arrays, keyed by student module.

    The single entries of the selector `weights` are too many to write down; they are found
    again in the map the plan was made from, as are those that an extraction ratio leaves.

    Raises:
        BadInput: for the selector `weights`, or a ratio below 1, without the map.
    """
    ratio = plan.extraction.ratio
    if ratio < 1 and map is None:
        raise BadInput(
            f"A plan with an extraction ratio of {ratio:g} needs the map it was made from."
        )
    picks = {}
    for item in plan.items:
        share = (item.kept_mass, 1.0)
        if item.rows is not None and item.cols is not None:
            pick = Pick(np.array(item.rows), np.array(item.cols), *share)
        elif map is not None:
            scores = map.matrix(item.teacher_module).reshape(-1)
            pick = Pick(None, None, *share, entries=top(scores, item.shape[0] * item.shape[1]))
        else:
            raise BadInput("A plan with the selector `weights` needs the map it was made from.")
        if ratio < 1:
            assert map is not None
            pick = keep_share(pick, map.matrix(item.teacher_module), ratio)
        picks[item.student_module] = pick
    return picks
