"""What a sweep has found so far: a journal in its folder, to which every step adds one line.

A line is a `SweepState` with the trials that changed; later lines win. Earlier versions replaced
one document, `sweep.json`, which counts as the first line.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nuggets.disk.commit import append_line
from nuggets.errors import Damaged
from nuggets.frozen import Frozen
from nuggets.statistics.intervals import Interval
from nuggets.statistics.verdict import Difference, Verdict

STATE, WHOLE = "sweep.jsonl", "sweep.json"


class SweepTrial(Frozen):
    """One trial.

    Attributes:
        number: from 0, in the order in which trials were chosen.
        values: field → value of every field that was active.
        run: the id of its run; empty before it began.
        scores: each objective with its interval, on validation items; empty where it failed or
            was pruned.
        reason: why it failed or was pruned, in one sentence.
        seconds: what it took; nothing where another trial had the same recipe.
    """

    number: int
    values: dict[str, Any]
    status: Literal["running", "done", "failed", "pruned"] = "running"
    run: str = ""
    scores: tuple[Interval, ...] = ()
    reason: str = ""
    seconds: float = 0.0


class Confirmed(Frozen):
    """What held of the winner on fresh seeds and untouched test items, with all arms of the base.

    Attributes:
        trial: the winner's number.
        run: of the winner.
        default_run: of the base; the same where the base won.
        verdict: of the winner's run, and the sweep's only one.
        selected: each objective as the search saw it.
        scores: each objective as it was confirmed.
        default_scores: likewise, of the base.
        optimism: selected minus confirmed, each objective, turned so that positive is optimistic.
        gains: the winner's arm against the base's arm and the base's plain LoRA; none where the
            base won.
    """

    trial: int
    run: str
    default_run: str
    verdict: Verdict
    selected: tuple[Interval, ...]
    scores: tuple[Interval, ...]
    default_scores: tuple[Interval, ...]
    optimism: tuple[Interval, ...]
    gains: tuple[Difference, ...] = ()


class SweepState(Frozen):
    """A sweep's trials in their order, and what they say together.

    Attributes:
        importance: per objective, field → share of the differences between trials that go with it
            (PED-ANOVA); empty while there are too few trials.
        stopped: why the search ended before its last trial, in one sentence.
        confirming: `winner` and `default` → the id of the run that confirms it.
        confirmed: the confirmation, once it is there.
        seconds: what the search took, in all attempts together.
    """

    trials: tuple[SweepTrial, ...] = ()
    importance: tuple[dict[str, float], ...] = ()
    stopped: str = ""
    confirming: dict[str, str] = Field(default_factory=dict)
    confirmed: Confirmed | None = None
    seconds: float = 0.0

    @property
    def done(self) -> list[SweepTrial]:
        """The trials that have scores."""
        return [trial for trial in self.trials if trial.status == "done"]

    def with_trial(self, trial: SweepTrial) -> SweepState:
        """The same with one trial added or replaced."""
        place = bisect_left(self.trials, trial.number, key=lambda each: each.number)
        old = [each for each in self.trials[place : place + 1] if each.number == trial.number]
        after = self.trials[place + len(old) :]
        return self.model_copy(update={"trials": (*self.trials[:place], trial, *after)})


def read_state(folder: Path) -> SweepState:
    """What a sweep's folder holds; nothing before its first trial.

    Raises:
        Damaged: if it cannot be read.
    """
    read = SweepState().model_dump()
    trials: dict[int, Any] = {}
    path = folder / WHOLE
    try:
        lines = [path.read_bytes()] if path.is_file() else []
        path = folder / STATE
        if path.is_file():  # a last line without an end is one that is being written
            lines += path.read_bytes().split(b"\n")[:-1]
        for line in lines:
            read = json.loads(line)
            trials |= {trial["number"]: trial for trial in read["trials"]}
        ordered = [trials[number] for number in sorted(trials)]
        return SweepState.model_validate({**read, "trials": ordered})
    except (ValueError, LookupError, TypeError) as problem:
        raise Damaged(
            f"{path} cannot be read ({type(problem).__name__}). Its trials are ordinary runs and "
            "still there; delete the sweep and start it again, which computes nothing twice."
        ) from None


def write_state(
    folder: Path, state: SweepState, changed: Iterable[SweepTrial] | None = None
) -> None:
    """Adds what changed since it was written last; all trials where nobody says which."""
    trials = state.trials if changed is None else tuple(changed)
    line = state.model_copy(update={"trials": trials}).model_dump_json()
    append_line(folder / STATE, line)
