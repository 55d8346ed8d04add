"""Matrix selectors: which entries of a teacher matrix become a student-shaped one.

One class and one line each. All are NumPy on a sensitivity map, so that a plan can be shown
without touching the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pydantic import Field

from nuggets.extraction.consistent import Order, choose_consistent
from nuggets.extraction.sites import Site
from nuggets.extraction.windows import find_window
from nuggets.frozen import Frozen
from nuggets.models.architecture import ArchSpec, Axis
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.selected_entries import Index, Pick, top


@dataclass(frozen=True, eq=False)
class Request:
    """All that a matrix selector may look at."""

    map: SensitivityMap
    teacher: ArchSpec
    student: ArchSpec
    sites: Sequence[Site]
    pairs: Sequence[tuple[int, int]]


class MatrixChoice(Frozen):
    """What all matrix selectors share."""

    reads: ClassVar[Literal["sums", "windows", "full"]] = "sums"
    """The least that has to be kept of a map: sums of rows and columns, what was chosen while
    measuring, or every entry."""
    whole_heads: ClassVar[bool] = False
    """Whether one choice holds for all matrices, so that heads and circuits stay whole."""
    kind: Any  # a literal in every selector

    def pick(self, request: Request) -> dict[str, Pick]:
        """Chooses entries for every site; keys are the student's modules."""
        raise NotImplementedError

    def blind(self, seed: int) -> MatrixSelector:
        """The same choice made without looking: its control."""
        return RandomWindowSelector(seed=seed)


class PerMatrix(MatrixChoice):
    """Base of the selectors that look at one matrix at a time."""

    def pick(self, request: Request) -> dict[str, Pick]:
        """Chooses entries for every site; keys are the student's modules."""
        return {
            site.student_module: self._pick(request, site, request.student.shape(site.role))
            for site in request.sites
        }

    def _pick(self, request: Request, site: Site, shape: tuple[int, int]) -> Pick:
        raise NotImplementedError


def _inside(request: Request, site: Site, rows: Index, cols: Index) -> tuple[float, float]:
    """Sensitivity inside a choice of rows and columns, and in the whole matrix.

    From the full map where it was kept. From sums alone the inside is known only when all
    rows or all columns were chosen; otherwise the product of the two shares stands in for it.
    """
    name, map = site.teacher_module, request.map
    total = map.total(name)
    if name in map.full:
        inside = map.full[name][rows][:, cols].sum(dtype=np.float64)
        return float(inside), total
    by_row, by_col = map.rows[name][rows].sum(), map.cols[name][cols].sum()
    return float(by_row * by_col / total) if total else 0.0, total


class Searching(PerMatrix):
    """Base of the selectors that look at every entry of one matrix, and at nothing else.

    They can choose while a map is measured (see `nuggets.extraction.windows_while_measuring`);
    what they chose then is used.
    """

    reads = "windows"

    def choose(
        self, matrix: Float[ndarray, "_ _"], rows: Float[ndarray, " _"], shape: tuple[int, int]
    ) -> Pick:
        """Chooses in one matrix.

        Args:
            matrix: its sensitivity, entry by entry.
            rows: the sums of its rows, float64.
            shape: of the student's matrix.
        """
        raise NotImplementedError

    def _pick(self, request: Request, site: Site, shape: tuple[int, int]) -> Pick:
        map, module = request.map, site.teacher_module
        chosen = map.picks.get(self.kind, {}).get(module)
        if chosen is not None and chosen.shape == shape:
            return chosen
        return self.choose(map.matrix(module), map.rows[module], shape)


class WindowSelector(Searching):
    """The contiguous window of the student's shape with the largest sensitivity (the paper)."""

    kind: Literal["window"] = "window"

    def choose(
        self, matrix: Float[ndarray, "_ _"], rows: Float[ndarray, " _"], shape: tuple[int, int]
    ) -> Pick:
        """The window and its runner-up."""
        best, runner_up = find_window(matrix, *shape)
        chosen = best.row + np.arange(shape[0]), best.col + np.arange(shape[1])
        return Pick(*chosen, best.mass, float(rows.sum()), runner_up=runner_up)


class RowsColsSelector(PerMatrix):
    """The rows and the columns with the largest sums, each in their order."""

    kind: Literal["rows_cols"] = "rows_cols"

    def _pick(self, request: Request, site: Site, shape: tuple[int, int]) -> Pick:
        rows = top(request.map.rows[site.teacher_module], shape[0])
        cols = top(request.map.cols[site.teacher_module], shape[1])
        return Pick(rows, cols, *_inside(request, site, rows, cols))


