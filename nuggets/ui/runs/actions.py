"""What can be done with one run beside following it: notes, comparison, export, deletion."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pandas as pd
import streamlit as st

from nuggets import api, demo
from nuggets.amounts import plain_name
from nuggets.recipe import TransferRecipe
from nuggets.ui.charts import benchmarks as benchmarks_charts
from nuggets.ui.frame import fields, heading, safe, share, shell

NOTES_LENGTH = 4000
ADAPTER = "PEFT adapter, for the untouched student"
WHOLE = "Whole model, merged (ready for GGUF conversion)"
MOST_COMPARED = 7
MOST_DOWNLOADED = 200 * 2**20
"""Bytes of a run that the browser may be given at once; a larger one is written to disk."""


def notes(run: api.Run) -> None:
    """The user's own words about a run, kept as soon as the field is left."""
    if demo.on():
        return
    key = f"notes-{run.id}"
    st.text_area(
        "Notes",
        run.notes(),
        key=key,
        max_chars=NOTES_LENGTH,
        height=90,
        placeholder="What you wanted to find out, and what you observed.",
        on_change=_save_notes,
        args=(run, key),
    )


@safe.refused_later()
def _save_notes(run: api.Run, key: str) -> None:
    run.set_notes(st.session_state[key])


def compare(run: api.Run) -> None:
    """What differs between two or more runs: recipe beside results."""
    others = [other for other in api.runs() if other.id != run.id and _alike(other, run)]
    if not others:
        st.text("There is no other run of the same kind to compare with.")
        return
    names = api.titles([run, *others])
    shell.from_address("with", [other.id for other in others], many=True)
    chosen = st.multiselect(
        "Compare with",
        [other.id for other in others],
        key="with",
        format_func=lambda other: names.get(other, str(other)),
        max_selections=MOST_COMPARED,
        placeholder="choose one or more runs",
    )
    shell.keep_in_address("with")
    ids = [run.id, *chosen]
    if len(ids) < 2:
        return
    found = api.compare([api.open_run(run_id) for run_id in ids])
    origin = share.Origin(f"nuggets compare {' '.join(ids)}")
    letters = ascii_uppercase[: len(ids)]  # names of runs are too long for columns
    for letter, each, sentence in zip(letters, ids, found["verdicts"], strict=True):
        st.text(f"{letter}: {names[each]}. {sentence or 'No verdict.'}")
    _differences(found["recipe"], "recipe", "The recipes are the same.", list(letters), origin)
    minus = [f"{letter} − A" for letter in letters[1:]]
    results = {arm: [*each, *found["differences"][arm]] for arm, each in found["results"].items()}
    _differences(results, "results", "No results yet.", [*letters, *minus], origin)
    _overlaid(dict(zip(letters, map(api.open_run, ids), strict=True)), origin)


def _alike(one: api.Run, other: api.Run) -> bool:
    """Whether two runs do the same kind of job, so that their fields can be compared."""
    if "damaged" in (one.status(), other.status()):
        return False
    return one.record().kind == other.record().kind


def _differences(
    rows: dict[str, list[object]], what: str, empty: str, runs: list[str], origin: share.Origin
) -> None:
    if not rows:
        st.text(empty)
        return
    lines = [(name, *("–" if v is None else str(v) for v in row)) for name, row in rows.items()]
    title = "recipes" if what == "recipe" else what
    frame = pd.DataFrame(lines, columns=[what, *runs])
    note = "; differences are paired by seed and item, 95 %, positive is better"
    share.table(frame, f"diff-{what}", f"What differs in the {title}"
                f"{note if what == 'results' else ''}", origin)  # fmt: skip


def _overlaid(runs: dict[str, api.Run], origin: share.Origin) -> None:
    """The learning curves of one arm in all of the runs that have it."""
    reports = {name: found for name, run in runs.items() if (found := api.report(run))}
    metrics = {found.metric for found in reports.values()}
    arms = list(dict.fromkeys(arm for found in reports.values() for arm in found.arms))
    common = [arm for arm in arms if sum(arm in found.arms for found in reports.values()) > 1]
    if not common or len(metrics) > 1:
        return
    judged = next(iter(reports.values())).verdict.treatment
    default = common.index(judged) if judged in common else 0
    arm = st.selectbox("Arm", common, index=default, key="overlaid-arm")
    with_it = {name: found for name, found in reports.items() if arm in found.arms}
    frame = benchmarks_charts.runs_frame(with_it, arm)
    share.Picture(
        benchmarks_charts.runs_figure(frame, plain_name(metrics.pop()), share.look()),
        frame,
        "overlaid",
        f"Learning curves of {arm}: mean over seeds, 95 % bands · "
        + " · ".join(f"{letter}: {api.about(runs[letter]).title}" for letter in with_it),
        origin,
        f"Learning curves of {arm}, one for each run",
    ).draw()


