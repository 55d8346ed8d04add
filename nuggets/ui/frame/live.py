"""The panel of one run: status, stage, progress, time, loss, log; cancel and resume.

It polls only while the run lives, and draws the whole page once more when the run ends. The run
is another process: a reload, another page or a restart of the app does not touch it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import streamlit as st

from nuggets import api, demo
from nuggets.amounts import duration, duration_between
from nuggets.errors import NuggetsError
from nuggets.recipe import TransferRecipe
from nuggets.runs.schema import RunRecord, now
from nuggets.statistics.verdict import ArmRole
from nuggets.ui.frame import consent, heading, safe

TICK_S = 1.0
ACTED = "nuggets-acted"
"""Set by the buttons of a panel: the whole page has to be drawn again."""
WINDOW = 7
"""Ticks of progress from which the speed is taken."""
VAGUE = 8
"""Times the shorter end of an estimate, beyond which the longer one says nothing."""
RUN_ID = re.compile(r"\d{8}-\d{6}-[\w-]+")
QUIET = ("", "queued", "running", "done")
"""Messages that say no more than the status does."""
STAGE_WEIGHTS = {"train": 40, "sensitivity": 2}
"""How long stages take against each other, roughly; others take 1."""


def panel(run: api.Run, key: str = "live", losses: bool = True) -> None:
    """Draws the panel of a run in any state; training losses belong to transfers."""
    is_live = run.status() in api.LIVE
    safe.fragment(_panel, run_every=TICK_S if is_live else None)(run, key, losses, is_live)


def _panel(run: api.Run, key: str, losses: bool, was_live: bool) -> None:
    status = run.status()
    acted = st.session_state.pop(ACTED, False)
    if acted or (was_live and status not in api.LIVE):
        # Its buttons draw this panel alone, which cannot begin or stop its own polling.
        st.rerun()
    with st.container(border=True, key=f"nuggets-{key}", gap="small"):
        if status == "damaged":
            safe.problem(run.problem() or "This run cannot be read.", f"{key}-damaged")
            return
        record = run.record()
        _head(run, status, key)
        if status != "done":
            st.progress(overall(record))
        _clocks(record, status, told(run), run.queued_job() if status == "queued" else "")
        if record.error is not None and status != "cancelled":
            safe.problem(record.error.message, f"{key}-error", "The run failed")
        if losses:
            _losses(run, key)
            _identity(run, key)
        _log(run, key)


def _head(run: api.Run, status: api.RunStatus, key: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        heading.line(run)
        if demo.on():
            return
        if status in api.LIVE:
            asked = run.cancel_requested()
            st.button(
                "Stopping…" if asked else "Cancel",
                key=f"{key}-cancel",
                disabled=asked,
                on_click=act,
                args=(api.cancel, run.id),
            )
        if status in api.RESUMABLE:
            _resume(run, key, "Start" if status == "created" else "Resume")


def _resume(run: api.Run, key: str, word: str) -> None:
    with safe.shown_problems(f"{key}-stranger"):
        if wants := api.strangers.wanted_by(run.id):
            with st.popover(f"{word}…", key=f"{key}-consent"):
                names = consent.ticked(wants, key)
                st.button(
                    f"Allow this and {word.lower()}",
                    key=f"{key}-resume",
                    on_click=act,
                    args=(consent.allow_and_resume, run.id, names),
                )
            return
        st.button(
            word,
            key=f"{key}-resume",
            type="primary",
            on_click=act,
            args=(api.resume, run.id),
            help="Continues from the last checkpoint." if word == "Resume" else None,
        )


def act(action: Any, *what: Any) -> None:
    """Does something to a run from a button; what is refused is shown in the next full run."""
    st.session_state[ACTED] = True
    with safe.refused_later():
        action(*what)


def overall(record: RunRecord) -> float:
    """The fraction done of the whole run."""
    if record.status == "done":
        return 1.0
    if record.stage not in record.stages:
        return 0.0
    weights = [STAGE_WEIGHTS.get(stage, 1) for stage in record.stages]
    place = record.stages.index(record.stage)
    done = sum(weights[:place]) + weights[place] * (record.progress or 0.0)
    return min(1.0, done / sum(weights))


def lines(ids: tuple[str, ...]) -> None:
    """A line per run that computes or waits; the page is drawn again when one of them ends."""
    if ids:
        safe.fragment(_lines, run_every=1.5)(ids)


def _lines(ids: tuple[str, ...]) -> None:
    left = [run for run in api.runs() if run.id in ids and run.status() in api.LIVE]
    if len(left) < len(ids):
        st.rerun()
    for run in left:
        record = run.record()
        words = safe.label(f"{api.about(run).title}: {record.stage or run.status()}", 90)
        st.progress(overall(record), text=words)


def row(run: api.Run) -> dict[str, str]:
    """One run in a table of runs."""
    row = {"run": api.about(run).title, "status": str(run.status()), "kind": "", "took": ""}
    if row["status"] != "damaged":
        record = run.record()
        row |= {"kind": record.kind, "took": duration(elapsed(record))}
    return row


def elapsed(record: RunRecord, at: datetime | None = None) -> float | None:
    """Seconds of the newest attempt, to its end or to now."""
    if record.started is None:
        return None
    return max(0.0, ((record.finished or at or now()) - record.started).total_seconds())


def remaining(
    ticks: Sequence[tuple[datetime, float]], at: datetime | None = None
) -> tuple[float, float] | None:
    """Seconds left in a stage, at the fastest and the slowest of its last speeds.

    None while too early to say: before three ticks, of which the first may count warming up.
    """
    recent = ticks[-WINDOW:]
    steps = [
        (later - earlier).total_seconds() / (more - less)
        for (earlier, less), (later, more) in pairwise(recent)
        if more > less
    ]
    if len(steps) < 2:
        return None
    last, done = recent[-1]
    waited = ((at or now()) - last).total_seconds()
    low, high = (max(0.0, pace * (1 - done) - waited) for pace in (min(steps), max(steps)))
    return low, high


def _between(left: tuple[float, float] | None) -> str:
    if left is None or left[1] > VAGUE * max(left[0], 1.0):
        return "no estimate yet"
    return duration_between(*left)


def _clocks(record: RunRecord, status: api.RunStatus, known: Told, job: str) -> None:
    place = record.stages.index(record.stage) + 1 if record.stage in record.stages else 0
    stage = f"{record.stage} ({place} of {len(record.stages)})" if place else record.stage
    if known.doing and known.doing != record.stage and status in api.LIVE:
        doing = RUN_ID.sub(lambda found: _named(found[0]), known.doing)
        stage = f"{stage}, {doing}" if stage and status == "running" else doing.rstrip(".")
    begun = "starting (loading PyTorch)" if status == "running" else "not started"
    if job:
        begun = f"waiting in the queue as {job}"
    parts = [f"Stage: {stage or begun}", f"Elapsed: {duration(elapsed(record))}"]
    if status == "interrupted":
        parts[1] = "The worker stopped; committed results are safe"
    if status in api.LIVE:
        left = remaining(known.ticks)
        parts.append(f"Time left: {_between(left)}")
    parts.append(f"Device: {record.provenance.device}")
    st.text("  ·  ".join(parts))


def _named(run_id: str) -> str:
    """Another run's name for people, where it is still there."""
    try:
        return f"“{api.about(api.open_run(run_id)).title}”"
    except NuggetsError:
        return run_id


