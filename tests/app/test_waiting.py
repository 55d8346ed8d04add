"""No page waits for a file longer than a moment."""

from __future__ import annotations

import threading
import time

import pytest
import streamlit as st

from nuggets import api
from nuggets.errors import BadInput
from nuggets.ui.frame import waiting
from tests.app.conftest import shown


@pytest.fixture
def hung(monkeypatch):
    """`hung("look_ahead")`: a file that this name of the façade reads answers only when let go."""
    gate = threading.Event()
    st.cache_resource.clear()  # what other tests have found

    def hang(name):
        usual = getattr(api, name)
        monkeypatch.setattr(api, name, lambda *a, **k: (gate.wait(60), usual(*a, **k))[1])
        monkeypatch.setattr(waiting, "PATIENCE_S", 0.3)
        return gate

    yield hang
    gate.set()


@pytest.mark.parametrize(
    ("page", "name", "saying"),
    [
        ("transfer", "look_ahead", "Reading models and samples…"),
        ("models", "preflight", "Checking that these models load"),
        ("sensitivity", "find_map", "all of its files are read once"),
    ],
)
def test_a_page_is_drawn_while_a_file_hangs_and_completes_afterwards(
    open_page, hung, page, name, saying
):
    gate = hung(name)
    began = time.monotonic()
    at = open_page(page)
    assert time.monotonic() - began < 20  # most of it is imports
    assert saying in shown(at)
    assert at.selectbox("task").value == "reverse", "the sidebar works meanwhile"
    gate.set()
    for _ in range(100):
        time.sleep(0.1)
        if saying not in shown(at.run()):
            break
    assert saying not in shown(at)
    assert not at.exception


def test_what_the_call_refuses_is_said_on_the_page(open_page, monkeypatch):
    def refuse(recipe):
        raise BadInput("It is not there.")

    monkeypatch.setattr(api, "look_ahead", refuse)
    assert "It is not there." in shown(open_page("transfer"))
