"""Measurements that a view lacks: what to click, then live progress until it is there.

Which runs belong to a view is read from the runs themselves, so a reload or a second window sees
the same measurements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.recipe import AlignJob, EraseJob, SensitivityJob
from nuggets.ui.frame import live, safe, waiting

Measurement = SensitivityJob | AlignJob | EraseJob
LOOK_BACK = 40
"""Newest runs among which a measurement is looked for."""


def measured_map(job: SensitivityJob) -> api.SensitivityMap | None:
    """The map of a job, if there is one; found again at once within half a minute."""
    return _measured(job, job.model, api.find_map)


def measured_erasure(job: EraseJob) -> api.ErasureReport | None:
    """As `measured_map`, of what erasing showed."""
    return _measured(job, job.model, api.find_erasure)


def _measured(job: Measurement, model: str, find: Callable[[Any], Any]) -> Any:
    key = api.dump_job(job)

    def found() -> Any:
        try:
            return _kept(key, job, find)
        except LookupError:
            return None

    place = hashlib.sha256(key.encode()).hexdigest()[:12]
    saying = f"Recognising {model}: all of its files are read once."
    return waiting.read(f"measured-{place}", key, found, saying)


@st.cache_resource(ttl=30, max_entries=64, show_spinner=False)
def _kept(key: str, _job: Measurement, _find: Callable[[Any], Any]) -> Any:
    found = _find(_job)
    if found is None:
        raise LookupError(key)  # errors are not kept, so a new map shows at once
    return found


def missing(
    title: str, sentence: str, offers: Mapping[str, Sequence[Measurement]], key: str
) -> None:
    """Says what is missing and offers to measure it; while it is measured, shows how far it is.

    Args:
        title: what is missing, in a few words.
        sentence: what the measurement gives, and how long it takes.
        offers: button → the jobs that it starts; the first is the one to recommend.
        key: unique on the page.
    """
    with st.container(border=True, key=f"{key}-missing"):
        st.subheader(title, anchor=False)
        st.text(sentence)
        wanted = [job for jobs in offers.values() for job in jobs]
        running = runs_of(wanted)
        busy = [job for job, run in running if run.status() in api.LIVE]
        with st.container(horizontal=True):
            for place, (label, jobs) in enumerate(offers.items()):
                st.button(
                    label,
                    key=f"{key}-offer-{place}",
                    type="primary" if place == 0 else "secondary",
                    disabled=all(job in busy for job in jobs),
                    on_click=start,
                    args=([job for job in jobs if job not in busy],),
                )
        progress(wanted, key)


def progress(jobs: Sequence[Measurement], key: str) -> None:
    """Live panels of the runs of these jobs that compute, wait, or ended without a result."""
    safe.refused()
    shown = [run for _, run in runs_of(jobs) if run.status() not in ("done", "created")]
    for run in shown[:1]:
        live.panel(run, key=f"{key}-{run.id}", losses=False)
    live.lines(tuple(run.id for run in shown[1:] if run.status() in api.LIVE))


@safe.refused_later()
def start(jobs: Sequence[Measurement]) -> None:
    """Starts measurements from a button; what is refused is shown in the next full run."""
    for job in jobs:
        api.start(job)


def runs_of(jobs: Sequence[Measurement]) -> list[tuple[Measurement, api.Run]]:
    """The newest run of each of these jobs, oldest run first, as far as there is one."""
    kinds = {job.job for job in jobs}
    found: list[tuple[Measurement, api.Run]] = []
    for run in api.runs()[:LOOK_BACK]:
        if run.status() == "damaged" or run.record().kind not in kinds:
            continue
        try:
            job = api.job_of(run)
        except NuggetsError:
            continue  # a recipe that cannot be read is a matter for the Runs page
        if job in jobs and all(job != other for other, _ in found):
            found.insert(0, (job, run))  # type: ignore[arg-type]
    return found
