"""What a sweep found: the confirmed result, the trials, and figures of them."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.sweeps.recipe import scored_on
from nuggets.sweeps.sentences import counted_on
from nuggets.ui.charts import sweeps as charts
from nuggets.ui.frame import fields, heading, safe, share, shell
from nuggets.ui.transfer import recipes

TABS = ("Trials", "Parallel", "Importance", "Surface", "Best so far", "Pareto front")
GOING = "nuggets-sweep-going"


def origin(sweep: api.Run) -> share.Origin:
    """What gives the same numbers again."""
    python = f"state = api.sweeping.state_of(api.sweeping.open_sweep({sweep.id!r}))\nprint(state)"
    return share.Origin(f"nuggets sweeps {sweep.id} --json", f"from nuggets import api\n\n{python}")


def confirmed(sweep: api.Run, recipe: api.SweepRecipe, state: api.SweepState) -> None:
    """The verdict on the winner, if there is one, and how much the search flattered it."""
    found, on = state.confirmed, scored_on(*recipe.objective)
    with st.container(border=True, key="sweep-confirmed"):
        if found is None:
            safe.notes(api.sweeping.sentences(recipe, state) or ["No trial has finished yet."])
            return
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader("Confirmed", anchor=False, width="content")
            heading.badges(found.verdict)
        safe.notes(api.sweeping.sentences(recipe, state))
        rows = [
            {"objective": name, "as": which, "mean": each.mean, "low": each.low, "high": each.high}
            for place, name in enumerate(recipe.objective)
            for which, each in (
                ("selected (search)", found.selected[place]),
                ("confirmed", found.scores[place]),
                ("the base, confirmed", found.default_scores[place]),
                ("selected − confirmed", found.optimism[place]),
            )
        ]
        share.table(pd.DataFrame(rows).round(3), "sweep-confirmation",
                    f"Selected on {on}, confirmed on {found.scores[0].n_seeds} fresh seeds × "
                    f"{counted_on(recipe, found)}, 95 % intervals", origin(sweep),
                    height="content")  # fmt: skip
        with st.container(horizontal=True):
            for label, run in (("Open the winner's results", found.run),
                               ("Open the base's results", found.default_run)):  # fmt: skip
                st.button(label, key=f"open-{label}", on_click=_open, args=(run,))
            _promote(sweep, found.trial)


def trials(sweep: api.Run, recipe: api.SweepRecipe, state: api.SweepState) -> None:
    """Every trial in a table; the chosen one's run, and its settings as a recipe."""
    rows = pd.DataFrame(api.sweeping.table(recipe, state))
    runs = rows["run"].tolist()
    numbers = rows.select_dtypes("float").columns
    drawn = numbers.intersection(list(recipe.space))  # where three decimals would make a rate 0
    digits = {field: st.column_config.NumberColumn(format="%.3g") for field in drawn}
    scored = rows.drop(columns=["run"]).round(dict.fromkeys(numbers.difference(drawn), 3))
    share.table(
        rows, "sweep-trials",
        f"{len(rows)} trials, scores on {scored_on(*recipe.objective)} with 95 % intervals",
        origin(sweep), shown=scored, column_config=digits, selection_mode="single-row",
        on_select=lambda: _chosen(runs), height=min(35 * (len(rows) + 1) + 3, 420),
    )  # fmt: skip
    run = shell.current().run
    number = next((t.number for t in state.trials if t.run and t.run == run), None)
    if number is None:
        st.text("To open a trial's run, click the box in front of its row.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"Trial {number}", width="content")
        if st.button("Open its results", key="open-trial"):
            shell.go("results")
        if st.button("Open its run", key="open-trial-run"):
            shell.go("runs")
    _promote(sweep, number, f"trial-{number}")


def _chosen(runs: list[str]) -> None:
    picked = st.session_state["sweep-trials"].selection.rows
    if picked and picked[0] < len(runs) and runs[picked[0]]:
        shell.choose(run=runs[picked[0]])


def _promote(sweep: api.Run, number: int, key: str = "winner") -> None:
    with st.popover(f"Save trial {number} as a recipe…", key=f"promote-{key}"):
        st.text_input("Name", key=f"promote-name-{key}", placeholder="one word", max_chars=40)
        st.button("Save and open Plan", key=f"promote-now-{key}", type="primary",
                  on_click=_save, args=(sweep, f"promote-name-{key}", number))  # fmt: skip


@safe.refused_later()
def _save(sweep: api.Run, field: str, number: int) -> None:
    name = st.session_state[field].strip()
    api.sweeping.promote(sweep, name, number)
    recipes.choose(name)
    st.session_state[GOING] = "transfer"


def _open(run: str) -> None:
    shell.choose(run=run)
    st.session_state[GOING] = "results"


def go_on() -> None:
    """Goes where the last button leads: a callback cannot."""
    if page := st.session_state.pop(GOING, None):
        shell.go(page)


def figure(name: str, sweep: api.Run, recipe: api.SweepRecipe, state: api.SweepState) -> None:
    """One of the figures, drawn from finished trials."""
    done = state.done
    if not done:
        st.text("No trial has finished yet.")
        return
    draw = {"Parallel": _parallel, "Importance": _importance, "Surface": _surface,
            "Best so far": _best, "Pareto front": _front}[name]  # fmt: skip
    draw(sweep, recipe, state)


def _parallel(sweep: api.Run, recipe: api.SweepRecipe, state: api.SweepState) -> None:
    fig = charts.parallel_figure(recipe, state.done, share.look())
    frame = pd.DataFrame(api.sweeping.table(recipe, state))
    caption = (
        f"{len(state.done)} trials, scores on {scored_on(*recipe.objective)}. Drag along an axis "
        "to keep only the trials there; click the axis to let go."
    )
    alt = "Every trial as a line through its values and scores"
    share.Picture(fig, frame, "sweep-parallel", caption, origin(sweep), alt).draw()


def _importance(sweep: api.Run, recipe: api.SweepRecipe, state: api.SweepState) -> None:
    if not any(state.importance):
        st.text("Importance needs at least two finished trials that differ.")
        return
    fig = charts.importance_figure(state.importance, recipe.objective, share.look())
    frame = pd.DataFrame(
        {"objective": name, "field": field, "importance": value}
        for name, found in zip(recipe.objective, state.importance, strict=True)
        for field, value in found.items()
    )
    share.Picture(fig, frame, "sweep-importance", f"Which fields tell the best trials from the "
                  f"others (PED-ANOVA), over {len(state.done)} trials. Few trials say little.",
                  origin(sweep), "Importance of every field").draw()  # fmt: skip


def _surface(sweep: api.Run, recipe: api.SweepRecipe, state: api.SweepState) -> None:
    names = list(recipe.space)
    if len(names) < 2:
        st.text("A surface needs two fields; this sweep searches one.")
        return
    left, middle, right = st.columns(3)
    with left:
        x = fields.select("Across", names, names[0], "surface_x", "The field of the columns.")
    with middle:
        y = fields.select("Down", names, names[1], "surface_y", "The field of the rows.")
    with right:
        objective = fields.select("Objective", recipe.objective, recipe.objective[0], "surface_z",
                                  "What is shown.")  # fmt: skip
    if x == y:
        st.text("Choose two different fields.")
        return
    frame, found = charts.surface_frame(recipe, state.done, x, y, recipe.objective.index(objective))
    fig = charts.surface_figure(found, x, y, objective, share.look())
    share.Picture(fig, frame, "sweep-surface", f"{objective} on {scored_on(objective)}: the mean "
                  "over the trials of a cell, and of their 95 % intervals. Empty cells were not "
                  "tried.",
                  origin(sweep), f"{objective} over {x} and {y}").draw()  # fmt: skip


def _best(sweep: api.Run, recipe: api.SweepRecipe, state: api.SweepState) -> None:
    frame = charts.best_frame(recipe, state.done)
    fig = charts.best_figure(frame, recipe.objective[0], share.look())
    share.Picture(fig, frame, "sweep-best", f"The best trial until then with its 95 % interval, "
                  f"on {scored_on(recipe.objective[0])}. It is flattered: of many trials, the best "
                  "one also had luck.",
                  origin(sweep), "The best trial so far, trial by trial").draw()  # fmt: skip


def _front(sweep: api.Run, recipe: api.SweepRecipe, state: api.SweepState) -> None:
    if len(recipe.objective) < 2:
        st.text("A Pareto front needs two objectives; this sweep has one.")
        return
    best = api.sweeping.front(recipe, state.done)
    fig = charts.front_figure(recipe, state.done, best, share.look())
    share.Picture(fig, charts.scores_frame(recipe, state.done), "sweep-front",
                  f"{len(best)} of {len(state.done)} trials are beaten by no other in both "
                  f"objectives; 95 % intervals, on {scored_on(*recipe.objective)}.", origin(sweep),
                  "Both objectives of every trial").draw()  # fmt: skip


@st.fragment
def files(sweep: api.Run, state: api.SweepState) -> None:
    """The sweep as YAML, and everything that it found as JSON."""
    part = st.expander("Export the sweep: YAML, JSON", key="sweep-files", on_change="rerun")
    if not part.open:  # see transfer.recipes.export
        return
    with part:
        text = sweep.recipe_text()
        with st.container(horizontal=True):
            st.download_button("Sweep (YAML)", text, "sweep.yaml", "application/yaml",
                               key="this-sweep-yaml", on_click="ignore")  # fmt: skip
            # Made when asked for: a file that every trial replaces is gone when it is looked up.
            st.download_button("Results (JSON)", partial(state.model_dump_json, indent=1),
                               "sweep.json", "application/json", key="this-sweep-json",
                               on_click="ignore")  # fmt: skip
        st.code(f"nuggets sweeps {sweep.id} --json", language="bash")
        st.code(text, language="yaml", height=300)
