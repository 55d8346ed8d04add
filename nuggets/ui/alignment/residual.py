"""Do adjacent matrices use the same residual dimensions? One answer per selector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.amounts import plain_name
from nuggets.errors import BadInput
from nuggets.extraction.selectors import MatrixSelector
from nuggets.frozen import members
from nuggets.recipe import TransferRecipe
from nuggets.ui.charts import alignment as alignment_charts
from nuggets.ui.charts import residual as residual_charts
from nuggets.ui.frame import measure, safe, share, shell

SELECTORS = tuple(members(MatrixSelector))
LARGE = 300_000_000
"""Weights of a teacher above which the windows are looked for only when asked: it takes minutes."""
_SCRIPT = """plans = {{}}
for kind in {kinds}:
    extraction = job.extraction.model_dump() | {{"matrices": {{"kind": kind}}}}
    changed = api.parse_job(job.model_dump() | {{"extraction": extraction}})
    plans[kind] = api.measured_plan(changed)
"""
Plans = Mapping[str, api.ExtractionPlan]


def section(choice: shell.Choice, layers: tuple[int, ...] | None) -> None:
    """The picture of chosen dimensions, and agreement and sensitivity kept beside it.

    Args:
        choice: pair and samples.
        layers: the layer map by hand; the most sensitive layers when None.
    """
    st.subheader("Do adjacent matrices use the same residual dimensions?", anchor=False)
    st.text(
        "All matrices read from and write to one residual stream. Where two adjacent matrices "
        "keep different dimensions of it, the second does not read what the first wrote, and the "
        "circuit between them is broken. Only a consistent choice keeps it intact."
    )
    job = api.map_job(recipe(choice, SELECTORS[0], layers))
    found = measure.measured_map(job)
    if found is None:
        measure.missing(
            "Not measured yet",
            f"What a selector chooses depends on the sensitivity of {choice.teacher} to "
            f"{choice.label}, which has not been measured yet. Takes a few seconds on the "
            "built-in models.",
            {"Measure": [job]},
            "selectors",
        )
        return
    if api.views.module_sizes(found).sum() > LARGE and not st.toggle(
        "Search for the windows", key="selectors", bind="query-params",
        help="This reads every entry of every matrix, which takes minutes for this teacher."
    ):  # fmt: skip
        return
    plans = _plans(choice, layers, str(found.meta.get("digest")))
    if plans:
        _draw(plans, found.spec, choice, layers)


def _plans(choice: shell.Choice, layers: tuple[int, ...] | None, digest: str) -> Plans:
    plans, refused = {}, []
    for kind in SELECTORS:
        wanted = recipe(choice, kind, layers)
        try:
            plans[kind] = _plan(api.dump_job(wanted) + digest, wanted)
        except BadInput as problem:
            refused.append(f"Without the selector {plain_name(kind)}. {problem}")
    safe.notes(dict.fromkeys(refused))
    return plans


@st.cache_resource(max_entries=40, show_spinner="Reading every entry…")
def _plan(key: str, _recipe: TransferRecipe) -> api.ExtractionPlan:
    """A plan; kept, since large matrices take long."""
    return api.plan(_recipe)


def _draw(
    plans: Plans, teacher: api.ArchSpec, choice: shell.Choice, layers: tuple[int, ...] | None
) -> None:
    residual = {
        kind: api.views.residual_dimensions(plan, teacher)
        for kind, plan in plans.items()
        if plan.residual_agreement is not None
    }
    look = share.look()
    which = "most sensitive layers"
    if layers is not None:
        which = f"layers by hand {', '.join(str(layer) for layer in layers)}"
    about = f"{which} · {choice.label}, {choice.pair}"
    if residual:
        n = len(next(iter(residual.values())).modules)
        share.Picture(
            residual_charts.residual_figure(residual, look),
            residual_charts.residual_frame(residual),
            "residual",
            f"Dimensions kept in each of {n} matrices; shared: mean over {n - 1} "
            f"adjacent pairs · {about}",
            _origin(choice, layers, list(residual), "residual"),
            "Matrices down, residual dimensions across, coloured where chosen: windows jump "
            "from matrix to matrix, the consistent choice is unbroken lines",
        ).draw()
        st.caption(
            "Windows placed at random already share many dimensions, since most of them cover "
            "the middle. Only what is shared beyond chance comes from the selector."
        )
    frame = agreement_frame(plans, residual)
    share.Picture(
        alignment_charts.agreement_figure(frame, look),
        frame,
        "agreement",
        f"Means over all matrices · {about}",
        _origin(choice, layers, list(plans), "agreement"),
        "Bars for each selector: dimensions shared by adjacent matrices, the share expected "
        "by chance, and sensitivity kept",
    ).draw()


def agreement_frame(plans: Plans, residual: Mapping[str, api.views.Residual]) -> pd.DataFrame:
    """One row per selector: agreement of neighbours, what chance gives, sensitivity kept."""
    nothing = float("nan")
    rows = [
        {
            "selector": kind,
            "agreement": plan.residual_agreement,
            "chance": residual[kind].chance if kind in residual else nothing,
            "kept": float(np.mean([item.kept_mass for item in plan.items])),
        }
        for kind, plan in plans.items()
    ]
    return pd.DataFrame(rows).astype({"agreement": float})


def _origin(
    choice: shell.Choice, layers: tuple[int, ...] | None, kinds: list[str], what: str
) -> share.Origin:
    lines = {
        "residual": "    teacher = api.spec(job.teacher)\n"
        "    found = api.views.residual_dimensions(plans[kind], teacher)\n"
        "    print(kind, found.chosen, found.agreement.mean(), found.chance)",
        "agreement": "    kept = [item.kept_mass for item in plans[kind].items]\n"
        "    print(kind, plans[kind].residual_agreement, sum(kept) / len(kept))",
    }
    script = _SCRIPT.format(kinds=tuple(kinds)) + lines[what]
    return share.Origin.of(recipe(choice, kinds[0], layers), script, "plan")


def recipe(
    choice: shell.Choice, selector: str, layers: tuple[int, ...] | None = None
) -> TransferRecipe:
    """What would be extracted with a matrix selector; the rank does not matter here."""
    extraction: dict[str, Any] = {"matrices": {"kind": selector}}
    if layers is not None:
        extraction["layers"] = {"kind": "by_hand", "layers": layers}
    return TransferRecipe.model_validate(
        {
            "teacher": choice.teacher,
            "student": choice.student,
            "device": choice.device,
            "data": choice.data().model_dump(),
            "sensitivity": choice.sensitivity().model_dump(),
            "extraction": extraction,
            "lora": {"r": 1},
        }
    )
