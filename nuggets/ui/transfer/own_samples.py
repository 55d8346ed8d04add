"""Bringing one's own samples: upload, look at what was read, give it a name, use it everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from nuggets import api, demo
from nuggets.data.jsonl import load_samples
from nuggets.data.overview import overview
from nuggets.data.samples import Sample
from nuggets.data.tables import PARTS, UnnamedColumns
from nuggets.ui.frame import fields, safe, shell, visitors

MOST_WORDS = 5
"""Unknown words that are named."""
SHAPES = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


def popover() -> None:
    """A button that opens the uploader; what is used becomes the sidebar's task."""
    if demo.on():
        return
    with fields.popover("Use your own samples", "own-samples"):
        uploader()


def uploader() -> None:
    """Takes a file, shows what was read, and gives it a name."""
    if visitors.not_here("nothing can be uploaded"):
        return
    file = st.file_uploader(
        "Samples as JSONL, or a table",
        type=["jsonl", "json", "csv", "tsv", "parquet", "gz"],
        key="data-file",
        help="Each line or row has messages, prompt and completion, instruction and output, or "
        "question and answer, with or without choices; columns of other names are chosen "
        "below. A fifth, chosen by id, is held out for testing.",
    )
    if file is None:
        st.caption("One sample on each line, for example")
        st.code(SHAPES, language="json", wrap_lines=True)
        return
    with safe.shown_problems("data"):
        content = _lines(file.name, file.getvalue())
        if content is None:
            return
        path = api.save_upload(content, checked_as=file.name)
        samples = load_samples(path)
        for sentence in overview(samples).sentences:
            st.text(sentence)
        _unknown(samples)
        st.code(samples[0].prompt[:400], language=None, wrap_lines=True)
        st.code(samples[0].answer[:400], language=None, wrap_lines=True)
        name = st.text_input("Name", Path(file.name).stem[:40], key="data-name")
        st.button(
            "Use this dataset", key="use-data", type="primary", on_click=_use, args=(path, name)
        )


def _lines(name: str, content: bytes) -> bytes | None:
    """The upload as JSONL; a table with columns of its own asks first which holds what."""
    if name.lower().endswith((".jsonl", ".json")):
        return content
    known = api.column_names(content, name)
    named = {part: [part] for part in PARTS if part in known}
    others = [column for column in known if column not in named]
    if {"question", "answer"} <= set(named) and "choices" not in named and others:
        choices = _choices(others)
        return api.samples_from(content, name, named | choices if choices else {})[1]
    try:
        return api.samples_from(content, name, {})[1]
    except UnnamedColumns:
        st.text(f"{name} has {len(known)} columns. Which holds what?")
    columns = {
        part: [chosen]
        for part in ("question", "answer")
        if (chosen := st.selectbox(part.capitalize(), known, None, key=f"column-{part}"))
    }
    choices = _choices(known)
    if len(columns) < 2:
        return None
    return api.samples_from(content, name, columns | choices)[1]


def _choices(columns: Sequence[str]) -> dict[str, list[str]]:
    chosen = st.multiselect("Choices, if there are any", columns, key="column-choices")
    return {"choices": chosen} if chosen else {}


def _unknown(samples: Sequence[Sample]) -> None:
    """Which words the chosen models cannot read; both see the same unknown token for each."""
    choice = shell.current()
    texts = [text for sample in samples for text in (sample.prompt, sample.answer)]
    for model in dict.fromkeys((choice.teacher, choice.student)):
        if found := api.unknown_words(model, texts):
            most = ", ".join(repr(word) for word, _ in found.most_common(MOST_WORDS))
            st.text(
                f"{model} reads {found.total()} pieces of these samples as its unknown token, such "
                f"as {most}. It cannot learn or answer them; use words that it knows, or another "
                "model."
            )


def _use(path: Path, name: str) -> None:
    data = api.DataConfig(file=str(path))
    api.remember(data, name)
    shell.choose(task=api.name_of(data))
    fields.close("own-samples", "other-samples")
