"""One transfer as several runs at once: each trains some of its seeds, the whole takes them all.

Cells (arm × seed) are known to all runs of a home, so that the transfer itself trains nothing that
a part has trained, and reports as if it had been alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from nuggets.errors import BadInput
from nuggets.recipe import TransferRecipe
from nuggets.runs.fan_out import check_done, submit_all
from nuggets.runs.schema import RunStatus
from nuggets.runs.store import Run
from nuggets.stages.creating import check_can_work, create


def split(recipe: TransferRecipe, n: int) -> list[TransferRecipe]:
    """A recipe for each part of the seeds: next to each other, and of nearly equal number.

    Raises:
        BadInput: if there are fewer seeds than parts.
    """
    seeds = recipe.seeds
    if not 1 <= n <= len(seeds):
        raise BadInput(
            f"{n} parts cannot be made of {len(seeds)} seeds: a part trains one seed or more."
        )
    ends = [round(len(seeds) * part / n) for part in range(n + 1)]
    return [
        recipe.model_copy(
            update={"seeds": seeds[a:b], "benchmarks": (), "name": f"{recipe.name}-part-{part}"}
        )
        for part, (a, b) in enumerate(pairwise(ends), 1)
    ]


def train_parts(
    recipe: TransferRecipe,
    n: int,
    on_end: Callable[[Run, int, int], None] = lambda run, done, total: None,
) -> list[Run]:
    """Trains the seeds of a transfer in `n` runs, as many at once as this machine's engine takes.

    A run of the recipe then finds its cells; after it the parts may be deleted.

    Args:
        recipe: what is trained.
        n: how many parts.
        on_end: told each part that ended, how many have, and of how many.

    Raises:
        BadInput: if the recipe cannot work, or has too few seeds; nothing is started then.
        NuggetsError: if a part does not reach its end; what was trained by then is kept.
    """
    parts, ended = split(recipe, n), 0
    check_can_work(recipe)

    def one_ended(run: Run, status: RunStatus) -> None:
        nonlocal ended
        check_done(run, status)
        ended += 1
        on_end(run, ended, n)

    runs = [create(part) for part in parts]
    submit_all(runs, on_end=one_ended)
    return runs
