"""The sidebar: pair, task, device, current run, queue. Every choice is part of the address.

It never contradicts the run that a page shows: a chosen run brings its pair and task, and whoever
chooses another pair or task lets the run go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import streamlit as st
from pydantic import TypeAdapter, ValidationError

from nuggets import amounts, api, demo
from nuggets.errors import NuggetsError
from nuggets.models.references import short_name
from nuggets.recipe import Device, SensitivityConfig
from nuggets.ui.frame import live, projector, safe, visitors

PAGES = "nuggets-pages"
USUAL = "reverse"
"""The task until another is chosen."""
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16")
_FOLLOWED = "nuggets-followed"
"""The run whose pair and task the sidebar has taken over."""
_ABSENT = "nuggets-absent"
"""The run that the session's first link named, where there is no such run."""


@dataclass(frozen=True)
class Choice:
    """What the sidebar says now.

    Attributes:
        teacher: built-in name, folder, GGUF file or hub id.
        student: likewise.
        task: a built-in skill; the default one while own samples are chosen.
        own: name of the user's own samples, if they are chosen instead of a skill.
        device: `auto` or a device's name.
        run: the id of the chosen run, if it exists.
        dtype: number format of the weights while sensitivity is measured.
    """

    teacher: str
    student: str
    task: str
    device: str
    run: str | None
    own: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    @property
    def label(self) -> str:
        """What the samples are called: the skill, or the user's own name for theirs."""
        return self.own or self.task

    @property
    def pair(self) -> str:
        """Both models, for captions."""
        return f"{short_name(self.teacher)} → {short_name(self.student)}"

    def data(self) -> api.DataConfig:
        """The samples chosen, with the usual sizes."""
        return api.own_data()[self.own] if self.own else api.DataConfig(task=self.task)

    def sensitivity(self) -> SensitivityConfig:
        """How sensitivity is measured: as usual, in the number format chosen."""
        return SensitivityConfig(dtype=self.dtype)


def current() -> Choice:
    """The sidebar's choices, checked again: an address can say anything."""
    state = st.session_state
    task = state.get("task")
    ids = {run.id for run in api.runs()}
    return Choice(
        teacher=_text(state.get("teacher"), "teacher"),
        student=_text(state.get("student"), "independent"),
        task=task if task in api.skills() else USUAL,
        device="auto" if _no_device() else _text(state.get("device"), "auto"),
        run=state.get("run") if state.get("run") in ids else None,
        own=task if task not in api.skills() and task in api.own_data() else None,
        dtype=state["dtype"] if state.get("dtype") in DTYPES else "auto",
    )


def choose(**values: str | None) -> None:
    """Sets sidebar choices from a callback, such as `choose(run=run.id)`."""
    for name, value in values.items():
        st.session_state[name] = value


def sidebar(pair: bool = True) -> Any:
    """Draws the sidebar; returns the place for `describe_machine`."""
    together = _follow_run()
    with st.sidebar:
        visitors.notice()
        if pair:
            pair_input("teacher")
            pair_input("student")
        left, right = st.columns(2)
        with left:
            tasks = [*api.skills(), *api.own_data()]
            st.selectbox("Task", tasks, index=tasks.index(USUAL), key="task", bind="query-params",
                         help="A built-in skill, or your own samples.")  # fmt: skip
        with right:
            st.selectbox(
                "Device",
                DEVICES,
                key="device",
                bind="query-params",
                accept_new_options=not demo.on(),
            )
        if said := _no_device():
            st.text(said)
        machine = st.empty()
        other = st.session_state.get("dtype") or st.query_params.get("dtype") or "auto"
        if pair and other != "auto":  # what is not as usual is always seen
            dtype_input()
        run_input()
        projector.switch()
        queue()
    if not together:
        st.rerun()
    return machine


def page(name: str) -> st.Page:
    """A page by its name, for links; the router has registered all of them."""
    return st.session_state[PAGES][name]


def link(name: str, label: str, help: str | None = None) -> None:
    """A link to another page, with the arrow and the colour by which people know it as one."""
    st.page_link(page(name), label=f":primary[{label}]", icon=":material/arrow_forward:", help=help)


def go(name: str) -> None:
    """Goes to another page, with all choices of the sidebar."""
    # Without the empty mapping Streamlit refuses: it will not clear what widgets are bound to.
    st.switch_page(page(name), query_params={})


def pair_input(who: Literal["teacher", "student"]) -> None:
    """One of the two models: a built-in name, or anything that names a model."""
    typed = None if demo.on() else st.session_state.get(who) or st.query_params.get(who)
    st.selectbox(
        who.capitalize(),
        list(dict.fromkeys([*api.MODELS, *([typed] if typed else [])])),
        index=0 if who == "teacher" else 1,
        key=who,
        bind="query-params",
        accept_new_options=not demo.on(),
        help="A built-in name."
        if demo.on()
        else "A built-in name, a folder, a .gguf file, or org/name@revision on the Hub.",
    )


