"""Starting a sweep: a recipe, the fields to search, how, and what all of it will take."""

from __future__ import annotations

import json
from typing import Any, get_args

import streamlit as st

from nuggets import amounts, api
from nuggets.errors import BadInput
from nuggets.recipe import TransferRecipe
from nuggets.sweeps import space
from nuggets.sweeps.outlook import smallest
from nuggets.sweeps.recipe import Objective, scored_on
from nuggets.sweeps.samplers import SAMPLERS
from nuggets.ui.frame import consent, fields, safe, shell, visitors, waiting
from nuggets.ui.transfer import form, recipes

USUAL = ("lora.r", "extraction.ratio")


def draw(choice: shell.Choice) -> None:
    """Draws the form, the preflight of the whole, and the button."""
    if visitors.not_here("there are no sweeps, which are many runs"):
        return
    refused = st.container()
    base = recipes.picker(choice)
    with st.expander("Base recipe: what all trials share"):
        base = form.recipe(base, choice)
    left, right = st.columns([5, 4], gap="medium")
    with left, st.container(border=True):
        chosen = _space(base)
        options = _options()
    with refused:
        ignored = fields.ignored()
    with right, safe.shown_problems("sweep-ahead"):
        name = f"{base.name}-sweep"[:40]
        sweep = api.parse_sweep({"name": name, "base": base, "space": chosen, **options})
        ready = _outlook(sweep) and not ignored
        ready = consent.agreed(base) and ready
        st.button("Start the sweep", type="primary", key="start-sweep", disabled=not ready,
                  width="stretch", on_click=_start, args=(sweep,),
                  help="Runs in the background. Leaving this page does not stop it.")  # fmt: skip
        _export(sweep)


def _space(base: TransferRecipe) -> dict[str, Any]:
    """The fields to search, each with values or a range to type; sensible ones stand there."""
    offered = api.sweeping.sweepable(base)
    usual = [field for field in USUAL if field in offered]
    chosen = fields.several("Fields to search", list(offered), usual, "fields",
                            "Every field of the recipe that trials may differ in.")  # fmt: skip
    found: dict[str, Any] = {}
    for field in chosen:
        now = offered[field]
        text = fields.text(
            field,
            space.suggested(base, field),
            f"space-{field}",
            f"In the base: {json.dumps(now)}. Values: 4, 8, 16. A range: 0.25..1, with a step "
            "4..16:4, or logarithmic 1e-4..1e-2:log. Only under another field: "
            "… when OTHER=VALUE.",
        )
        setting = space.read_setting(f"{field}={text}")
        if setting is None:
            raise BadInput(f"{field}: give at least two values, such as 4, 8, or a range, 4..16.")
        found[field] = setting[1]
    return found


def _options() -> dict[str, Any]:
    left, right = st.columns(2)
    with left:
        sampler = fields.select("Sampler", tuple(SAMPLERS), "grid", "sampler",
                                "grid tries every combination; tpe and gp learn from earlier "
                                "trials; random and sobol do not.")  # fmt: skip
        seeds = fields.number("Seeds of the confirmation", 3, 100, 4, "confirm",
                              "Fresh ones, which no trial used.")  # fmt: skip
    with right:
        hours = fields.number("Hours at most", 0.0, 1000.0, 0.0, "hours",
                              "0 for no limit; time for the confirmation is kept.")  # fmt: skip
        prune = fields.number("Prune from step", 0, 1_000_000, 0, "prune",
                              "Trials whose learning curves fall behind are stopped from here on "
                              "(successive halving); 0 finishes all.")  # fmt: skip
        trials = None
        if sampler != "grid":  # which has all its points
            trials = fields.number("Trials", 1, 5000, 24, "trials")
    objective = fields.pills(
        "Objective", get_args(Objective), ["difference"], "objective",
        "value: the metric. difference: that minus plain LoRA's, paired. retention: old skills. "
        "Two of them give a Pareto front.",
    )  # fmt: skip
    return {
        "sampler": sampler,
        "trials": trials,
        "objective": objective,
        "max_hours": hours or None,
        "confirm": {"seeds": seeds},
        "prune": {"first": prune} if prune else None,
    }


def _outlook(sweep: api.SweepRecipe) -> bool:
    """Says what the sweep will take and can show; whether it can be started."""
    text = api.sweeping.dump_sweep(sweep)
    found = waiting.read("sweep", text, lambda: api.plan_sweep(sweep), "Reading models…")
    search = smallest(found.seen_in_search)
    with st.container(border=True):
        one, two = st.columns(2)
        one.metric("Trials", f"{found.n_trials:,}")
        two.metric("Time, at most", amounts.duration(found.seconds))
        one.metric("Memory", amounts.size(found.memory) if found.memory else "–")
        two.metric("Confirmation detects", smallest(found.seen_in_confirmation))
        st.text(
            f"Trials choose on {scored_on(*sweep.objective)}. Smallest difference on validation "
            f"items that one trial alone detects: {search}. "
            f"The winner and the base then run on {len(sweep.fresh_seeds)} fresh seeds and on test "
            f"items that no trial saw, with {len(sweep.base.arms)} arms; only that gets a verdict. "
            "Cells that trials share are trained once."
        )
    for place, sentence in enumerate(found.refusals):
        safe.problem(sentence, f"sweep-refusal-{place}", "This sweep cannot start")
    return not found.refusals


@st.fragment
def _export(sweep: api.SweepRecipe) -> None:
    part = st.expander("Export this sweep: YAML, command", key="sweep-export", on_change="rerun")
    if not part.open:  # see transfer.recipes.export
        return
    with part:
        text = api.sweeping.dump_sweep(sweep)
        st.download_button("Download sweep", text, "sweep.yaml", "application/yaml",
                           key="sweep-yaml", on_click="ignore")  # fmt: skip
        st.code("nuggets sweep sweep.yaml", language="bash")
        st.code(text, language="yaml", height=260)


@safe.refused_later()
def _start(sweep: api.SweepRecipe) -> None:
    shell.choose(sweep=api.sweeping.start(sweep).id)
