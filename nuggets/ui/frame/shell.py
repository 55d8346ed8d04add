"""The sidebar: pair, task, device, current run, queue. Every choice is part of the address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from nuggets import amounts, api
from nuggets.errors import NuggetsError
from nuggets.models.references import short_name
from nuggets.recipe import SensitivityConfig
from nuggets.ui.frame import live, safe

PAGES = "nuggets-pages"
USUAL = "reverse"
"""The task until another is chosen."""
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")


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
        device=_text(state.get("device"), "auto"),
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
    with st.sidebar:
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
                "Device", DEVICES, key="device", bind="query-params", accept_new_options=True
            )
        machine = st.empty()
        other = st.session_state.get("dtype") or st.query_params.get("dtype") or "auto"
        if pair and other != "auto":  # what is not as usual is always seen
            dtype_input()
        run_input()
        queue()
    return machine


def page(name: str) -> st.Page:
    """A page by its name, for links; the router has registered all of them."""
    return st.session_state[PAGES][name]


def go(name: str) -> None:
    """Goes to another page, with all choices of the sidebar."""
    # Without the empty mapping Streamlit refuses: it will not clear what widgets are bound to.
    st.switch_page(page(name), query_params={})


def pair_input(who: Literal["teacher", "student"]) -> None:
    """One of the two models: a built-in name, or anything that names a model."""
    typed = st.session_state.get(who) or st.query_params.get(who)
    st.selectbox(
        who.capitalize(),
        list(dict.fromkeys([*api.MODELS, *([typed] if typed else [])])),
        index=0 if who == "teacher" else 1,
        key=who,
        bind="query-params",
        accept_new_options=True,
        help="A built-in name, a folder, a .gguf file, or org/name@revision on the Hub.",
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
    """The run that Transfer, Benchmarks and Runs are about."""
    st.selectbox(
        "Run",
        [run.id for run in api.runs()],
        index=None,
        key="run",
        bind="query-params",
        placeholder="none chosen",
    )


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


def _text(value: Any, default: str) -> str:
    return value.strip() if isinstance(value, str) and value.strip() else default
