"""The maps that the Sensitivity page can show: skills, own samples, and maps of past runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.models.references import short_name
from nuggets.recipe import SensitivityJob, TransferRecipe
from nuggets.ui.frame import measure, share, shell

LOOK_BACK = 60
"""Newest runs whose maps are offered."""


@dataclass(frozen=True, eq=False)
class Source:
    """One map with where it comes from.

    Attributes:
        label: what people call it.
        job: the measurement that gives it; None for a map of an atlas.
        map: the map.
        run: the run that it was taken from, if it was chosen by its run.
        atlas: the atlas that it is in.
        erasure: what erasing showed, as the atlas has it.
    """

    label: str
    job: SensitivityJob | None
    map: api.SensitivityMap
    run: str | None = None
    atlas: str | None = None
    erasure: api.ErasureReport | None = None

    def origin(self, then: str) -> share.Origin:
        """What gives the map again; `then` is Python that ends in what is shown of it."""
        if self.job is not None:
            return share.Origin.of(self.job, then)
        python = f"from nuggets import api\n\natlas = api.atlases.open_atlas({self.atlas!r})\n"
        python += (
            f"map, report = (each.get({self.label!r}) for each in (atlas.maps, atlas.erasures))\n"
        )
        return share.Origin(f"nuggets atlas show {self.atlas}", python + then)

    @property
    def about(self) -> str:
        """Model, samples and identity, for captions."""
        digest = str(self.map.meta.get("digest", ""))[:8] or "unnamed"
        model = short_name(self.map.meta.get("model") or (self.job.model if self.job else ""))
        run = f" · run {self.run}" if self.run else ""
        return f"{model} · {self.map.n_samples} samples · map {digest}{run}"


Sources = Mapping[str, Source]


def job_for(choice: shell.Choice, model: str, data: api.DataConfig, name: str) -> SensitivityJob:
    """The usual measurement of some samples."""
    word = "".join(c if c.isalnum() else "-" for c in name)[:24]
    return SensitivityJob(
        name=f"sensitivity-{word}",
        model=model,
        data=data,
        sensitivity=choice.sensitivity(),
        device=choice.device,
    )


def jobs(choice: shell.Choice, model: str) -> dict[str, SensitivityJob]:
    """The measurement of every skill and of all own samples, by name."""
    data = {task: api.DataConfig(task=task) for task in api.skills()} | api.own_data()
    return {name: job_for(choice, model, each, name) for name, each in data.items()}


def measured(wanted: Mapping[str, SensitivityJob]) -> dict[str, Source]:
    """Those that were measured before. Samples that cannot be read are left to the page's own."""
    found = {}
    for name, job in wanted.items():
        try:
            map = measure.measured_map(job)
        except NuggetsError:
            if job.data.task is not None:
                raise
            continue
        if map is not None:
            found[name] = Source(name, job, map)
    return found


def past_runs(model: str) -> list[api.Run]:
    """Runs that left a map of this model, newest first."""
    return [
        run
        for run in api.runs()[:LOOK_BACK]
        if run.status() != "damaged"
        and run.record().kind in ("sensitivity", "transfer")
        and _model_of(run.id) == model
        and (run.folder / "artifacts" / "map").is_dir()
    ]


def of_run(run_id: str) -> Source:
    """The map of a past run: entry by entry if it is still kept, else its row and column sums.

    Raises:
        NuggetsError: if the run or its map cannot be read.
    """
    run = api.open_run(run_id)
    job = _job_of(run)
    try:
        api.strangers.job_of(run)
        map = measure.measured_map(job)
    except NuggetsError:  # a stranger's, or its samples are gone; what the run kept is there
        map = None
    map = map or api.map_of(run)
    assert map is not None
    return Source(f"{map.meta.get('label') or run.record().name} (run)", job, map, run.id)


def _job_of(run: api.Run) -> SensitivityJob:
    job = api.job_of(run)
    if isinstance(job, TransferRecipe):
        return api.map_job(job)
    assert isinstance(job, SensitivityJob)
    return job


@st.cache_data(max_entries=512, show_spinner=False)
def _model_of(run_id: str) -> str | None:
    """A run's recipe never changes, and reading it takes milliseconds."""
    try:
        return _job_of(api.open_run(run_id)).model
    except NuggetsError:
        return None