def _losses(run: api.Run, key: str) -> None:
    from nuggets.ui.charts import transfer as transfer_charts
    from nuggets.ui.frame import share

    frame = transfer_charts.losses_frame(told(run).losses)
    if frame.empty:
        return
    job = api.job_of(run)
    parts = job.parts if isinstance(job, TransferRecipe) else {}
    roles: dict[str, ArmRole] = {arm: part.role for arm, part in parts.items()}
    few, most = min(frame["seeds"]), max(frame["seeds"])
    seeds = "1 seed" if most == 1 else f"{most} seeds" if few == most else f"{few} to {most} seeds"
    band = "" if most == 1 else "; bands from the lowest to the highest seed"
    share.Picture(
        transfer_charts.losses_figure(frame, share.look(), roles),
        frame,
        f"{key}-losses",
        f"Training loss, mean over {seeds}{band} · {api.about(run).title}",
        share.Origin.of(job),
        "Training loss of each arm by step",
    ).draw()


def _identity(run: api.Run, key: str) -> None:
    """How far every arm's logits were from the untouched student's before its first step."""
    known = told(run).step0
    if not known:
        return
    from nuggets.ui.charts import transfer as transfer_charts
    from nuggets.ui.frame import share

    job = api.job_of(run)
    arms = {arm.name: arm for arm in job.arms} if isinstance(job, TransferRecipe) else {}
    frame = transfer_charts.identity_frame(known, arms)
    with st.expander(transfer_charts.identity_title(frame), key=f"{key}-identity"):
        st.text(
            "The largest difference between the logits of the arm before its first step and "
            "those of the untouched student, over a few test items. Each arm's initialisation is "
            "subtracted from the base weights, so the arm computes the student's function up to "
            "rounding: about 1e-5 to 1e-4 in float32, up to 0.1 in bfloat16. A larger value "
            "means that the arm did not start from the student."
        )
        share.table(
            frame,
            f"{key}-step0",
            f"Step-0 identity · {api.about(run).title}",
            share.Origin.of(job),
            height="content",
            column_config={"max |Δ logit|": st.column_config.NumberColumn(format="%.1e")},
        )