def export(run: api.Run, job: TransferRecipe) -> None:
    """Writes an arm's adapter, or the whole model, into a new folder."""
    finished = {(cell.arm, cell.seed) for cell in api.cells(run)}
    arms = [arm.name for arm in job.arms if any(arm.name == name for name, _ in finished)]
    if not arms:
        st.text("No arm has finished yet.")
        return
    judged = heading.verdict_of(run)
    treatments = [name for name, part in job.parts.items() if part.role == "treatment"]
    wanted = [judged.treatment] if judged and judged.treatment else treatments
    default = next((arm for arm in wanted if arm in arms), arms[-1])
    left, right = st.columns(2)
    with left:
        arm = st.selectbox("Arm", arms, index=arms.index(default), key="export-arm")
    with right:
        seeds = [seed for name, seed in sorted(finished) if name == arm]
        seed = st.selectbox("Seed", seeds, key="export-seed")
    what = st.radio("What", (ADAPTER, WHOLE), key="export-what", horizontal=True)
    option, ending = (" --merged", "-whole") if what == WHOLE else ("", "")
    folder = api.exports_dir() / f"{run.id}-{arm}-{seed}{ending}"
    out = st.text_input("New folder", str(folder), key=f"export-{run.id}-{arm}-{seed}{ending}")
    words = f"nuggets export {run.id} --arm {arm} --seed {seed}{option}"
    st.code(
        f"{words} --out {out}\n{words} --push org/name --dry-run  # to the Hugging Face Hub",
        language="bash",
        wrap_lines=True,
    )
    thing = "whole model" if what == WHOLE else "PEFT adapter"
    if st.button(f"Export the {thing}", type="primary", key="export"):
        with safe.shown_problems("exported"):
            with st.spinner("Writing the folder"):
                api.export_apart(run, Path(out).expanduser(), arm, seed, what == WHOLE)
            st.badge("Written", color="green")
            st.code(out, language=None)


def bundle(run: api.Run) -> None:
    """The whole run as one file: written to disk, and handed to the browser if not too large."""
    st.subheader("The complete run as one file", anchor=False)
    st.text(
        "Contains the recipe, versions, digests, sums of the maps, adapters, every answer and a "
        "page with the figures. It opens on a machine without the models."
    )
    path = api.exports_dir() / f"{run.id}.nuggets.zip"
    if not api.bundles.holds_all(run, path):
        if st.button("Create the bundle", key="bundle"):
            with safe.shown_problems("bundled"):
                path.unlink(missing_ok=True)  # of the run as it was
                api.bundles.write_bundle(run, path)
                st.rerun()
    else:
        st.code(str(path), language=None)
        if path.stat().st_size <= MOST_DOWNLOADED:
            st.download_button("Download the bundle", path.read_bytes, path.name,
                               "application/zip", key="bundle-file", on_click="ignore")  # fmt: skip
    st.code(f"nuggets bundle {run.id} --out {run.id}.nuggets.zip", language="bash", wrap_lines=True)


def import_bundle() -> None:
    """A bundle from an upload, or from a path for those that are too large to upload."""
    if demo.on():
        return
    with fields.popover("Import a run", "import"):
        file = st.file_uploader("Bundle", type=["zip"], key="bundle-upload")
        path = st.text_input("or a file on this machine", key="bundle-path")
        st.button("Import", key="import-now", on_click=_import, args=(file, path),
                  disabled=file is None and not path.strip())  # fmt: skip


@safe.refused_later()
def _import(file: Any, path: str) -> None:
    if file is not None:
        run = api.bundles.read_upload(file.getvalue())
    else:
        run = api.bundles.read_bundle(Path(path.strip()).expanduser())
    shell.choose(run=run.id)
    fields.close("import")


@st.dialog("Delete this run?")
def confirm_delete(run: api.Run) -> None:
    """Asks once more; the run's folder is then gone for good."""
    st.text(api.about(run).title, help=safe.label(f"Run {run.id}", 80))
    st.text("Its record, adapters and answers will be deleted permanently.")
    with st.container(horizontal=True):
        if st.button("Delete", type="primary", key="delete-yes"):
            with safe.refused_later():
                api.delete(run.id)
            st.rerun()
        if st.button("Keep", key="delete-no"):
            st.rerun()