def dtype_input() -> None:
    """The number format in which models compute while sensitivity is measured."""
    st.selectbox(
        "Precision (dtype)",
        DTYPES,
        key="dtype",
        bind="query-params",
        width=220,
        help="Precision of weights and gradients while sensitivity is measured; sums are always "
        "float32 or wider. auto: bfloat16 on a GPU, float32 elsewhere.",
    )


def run_input() -> None:
    """The run that Plan, Results, Runs and Playground are about; its id is in the address."""
    names = api.titles(api.runs())
    st.selectbox(
        "Run",
        list(names),
        index=None,
        key="run",
        format_func=lambda run: names.get(run, str(run)),
        placeholder="none chosen",
    )
    keep_in_address("run")


def from_address(key: str, options: Iterable[str], many: bool = False) -> None:
    """Takes over what a link says for a control whose options have names; call before it.

    A bound control would write its options' names into the address, which are not unique for
    ever; here it is what they name.
    """
    state, known = st.session_state, set(options)
    if key not in state:  # a new session, or another page: unbound controls lose their value there
        said = st.query_params.get_all(key) if many else st.query_params.get(key)
        state[key] = state.get(f"nuggets-kept-{key}", said)
    if many:
        state[key] = [value for value in state[key] if value in known]
    elif state[key] not in known:
        state[key] = None


def keep_in_address(key: str) -> None:
    """Writes such a control's value into the address; call after it."""
    value = st.session_state[f"nuggets-kept-{key}"] = st.session_state.get(key)
    chosen = list(value) if isinstance(value, list) else [value] if value else []
    if st.query_params.get_all(key) == chosen:
        return
    if chosen:
        st.query_params[key] = chosen
    else:
        del st.query_params[key]


def _follow_run() -> bool:
    """Brings sidebar and run together; whether they are, once the sidebar is drawn."""
    state, runs = st.session_state, {run.id: run for run in api.runs()}
    if _FOLLOWED not in state and (said := st.query_params.get("run")) and said not in runs:
        state[_ABSENT] = said
    from_address("run", runs)
    found = runs.get(state["run"])
    if found is None and state.get(_ABSENT):
        sentence = (
            f"Run {state[_ABSENT]} is not on this machine. Import its bundle, or choose another."
        )
        safe.problem(sentence, "absent-run", "This link was followed in part")
    if found is not None:
        told = api.about(found)
        offered = (*api.skills(), *api.own_data())
        brought = {"teacher": told.teacher, "student": told.student}
        brought |= {"task": told.data if told.data in offered else None}
        brought = {key: value for key, value in brought.items() if value is not None}
        if state.get(_FOLLOWED) != found.id:
            said = {key: st.query_params.get(key, value) for key, value in brought.items()}
            if _FOLLOWED not in state and said != brought:
                # Controls take a link's word when they are drawn first; after that it can be set.
                state[_FOLLOWED] = None
                return False
            choose(**brought)
        elif any(_other(key, value) for key, value in brought.items()):
            state["run"] = None
    state[_FOLLOWED] = state["run"]
    return True


def _other(key: str, value: str) -> bool:
    """Whether the sidebar says something else than a run does."""
    said = st.session_state.get(key)
    if said is None:  # not drawn on the page before
        return False
    return said != value and (key == "task" or api.absolute_model(said, Path.cwd()) != value)


def queue() -> None:
    """Runs that compute or wait, redrawn every other second while there are any."""
    if ids := tuple(run.id for run in api.runs() if run.status() in api.LIVE):
        st.caption("Running and waiting")
        live.lines(ids)


def knows_machine() -> bool:
    """Whether it is known what `auto` means here; never waits for torch."""
    try:
        return api.diagnose_soon() is not None
    except NuggetsError:
        return True  # the page shows the sentence where it needs a device


def wait_for_machine() -> None:
    """Stands in for a page while a child process asks torch for devices."""
    st.text("Detecting the devices of this machine, which takes a few seconds the first time.")
    safe.fragment(_wait, run_every=0.5)()


def _wait() -> None:
    if knows_machine():
        st.rerun()


def describe_machine(place: Any) -> None:
    """Shows which device `auto` is and its memory, as soon as they are known."""
    with place.container():
        known = knows_machine()
        safe.fragment(_machine, run_every=None if known else 1.0)(known)


def _machine(was_known: bool) -> None:
    try:
        found = api.diagnose_soon()
    except NuggetsError as error:
        safe.problem(error, "machine")
        return
    if found is None:
        st.caption("Detecting devices…")
        return
    if not was_known:
        st.rerun()
    devices = {device.name: device for device in found.devices}
    wanted = current().device
    device = devices.get(wanted) or next(iter(devices.values()))
    free = f"{amounts.size(device.memory_free)} of {amounts.size(device.memory_total)} free"
    st.caption(
        f"{device.name}: {free}" if wanted in ("auto", device.name) else "not on this machine"
    )


def _no_device() -> str:
    """Says of what was typed, or stands in the address, that it cannot be a device; else empty."""
    said = _text(st.session_state.get("device"), "auto")
    try:
        TypeAdapter(Device).validate_python(said)
    except ValidationError:
        return f"“{said[:20]}” names no device: auto is used."
    return ""


def _text(value: Any, default: str) -> str:
    return value.strip() if isinstance(value, str) and value.strip() else default
