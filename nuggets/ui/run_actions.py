"""What can be done with one run beside following it: notes, comparison, export, deletion."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.errors import NuggetsError
from nuggets.recipe import TransferRecipe
from nuggets.ui import safe, share

NOTES_LENGTH = 4000


def notes(run: api.Run) -> None:
    """The user's own words about a run, kept as soon as the field is left."""
    key = f"notes-{run.id}"
    st.text_area(
        "Notes",
        run.notes(),
        key=key,
        max_chars=NOTES_LENGTH,
        height=90,
        placeholder="What you wanted to know, what you saw.",
        on_change=_save_notes,
        args=(run, key),
    )


def _save_notes(run: api.Run, key: str) -> None:
    try:
        run.set_notes(st.session_state[key])
    except NuggetsError as error:
        st.session_state["nuggets-refused"] = str(error)


def compare(run: api.Run) -> None:
    """What differs between two runs: recipe beside results."""
    others = [other.id for other in api.runs() if other.id != run.id and _alike(other, run)]
    if not others:
        st.text("There is no other run of this kind to compare with.")
        return
    other = st.selectbox(
        "With",
        others,
        index=None,
        key="with",
        bind="query-params",
        placeholder="choose another run",
    )
    if other is None:
        return
    found = api.compare([run, api.open_run(other)])
    command = f"nuggets compare {run.id} {other}"
    left, right = st.columns(2)
    with left:
        _differences(found["recipe"], "recipe", "The recipes are the same.", run.id, other, command)
    with right:
        _differences(found["results"], "results", "No results yet.", run.id, other, command)
    for run_id, sentence in zip((run.id, other), found["verdicts"], strict=True):
        st.text(f"{run_id}: {sentence or 'no verdict'}")


def _alike(one: api.Run, other: api.Run) -> bool:
    """Whether two runs do the same kind of job, so that their fields can be compared."""
    if "damaged" in (one.status(), other.status()):
        return False
    return one.record().kind == other.record().kind


def _differences(
    rows: dict[str, list[object]], what: str, empty: str, first: str, second: str, command: str
) -> None:
    if not rows:
        st.text(empty)
        return
    lines = [
        {what: name, first: _shown(values[0]), second: _shown(values[1])}
        for name, values in rows.items()
    ]
    title = "recipes" if what == "recipe" else what
    share.table(pd.DataFrame(lines), f"diff-{what}", f"What differs in the {title}", command)


def _shown(value: object) -> str:
    return "–" if value is None else str(value)


def export(run: api.Run, job: TransferRecipe) -> None:
    """Writes an arm's adapter, for the untouched student, into a new folder."""
    finished = {(cell.arm, cell.seed) for cell in api.cells(run)}
    arms = [arm.name for arm in job.arms if any(arm.name == name for name, _ in finished)]
    if not arms:
        st.text("No arm has finished yet.")
        return
    left, right = st.columns(2)
    with left:
        arm = st.selectbox("Arm", arms, index=len(arms) - 1, key="export-arm")
    with right:
        seeds = [seed for name, seed in sorted(finished) if name == arm]
        seed = st.selectbox("Seed", seeds, key="export-seed")
    folder = Path(api.doctor().home) / "exports" / f"{run.id}-{arm}-{seed}"
    out = st.text_input("New folder", str(folder), key=f"export-{run.id}-{arm}-{seed}")
    st.code(
        f"nuggets export {run.id} --arm {arm} --seed {seed} --out {out}",
        language="bash",
        wrap_lines=True,
    )
    if st.button("Write the PEFT adapter", type="primary", key="export"):
        with safe.shown_problems("exported"):
            api.export(run, Path(out).expanduser(), arm, seed)
            st.badge("Written", color="green")
            st.code(out, language=None)


@st.dialog("Delete this run?")
def confirm_delete(run: api.Run) -> None:
    """Asks once more; the run's folder is then gone for good."""
    st.text(run.id)
    st.text("Its record, adapters and answers are deleted for good.")
    with st.container(horizontal=True):
        if st.button("Delete", type="primary", key="delete-yes"):
            _delete(run.id)
            st.rerun()
        if st.button("Keep", key="delete-no"):
            st.rerun()


def _delete(run_id: str) -> None:
    try:
        api.delete(run_id)
    except NuggetsError as error:
        st.session_state["nuggets-refused"] = str(error)
