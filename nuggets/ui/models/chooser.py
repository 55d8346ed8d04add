"""Choosing teacher and student: a built-in pair, a hub id, a folder or a GGUF file.

A hub id is looked up only after somebody asked for it here: a link alone reaches no network.
"""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from nuggets import amounts, api, demo
from nuggets.ui.frame import fields, safe, shell

Who = Literal["teacher", "student"]
HUB, FOLDER, GGUF = "hub", "folder", "GGUF file"
_ASKED = "nuggets-asked-hub"


def pairs(choice: shell.Choice) -> None:
    """The built-in pairs, one click each."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for pair in api.PAIRS.values():
            chosen = (choice.teacher, choice.student) == (pair.teacher, pair.student)
            st.button(
                f"{pair.teacher} → {pair.student}",
                key=f"pair-{pair.name}",
                type="primary" if chosen else "secondary",
                help=pair.description,
                on_click=shell.choose,
                kwargs={"teacher": pair.teacher, "student": pair.student},
            )


def side(who: Who) -> Any:
    """One of the two models: by name, or by where it is; returns the place for its facts."""
    with st.container(border=True, height="stretch"):
        shell.pair_input(who)
        place = st.container(gap="xxsmall")
        if not demo.on():
            with fields.popover("Hub id, folder or GGUF file", f"other-{who}"):
                _other(who)
        safe.refused(f"{who}-refused", "This model cannot be used")
    return place


def _other(who: Who) -> None:
    kind = st.segmented_control("Source", (HUB, FOLDER, GGUF), default=HUB, required=True,
                                key=f"{who}-kind")  # fmt: skip
    if kind == HUB:
        st.text_input("Hub id", key=f"{who}-hub", placeholder="org/name", max_chars=200)
        st.text_input("Revision", key=f"{who}-revision", placeholder="main", max_chars=100)
        st.caption(
            "“Use this model” downloads the configuration and the file headers, a few kilobytes. "
            "The first run that needs the weights downloads them. HF_HOME, HF_TOKEN and "
            "HF_HUB_OFFLINE are honoured; never type a token here."
        )
    else:
        st.text_input(
            "Folder with config.json and safetensors" if kind == FOLDER else "Path of the file",
            key=f"{who}-path",
            placeholder="/models/name" if kind == FOLDER else "/models/name.gguf",
            max_chars=1000,
        )
        st.caption("A path on the machine that runs this app. Pickled weights are never opened.")
    st.button("Use this model", key=f"{who}-use", type="primary", on_click=_use, args=(who,))


def _use(who: Who) -> None:
    """Takes the model over, unless its name already says that it is none."""
    state = st.session_state
    if state.get(f"{who}-kind") == HUB:
        revision = str(state.get(f"{who}-revision") or "").strip()
        name = str(state.get(f"{who}-hub") or "").strip() + (f"@{revision}" if revision else "")
    else:
        name = str(state.get(f"{who}-path") or "").strip()
        name = f"./{name}" if name in api.MODELS else name  # the folder, not the built-in model
    with safe.refused_later(f"{who}-refused"):
        if api.locate(name).hub_id is not None:
            ask_hub([name])
        shell.choose(**{who: name})
    fields.close(f"other-{who}")


def ask_hub(names: list[str]) -> None:
    """Allows these hub ids to be looked up, in this session."""
    st.session_state[_ASKED] = {*st.session_state.get(_ASKED, ()), *names}


def waits_for_hub(choice: shell.Choice) -> bool:
    """Whether a model on the Hub was not looked up yet; then draws a button for that."""
    asked = st.session_state.get(_ASKED, ())
    wanted = [
        name
        for name in dict.fromkeys((choice.teacher, choice.student))
        if name not in asked and api.asks_hub(name)
    ]
    if not wanted:
        return False
    with st.container(border=True, key="hub-waits"):
        st.subheader("On the Hugging Face Hub", anchor=False)
        st.text(
            f"Looking up {' and '.join(wanted)} downloads only configurations and file headers "
            "from the Hub, no weights."
        )
        st.button("Look up", key="ask-hub", type="primary", on_click=ask_hub, args=(wanted,))
    return True


def facts(place: Any, found: api.ModelFacts | None) -> None:
    """What one model is, in a few short lines."""
    if found is None:
        return
    spec = found.spec
    where = "built-in" if found.source in api.MODELS else found.format
    heads = f"{spec.n_heads} query heads"
    if spec.n_kv_heads != spec.n_heads:
        heads += f", {spec.n_kv_heads} KV heads (GQA)"
    stored = f"stored as {', '.join(found.stored[:3])}, {amounts.size(found.bytes_on_disk)}"
    longest = f" · context of {found.max_tokens:,} tokens" if found.max_tokens else ""
    with place:
        st.text(f"{spec.model_type} · {where} · {amounts.count(found.parameters)} parameters")
        st.text(stored + longest)
        st.text(f"{heads} · {'tied' if spec.tied else 'untied'} embeddings")
        if found.bytes_to_download:
            st.text(f"{amounts.size(found.bytes_to_download)} to download before a run")