class NeuronsSelector(Searching):
    """The rows with the largest sums (output neurons), and of those the best span of columns."""

    kind: Literal["neurons"] = "neurons"

    def choose(
        self, matrix: Float[ndarray, "_ _"], rows: Float[ndarray, " _"], shape: tuple[int, int]
    ) -> Pick:
        """The rows and their span of columns."""
        chosen = top(rows, shape[0])
        best, _ = find_window(matrix[chosen], *shape)
        return Pick(chosen, best.col + np.arange(shape[1]), best.mass, float(rows.sum()))


class WeightsSelector(PerMatrix):
    """The single entries with the largest scores, read row by row into the student's shape."""

    reads = "full"
    kind: Literal["weights"] = "weights"

    def _pick(self, request: Request, site: Site, shape: tuple[int, int]) -> Pick:
        scores = request.map.matrix(site.teacher_module).reshape(-1)
        entries = top(scores, shape[0] * shape[1])
        mass = float(scores[entries].sum(dtype=np.float64))
        return Pick(None, None, mass, float(scores.sum(dtype=np.float64)), entries=entries)


class RandomWindowSelector(PerMatrix):
    """A contiguous window drawn without looking (a control)."""

    kind: Literal["random_window"] = "random_window"
    seed: int = Field(default=0, title="Draw", description="Seed of the random choice.")

    def _pick(self, request: Request, site: Site, shape: tuple[int, int]) -> Pick:
        # One generator per module: adding a module never moves another one's window.
        key = [self.seed, *site.student_module.encode()]
        generator = np.random.default_rng(key)
        large = request.teacher.shape(site.role)
        row, col = (int(generator.integers(a - b + 1)) for a, b in zip(large, shape, strict=True))
        rows, cols = row + np.arange(shape[0]), col + np.arange(shape[1])
        return Pick(rows, cols, *_inside(request, site, rows, cols))


class ConsistentSelector(MatrixChoice):
    """One choice for the whole network: residual dimensions, whole head groups, FFN neurons.

    The only selector that keeps a working circuit: what one matrix writes, the next one reads.
    """

    whole_heads = True
    kind: Literal["consistent"] = "consistent"
    order: Order = Field(
        default="sensitivity",
        title="Dimensions",
        description="Keep the most sensitive ones, the first ones, or random ones as a control.",
    )
    seed: int = Field(
        default=0,
        title="Draw",
        description="Seed of the random choice.",
        json_schema_extra={"only_with": ["order", "random"]},
    )

    def blind(self, seed: int) -> ConsistentSelector:
        """A random choice that is consistent too: only the looking is left out."""
        return ConsistentSelector(order="random", seed=seed)

    def pick(self, request: Request) -> dict[str, Pick]:
        """Chooses entries for every site; keys are the student's modules."""
        layers = [teacher for _, teacher in request.pairs]
        choice = choose_consistent(request.map, request.student, layers, self.order, self.seed)
        slot = {student: place for place, (student, _) in enumerate(request.pairs)}
        picks = {}
        for site in request.sites:
            place = slot[site.student_layer] if site.student_layer is not None else 0
            axes = request.teacher.axes(site.role)
            rows, cols = (choice.index(axis, place) for axis in axes)
            picks[site.student_module] = Pick(rows, cols, *_inside(request, site, rows, cols))
        return picks


MatrixSelector = Annotated[
    WindowSelector
    | RowsColsSelector
    | NeuronsSelector
    | WeightsSelector
    | RandomWindowSelector
    | ConsistentSelector,
    Field(discriminator="kind"),
]
"""The matrix selectors, chosen by `kind`."""


def residual_agreement(
    picks: Mapping[str, Pick], sites: Sequence[Site], spec: ArchSpec
) -> float | None:
    """How far adjacent matrices use the same residual dimensions: mean overlap, 0 to 1.

    For every two adjacent sites (in network order) the share of chosen residual dimensions that
    both chose. 1 for `consistent`; independent windows fall towards d_s / d_t, the ratio of the
    hidden sizes. None for `weights`.
    """
    chosen = [c for site in sites if (c := _residual(picks[site.student_module], spec, site.role))]
    overlaps = [len(a & b) / min(len(a), len(b)) for a, b in pairwise(chosen)]
    return float(np.mean(overlaps)) if overlaps else None


def _residual(pick: Pick, spec: ArchSpec, role: str) -> set[int]:
    axes: tuple[Axis, Axis] = spec.axes(role)
    for axis, index in zip(axes, (pick.rows, pick.cols), strict=True):
        if axis == "resid" and index is not None:
            return set(index.tolist())
    return set()
