"""Runs: find, open, resume, annotate, compare, export, delete."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from nuggets import amounts, api, demo
from nuggets.errors import NuggetsError
from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import live, safe, share, shell, visitors
from nuggets.ui.frame.engine import engine
from nuggets.ui.runs import actions as run_actions

ANY = "any"
KINDS = (ANY, "transfer", "sensitivity", "align", "erase", "evaluate")
STATUSES = (ANY, *safe.STATUS_COLOURS)


def main() -> None:
    """Draws the page."""
    st.title("Runs", anchor=False)
    safe.refused()
    runs = api.runs()
    run_actions.import_bundle()
    engine()
    if not runs:
        st.text("No runs yet. Start one on the Plan page, or click “Run it yourself” on Home.")
        shell.link("transfer", "Open Plan")
        return
    _table(_filtered(runs))
    choice = shell.current()
    if choice.run is None:
        st.text("To open a run, click the box in front of its row, or choose it in the sidebar.")
        return
    _details(api.open_run(choice.run))


def _filtered(runs: list[api.Run]) -> pd.DataFrame:
    left, middle, right = st.columns([2, 2, 3])
    with left:
        status = st.selectbox("Status", STATUSES, key="status", bind="query-params")
    with middle:
        kind = st.selectbox("Kind", KINDS, key="kind", bind="query-params")
    with right:
        text = st.text_input("Search", key="containing", bind="query-params")
    rows = [live.row(run) | {"notes": " ".join(run.notes().split()), "id": run.id} for run in runs]
    sizes = (api.pruning.run_size(run) / 1e6 for run in runs)
    return pd.DataFrame(
        {**row, "size": size}
        for row, size in zip(rows, sizes, strict=True)
        if status in (ANY, row["status"])
        and kind in (ANY, row["kind"])
        and text.strip().lower() in " ".join(row.values()).lower()
    )


def _table(rows: pd.DataFrame) -> None:
    if rows.empty:
        st.text("No run matches the filter.")
        return
    ids = rows["id"].tolist()
    share.table(
        rows,
        "runs-table",
        f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}, newest first",
        share.Origin("nuggets list"),
        shown=rows.drop(columns="id"),
        column_config={
            "run": st.column_config.TextColumn(width="large"),
            "size": st.column_config.NumberColumn("size (MB)", format="%.1f"),
        },
        on_select=lambda: _open_selected(ids),
        selection_mode="single-row",
        height=min(35 * (len(rows) + 1) + 3, 300),
        alt="Runs with status, kind, duration, notes and size on disk",
    )


def _open_selected(ids: list[str]) -> None:
    selected = st.session_state["runs-table"].selection.rows
    if selected and selected[0] < len(ids):
        shell.choose(run=ids[selected[0]])


def _details(run: api.Run) -> None:
    status = run.status()
    live.panel(run, "opened", losses=False)
    overview, compare, export, recipe = st.tabs(["Overview", "Compare", "Export", "Recipe"])
    with overview:
        _overview(run, status)
    with compare, safe.shown_problems("compare"):
        run_actions.compare(run)
    with export, safe.shown_problems("export"):
        _export(run, status)
    with recipe, safe.shown_problems("recipe"):
        st.code(run.recipe_text(), language="yaml", height=360)


def _export(run: api.Run, status: api.RunStatus) -> None:
    if visitors.not_here("nothing can be exported"):
        return
    job = None if status == "damaged" else api.job_of(run)
    if isinstance(job, TransferRecipe):
        run_actions.export(run, job)
    if status not in (*api.LIVE, "damaged"):
        run_actions.bundle(run)


def _overview(run: api.Run, status: api.RunStatus) -> None:
    report = api.report(run) if status == "done" else None
    if report is not None:
        st.text(report.verdict.sentence)
    if status == "done" and (erasure := api.erasure_of(run)) is not None:
        safe.notes(api.erasure_words.verdict(erasure, order) for order in erasure.curves)
    run_actions.notes(run)
    size = amounts.size(api.pruning.run_size(run))
    clean = "" if demo.on() else " The command nuggets prune lists what can be deleted."
    st.text(f"Size on disk: {size}.{clean}")
    with st.container(horizontal=True):
        if report is not None and st.button("Open Results", key="to-benchmarks"):
            shell.go("results")
        if not demo.on() and st.button("Delete…", key="delete", disabled=status in api.LIVE):
            run_actions.confirm_delete(run)
    if status != "damaged":
        with st.expander("Versions and digests"):
            try:
                st.code(run.record().provenance.model_dump_json(indent=1), language="json")
            except NuggetsError as error:
                safe.problem(error, "provenance")


main()
