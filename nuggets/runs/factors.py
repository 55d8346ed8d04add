"""The weights behind a plan, read one by one for looking at their factors. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError, safe_open

from nuggets.builtin.pairs import model_folder
from nuggets.core.plan import ExtractionPlan
from nuggets.core.references import WEIGHTS
from nuggets.core.view_factors import Injection, injection, kept_energy, low_rank, shuffled
from nuggets.errors import Damaged


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


def window_factors(plan: ExtractionPlan, teacher: str, student: str) -> list[Factors]:
    """Factors of every window of a plan between two built-in models, in network order.

    Raises:
        BadInput: if one is not a built-in model.
        Damaged: if its weights cannot be read.
    """
    found = []
    with _weights(teacher) as large, _weights(student) as small:
        for item in plan.items:
            if item.rows is None or item.cols is None:
                continue  # single weights have no place of their own
            whole = large.get_tensor(f"{item.teacher_module}.weight")
            window = whole[np.ix_(item.rows, item.cols)]
            weight = small.get_tensor(f"{item.student_module}.weight")
            product = np.float32(plan.lora.scale(item.rank)) * low_rank(window, item.rank)
            found.append(
                Factors(
                    item.student_module,
                    item.rank,
                    kept_energy(window),
                    kept_energy(shuffled(window)),
                    injection(weight, product),
                )
            )
    return found


@contextmanager
def _weights(name: str) -> Iterator[safe_open]:
    path = model_folder(name) / WEIGHTS
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (OSError, SafetensorError) as problem:
        raise Damaged(f"The weights {path} cannot be read ({problem}).") from None
