"""What a transfer would do, before anything is trained: drawn from one look ahead, at once."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.amounts import duration, duration_between, size
from nuggets.preflight.resources import Machine, StageNeed
from nuggets.recipe import TransferRecipe
from nuggets.ui.charts import transfer as transfer_charts
from nuggets.ui.frame import measure, safe, share
from nuggets.ui.frame.share import Origin, Picture

TABS = ("Windows", "Adjacent matrices", "Rank and energy", "Time and memory")


def draw(recipe: TransferRecipe, ahead: api.Outlook) -> None:
    """Draws what is known of a recipe, what refuses it, and what has to be measured first."""
    for place, sentence in enumerate(ahead.refusals):
        safe.problem(sentence, f"refused-{place}", "This recipe cannot run")
    if not all(need.fits for need in ahead.stages):
        safe.notes(ahead.preflight.notes)
    if ahead.missing:
        _offer(recipe, ahead.missing)
    _numbers(ahead)
    if ahead.detectable is not None:
        found = ahead.detectable
        st.text(f"{found.sentence} {found.basis} Smaller differences will probably go undetected.")
    elif not ahead.refusals:
        st.text(
            "The detectable difference cannot be computed in advance for losses or for a "
            "single item."
        )
    # Only the open one is computed and sent.
    tabs = st.tabs(TABS, key="ahead", on_change="rerun", bind="query-params")
    for name, tab in zip(TABS, tabs, strict=True):
        if tab.open:
            with tab:
                _tab(name, recipe, ahead)
    safe.notes(ahead.plan.notes if ahead.plan else ())


def _tab(name: str, recipe: TransferRecipe, ahead: api.Outlook) -> None:
    if name == "Time and memory":
        _costs(recipe, ahead)
    elif ahead.plan is None:
        st.text("Measure sensitivity to see this.")
    elif name == "Windows":
        _windows(recipe, ahead.plan)
    elif name == "Adjacent matrices":
        _neighbours(recipe, ahead)
    else:
        _kept(recipe, ahead)


def _offer(recipe: TransferRecipe, missing: str) -> None:
    """What to measure first, and a button that does."""
    if missing == "map":
        job = api.map_job(recipe)
        sentence = (
            f"The sensitivity of {job.model} to these samples has not been measured here yet, or "
            "only in sums, which do not tell this choice. Once it has, the plan updates with every "
            "control. Takes a few seconds on the built-in models."
        )
        measure.missing("No plan yet", sentence, {"Measure": [job]}, "plan-map")
    else:
        pair = api.alignment_job(recipe)
        sentence = (
            f"The layer selector cka needs the alignment of {pair.teacher} and {pair.student}, "
            "which has not been measured yet."
        )
        measure.missing("No alignment yet", sentence, {"Measure": [pair]}, "plan-alignment")


def _numbers(ahead: api.Outlook) -> None:
    plan, machine = ahead.plan, ahead.preflight.machine
    kept = [item.kept_mass for item in plan.items] if plan else []
    at_most = "at most " if plan and plan.lora.energy is not None and ahead.kept is None else ""
    numbers = (
        ("Teacher layers", plan and ranges([teacher for _, teacher in plan.alignment.pairs]),
         "In the order of the student's layers, counted from 0."),
        ("Sensitivity kept", f"{min(kept):.0%} to {max(kept):.0%}" if kept else None,
         "Share of a teacher matrix's sensitivity that the chosen entries hold, from the lowest to "
         "the highest over all matrices."),
        ("Parameters per arm",
         None if ahead.parameters is None else f"{at_most}{ahead.parameters:,}",
         "Trainable ones: all entries of A and B, at the ranks that are used."),
        (f"Time on {machine.device if machine else 'this machine'}",
         ahead.seconds and duration_between(*ahead.seconds),
         "The start of the worker and all stages, one arm and seed after another, at the measured "
         "speed of this device. Training arms together takes less."),
    )  # fmt: skip
    columns = st.columns(2)
    for place, (label, value, meaning) in enumerate(numbers):
        columns[place % 2].metric(label, value or "–", border=True, help=meaning)


def _windows(recipe: TransferRecipe, plan: api.ExtractionPlan) -> None:
    frame = transfer_charts.plan_frame(plan)
    origin = Origin.of_plan(recipe)
    Picture(
        transfer_charts.plan_figure(frame, share.look()),
        frame,
        "plan",
        "Sensitivity kept, relative to a random choice (1×)",
        origin,
        "Share of sensitivity kept for each layer pair and matrix",
    ).draw()
    share.table(
        transfer_charts.windows_frame(plan),
        "plan-windows",
        f"What each of the {len(plan.items)} matrices takes from the teacher: the share of its "
        "sensitivity and of its entries, and what the runner-up would keep",
        origin,
        height=220,
        column_config={
            name: st.column_config.NumberColumn(format="percent", width=width)
            for name, width in (("keeps", 62), ("entries", 58), ("runner-up", 76))
        },
    )


def _neighbours(recipe: TransferRecipe, ahead: api.Outlook) -> None:
    found = ahead.residual
    if found is None or not len(found.agreement):
        st.text(
            "Single weights do not select dimensions, so there is nothing for adjacent "
            "matrices to share."
        )
        return
    whole = int((found.agreement == 1).sum())
    st.text(
        f"{whole} of {len(found.agreement)} adjacent pairs use exactly the same residual "
        f"dimensions. On average they share {found.agreement.mean():.0%}; a random choice would "
        f"share {found.chance:.0%}. Below 100 % a matrix does not read everything that the one "
        "before it wrote."
    )
    frame = transfer_charts.neighbours_frame(found)
    Picture(
        transfer_charts.neighbours_figure(frame, found.chance, share.look()),
        frame,
        "plan-neighbours",
        "Residual dimensions that each matrix shares with the next",
        Origin.of_plan(recipe),
        "Overlap of residual dimensions for each pair of adjacent matrices",
    ).draw()


def _kept(recipe: TransferRecipe, ahead: api.Outlook) -> None:
    plan, kept = ahead.plan, ahead.kept
    if plan is None or kept is None:
        st.text(f"{ahead.unknown} {_ranks_asked(plan)}")
        return
    energies, ranks = [each.energy for each in kept], [each.rank for each in kept]
    st.text(
        f"At rank {_span(ranks)} the product of A and B keeps {min(energies):.0%} to "
        f"{max(energies):.0%} of the extracted windows (squared entries); the rest is lost before "
        "training begins."
    )
    frame = transfer_charts.kept_frame(plan, kept)
    Picture(
        transfer_charts.kept_figure(frame, share.look()),
        frame,
        "plan-energy",
        "Energy kept by the SVD, and the rank used",
        Origin.of_plan(recipe),
        "Rank and energy kept for each layer pair and matrix",
    ).draw()


def _costs(recipe: TransferRecipe, ahead: api.Outlook) -> None:
    found = ahead.preflight
    work, peak = found.work, max((need.bytes_needed for need in ahead.stages), default=0)
    if ahead.stages and work is not None and found.machine is not None:
        caption = "Estimated from the dimensions and the measured speed of this machine"
        needs(ahead.stages, found.machine, "plan-costs", caption, Origin.of_needs(recipe))
        st.text(
            f"{work.trainings} trainings of {work.steps} steps, {work.batch_size} samples of "
            f"about {work.tokens} tokens each. Needs {size(peak)} of memory at most. "
            f"{size(found.memory_available)} of memory and {size(found.disk_free)} of disk are "
            "free."
        )
    if ahead.uncounted:
        st.text(f"Not included: {', '.join(ahead.uncounted)}.")
    safe.notes(found.notes)


def needs(
    stages: Sequence[StageNeed], machine: Machine, key: str, caption: str, origin: Origin
) -> None:
    """A table of memory, disk and time of every stage against what this machine has."""

    def amount(n_bytes: int) -> str:
        return size(n_bytes) if n_bytes else "–"

    on_gpu = machine.device != "cpu"
    rows = [
        {
            "stage": stage.stage,
            "memory": amount(stage.bytes_needed),
            **({"RAM": amount(stage.ram_needed)} if on_gpu else {}),
            "of free memory": stage.bytes_needed / max(machine.memory_free, 1),
            "disk": amount(stage.disk_needed),
            "time": duration(stage.seconds),
            "fits": "yes" if stage.fits else "no",
        }
        for stage in stages
    ]
    bar = st.column_config.ProgressColumn(min_value=0, max_value=1, format="percent", width=110,
                                          help="Share of the free memory.")  # fmt: skip
    alt = "Memory, disk space and time that each stage needs, and whether they are available"
    share.table(pd.DataFrame(rows), key, caption, origin, height="content", row_height=30,
                column_config={"of free memory": bar}, alt=alt)  # fmt: skip


def _ranks_asked(plan: api.ExtractionPlan | None) -> str:
    return f"Requested ranks: {_span([item.rank for item in plan.items])}." if plan else ""


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def ranges(numbers: Sequence[int]) -> str:
    """Layers in their order; where they are many, neighbours are drawn together: `0–3, 7`."""
    if len(numbers) <= 8:
        return " ".join(map(str, numbers))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