@dataclass
class Told:
    """What a run's events said so far."""

    last_seq: int = -1
    doing: str = ""
    ticks: list[tuple[datetime, float]] = field(default_factory=list)
    losses: list[dict[str, float | str]] = field(default_factory=list)
    step0: dict[str, dict[int, float | None]] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)


def told(run: api.Run) -> Told:
    """Reads the events since the last look; each is read once in a session."""
    known = st.session_state.setdefault("nuggets-told", {}).setdefault(run.id, Told())
    for event in run.events(after_seq=known.last_seq):
        known.last_seq = event.seq
        _hear(event, known)
    return known


def _hear(event: api.RunEvent, known: Told) -> None:
    data = event.data
    if event.type == "log":
        known.sentences.append(event.message)
    if event.type in ("progress", "stage", "status"):
        known.doing = "" if event.message in QUIET else event.message
    if event.type in ("stage", "status"):
        known.ticks.clear()
    done, total = data.get("done"), data.get("total")
    if (
        event.type == "progress"
        and isinstance(done, int | float)
        and isinstance(total, int | float)
    ):
        known.ticks.append((event.time, done / total if total else 0.0))
    loss, step = data.get("loss"), data.get("step")
    if event.type == "metric" and isinstance(loss, int | float) and isinstance(step, int):
        arm = str(data.get("arm") or event.stage)
        seed = str(data.get("seed"))
        known.losses.append({"arm": arm, "seed": seed, "step": step, "loss": float(loss)})
    if event.type == "metric" and "step0" in data:
        step0: Any = data["step0"]
        known.step0.setdefault(str(data.get("arm")), {})[int(str(data.get("seed", 0)))] = step0


def _log(run: api.Run, key: str) -> None:
    tail = "" if demo.on() else run.log_tail(30)  # which may name folders of the server
    with st.expander("Log", key=f"{key}-log"):
        sentences = told(run).sentences[-12:]
        st.code("\n".join(sentences) or "No output yet.", language=None, wrap_lines=True)
        if tail:
            st.caption("Worker log")
            st.code(tail, language=None, height=180)
