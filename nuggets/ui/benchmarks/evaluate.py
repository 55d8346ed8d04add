"""Measuring models, or arms of a finished transfer, on public benchmarks from the app."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets import api
from nuggets.errors import BadInput
from nuggets.evaluation.benchmarks import Benchmark
from nuggets.frozen import members
from nuggets.ui.charts import base as charts
from nuggets.ui.frame import live, safe, shell, visitors

KINDS = members(Benchmark)
_STARTED = "nuggets-evaluation"


def form(run: api.Run | None, choice: shell.Choice) -> None:
    """What is measured on what, the command that does it, and the button."""
    if visitors.not_here("there are no benchmarks"):
        return
    if missing := api.eval_extra_missing():
        st.text(missing)
        return
    models = _models(run, choice)
    kinds = st.multiselect("Benchmarks", list(KINDS), default=["skill"],
                           key="eval_kinds", bind="query-params",
                           format_func=lambda kind: KINDS[kind].title)  # fmt: skip
    kinds = [kind for kind in kinds if kind in KINDS]
    tree = {"job": "evaluate", "models": models, "device": choice.device}
    with safe.shown_problems("evaluate"):
        tree["benchmarks"] = _benchmarks(kinds, choice)
        if not models or not kinds:
            st.caption("Choose at least one model and one benchmark.")
            return
        job = api.parse_job(tree)
        if command := api.as_command(job):
            st.code(command, language="bash", wrap_lines=True)
        st.button("Measure", type="primary", key="eval-start", on_click=_start, args=(job,),
                  help="Runs in the background. Reloading or leaving this page does not stop "
                       "it.")  # fmt: skip


def progress() -> None:
    """The evaluation that computes, waits, or ended without a result."""
    safe.refused()
    started = st.session_state.get(_STARTED)
    for run in api.runs():
        status = run.status()
        if status == "damaged" or run.record().kind != "evaluate":
            continue
        if status in api.LIVE or (run.id == started and status != "done"):
            live.panel(run, key="evaluation-live", losses=False)
            return


def _models(run: api.Run | None, choice: shell.Choice) -> list[str]:
    """Models by name, and arms of the run as `run:ID/ARM`."""
    arms = {} if run is None else {arm.name: f"run:{run.id}/{arm.name}" for arm in _arms(run)}
    chosen: list[str] = []
    if arms:
        chosen = st.multiselect("Arms of this run", list(arms), key="eval_arms",
                                bind="query-params",
                                format_func=charts.plain_name,
                                help="Evaluates every seed of an arm.")  # fmt: skip
    usual = list(dict.fromkeys((choice.teacher, choice.student)))
    names = list(dict.fromkeys([*usual, *api.MODELS]))
    models = st.multiselect("Models", names, default=[] if arms else usual, key="eval_models",
                            bind="query-params", accept_new_options=True,
                            help="Built-in names, folders, GGUF files or org/name.")  # fmt: skip
    return [*(arms[name] for name in chosen if name in arms), *models]


def _arms(run: api.Run) -> Any:
    job = api.job_of(run)
    return job.arms if isinstance(job, api.TransferRecipe) else ()


def _benchmarks(kinds: list[str], choice: shell.Choice) -> list[dict[str, Any]]:
    """The benchmarks chosen, each with the options that it has."""
    chosen = {kind: KINDS[kind] for kind in kinds}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        limit = st.number_input("Max items", 2, 100_000, 100, key="eval_limit", width=150,
                                bind="query-params")  # fmt: skip
        shots = st.number_input("Few-shot examples", 0, 64, 0, key="eval_shots", width=150,
                                bind="query-params",
                                disabled=not any(cls.usual_shots for cls in chosen.values()),
                                help="Solved examples above each question; "
                                f"usual: {_usual_shots()}.")  # fmt: skip
        data = st.text_input("Items (JSONL or org/name:config/split)", key="eval_data", width=360,
                             bind="query-params", max_chars=1000,
                             disabled=not any(cls.takes_data for cls in chosen.values()),
                             placeholder="if empty: downloaded from the Hub")  # fmt: skip
    own = {
        "skill": choice.task,
        "judge": {"kind": "teacher_likelihood", "teacher": choice.teacher},
    }
    found = []
    for kind, cls in chosen.items():
        tree = {"kind": kind, "limit": int(limit)}
        tree |= {name: value for name, value in own.items() if name in cls.model_fields}
        if cls.usual_shots:
            tree["shots"] = int(shots)
        if cls.takes_data and data.strip():
            tree["data"] = data.strip()
        elif cls.takes_data and (cls.large or cls.hub[0] is None):
            raise BadInput(f"Name a JSONL file with items for {cls.title}.")
        found.append(tree)
    return found


def _usual_shots() -> str:
    return ", ".join(
        f"{cls.usual_shots} ({kind})" for kind, cls in KINDS.items() if cls.usual_shots
    )


@safe.refused_later()
def _start(job: api.EvaluateJob) -> None:
    st.session_state[_STARTED] = api.start(job).id
