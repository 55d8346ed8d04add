"""Measuring models, or arms of a finished transfer, on public benchmarks from the app."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nuggets import api
from nuggets.errors import BadInput, NuggetsError
from nuggets.ui import charts, live, safe, shell

SKILL, DIALOGUE = "skill", "dialogue"
KINDS = {
    SKILL: "the task's own skill",
    "gsm8k": "GSM8K, word problems",
    "mmlu": "MMLU, multiple choice",
    "super_ni": "Super-NaturalInstructions",
    DIALOGUE: "dialogue, judged by the teacher's likelihood",
}
WITH_SHOTS = ("gsm8k", "mmlu")
_STARTED = "nuggets-evaluation"


def form(run: api.Run | None, choice: shell.Choice) -> None:
    """What is measured on what, the command that does it, and the button.

    Args:
        run: the finished transfer whose arms are offered.
        choice: the sidebar's pair and task.
    """
    if missing := api.eval_extra_missing():
        st.text(missing)
        return
    models = _models(run, choice)
    kinds = st.multiselect("Benchmarks", list(KINDS), default=[SKILL], key="eval_kinds",
                           format_func=KINDS.__getitem__, bind="query-params")  # fmt: skip
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
    live.refused()
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
    """The benchmarks chosen, with their shared options."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        limit = st.number_input("Max items", 2, 100_000, 100, key="eval_limit", width=150,
                                bind="query-params")  # fmt: skip
        shots = st.number_input("Few-shot examples", 0, 64, 0, key="eval_shots", width=150,
                                bind="query-params",
                                disabled=not set(kinds) & set(WITH_SHOTS),
                                help="Solved examples above each question: GSM8K and MMLU; the "
                                "paper shows 0, 8 or 5.")  # fmt: skip
        data = st.text_input("Items (JSONL or org/name:config/split)", key="eval_data", width=360,
                             bind="query-params", max_chars=1000,
                             disabled=not set(kinds) - {SKILL},
                             placeholder="if empty: downloaded from the Hub")  # fmt: skip
    shared = {"limit": int(limit)}
    own: dict[str, dict[str, Any]] = {
        SKILL: {"skill": choice.task},
        DIALOGUE: {"judge": {"kind": "teacher_likelihood", "teacher": choice.teacher}},
    }
    found = []
    for kind in kinds:
        tree = {"kind": kind, **shared, **own.get(kind, {})}
        if kind in WITH_SHOTS:
            tree["shots"] = int(shots)
        if kind != SKILL and data.strip():
            tree["data"] = data.strip()
        if kind in ("super_ni", DIALOGUE) and not data.strip():
            raise BadInput(f"Name a JSONL file with items for {KINDS[kind]}.")
        found.append(tree)
    return found


def _start(job: api.EvaluateJob) -> None:
    try:
        st.session_state[_STARTED] = api.start(job).id
    except NuggetsError as error:
        st.session_state["nuggets-refused"] = str(error)
