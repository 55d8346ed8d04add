"""The weights behind a plan, read one by one for looking at their factors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError, safe_open

from nuggets.builtin.resolve import model_named
from nuggets.errors import BadInput, Damaged
from nuggets.extraction.plan import ExtractionPlan, PlanItem, picks_of
from nuggets.extraction.selectors import Pick
from nuggets.models.layout import canonical_name, place_of
from nuggets.models.pair import Model
from nuggets.models.references import weight_files
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.views.svd import Injection, injection, kept_energy, low_rank, rank_reaching, shuffled

MOST_OPERATIONS = 3e9
"""Of all spectra of a plan together: a few tenths of a second on one core."""

Read = Callable[[str], Float[ndarray, "_ _"]]
"""A module's weight, `[out, in]`."""


class Factors(NamedTuple):
    """One student matrix of a plan.

    Attributes:
        module: the student's matrix.
        rank: of its LoRA.
        energy: share of the window's squared entries that rank 1, 2, … keeps.
        shuffled: the same for the window with its entries shuffled.
        injection: what the product changes in the student's weight.
    """

    module: str
    rank: int
    energy: Float[ndarray, " n_ranks"]
    shuffled: Float[ndarray, " n_ranks"]
    injection: Injection


class KeptBySvd(NamedTuple):
    """What factorising one matrix of a plan leaves of it.

    Attributes:
        module: the student's matrix.
        rank: that is used: the plan's, or the smallest that reaches its `energy`.
        energy: share of the squared entries that this rank keeps.
        parameters: entries of A and B at this rank.
    """

    module: str
    rank: int
    energy: float
    parameters: int


def kept_by_svd(
    plan: ExtractionPlan, teacher: str | Model, map: SensitivityMap | None = None
) -> list[KeptBySvd]:
    """Rank and energy of every matrix of a plan, in network order, from the teacher's files.

    Args:
        plan: what goes where.
        teacher: the model that it is taken from.
        map: the map the plan was made from; the selector `weights` and a ratio below 1 need it.

    Raises:
        BadInput: if the matrices are too many or too large to be looked at in passing.
        Damaged: if the weights cannot be read.
    """
    sides = [sorted(item.shape) for item in plan.items]
    if sum(float(small**2 * large) for small, large in sides) > MOST_OPERATIONS:
        raise BadInput(
            "These matrices are too large for an instant preview. A run factorises them, and so "
            "does `nuggets extract`."
        )
    picks, found = picks_of(plan, map), []
    with _weights(teacher) as weight:
        for item in plan.items:
            window = _cut(weight(item.teacher_module), item, picks[item.student_module])
            kept, rank = kept_energy(window), item.rank
            if plan.lora.energy is not None:
                rank = min(rank, rank_reaching(kept, plan.lora.energy))
            size = rank * sum(item.shape)
            found.append(KeptBySvd(item.student_module, rank, float(kept[rank - 1]), size))
    return found


def _cut(weight: ndarray, item: PlanItem, pick: Pick) -> Float[ndarray, "_ _"]:
    """The chosen entries in the student's shape, those that a ratio leaves out as zeros."""
    if pick.entries is not None:
        matrix = weight.reshape(-1)[pick.entries].reshape(item.shape)
    else:
        assert pick.rows is not None
        assert pick.cols is not None
        matrix = weight[np.ix_(pick.rows, pick.cols)]
    if pick.kept is not None:
        taken = np.zeros(matrix.size, dtype=bool)
        taken[pick.kept] = True
        matrix = np.where(taken.reshape(matrix.shape), matrix, 0)
    return matrix


def window_factors(plan: ExtractionPlan, teacher: str, student: str) -> list[Factors]:
    """Factors of every window of a plan between two models on this machine, in network order.

    Raises:
        BadInput: if one is no model that can be read matrix by matrix.
        Damaged: if its weights cannot be read.
    """
    found = []
    with _weights(teacher) as large, _weights(student) as small:
        for item in plan.items:
            if item.rows is None or item.cols is None:
                continue  # single weights have no place of their own
            window = large(item.teacher_module)[np.ix_(item.rows, item.cols)]
            product = np.float32(plan.lora.scale(item.rank)) * low_rank(window, item.rank)
            found.append(
                Factors(
                    item.student_module,
                    item.rank,
                    kept_energy(window),
                    kept_energy(shuffled(window)),
                    injection(small(item.student_module), product),
                )
            )
    return found


@contextmanager
def _weights(wanted: str | Model) -> Iterator[Read]:
    """Reads a model's matrices by the names that they have in memory."""
    model = model_named(wanted) if isinstance(wanted, str) else wanted
    ref, name, spec = model.ref, model.ref.source, model.spec
    if ref.format == "gguf":
        raise BadInput(f"The weights of {name} are packed (GGUF) and are unpacked only in a run.")
    with ExitStack() as files:
        try:
            opened = [
                files.enter_context(safe_open(path, framework="np")) for path in weight_files(ref)
            ]
            places = {
                canonical_name(spec, key): (file, key)
                for file in opened
                for key in file.keys()  # noqa: SIM118 - it is no mapping
            }
        except (OSError, SafetensorError) as problem:
            raise Damaged(f"The weights of {name} cannot be read ({problem}).") from None

        def read(module: str) -> Float[ndarray, "_ _"]:
            place = place_of(spec, module)
            file, key = places[f"{place.module}.weight"]
            try:
                whole = file.get_tensor(key)
            except TypeError:  # NumPy has no bfloat16
                raise BadInput(
                    f"{name} is stored in bfloat16, which is read only in a run."
                ) from None
            whole = whole.T if place.transposed else whole
            return whole if place.rows is None else whole[place.rows]

        yield read
