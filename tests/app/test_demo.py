"""The pages of a demo server: what it forbids is absent, or says why in one sentence."""

from __future__ import annotations

import pytest

from nuggets import api, demo
from tests.app.conftest import ROOT, rendered, shown
from tests.app.measured import write_benchmark

PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
FORBIDDEN = (
    *("other-teacher", "other-student", "save", "own-samples", "import", "bundle", "export"),
    *("delete", "start-sweep", "eval-start", "run-study", "opened-cancel", "opened-resume"),
)
TYPED = ("notes", "path", "hub", "bundle", "export", "save-name", "data-name", "eval_data")


@pytest.fixture(autouse=True)
def visited(monkeypatch):
    monkeypatch.setenv(demo.SWITCH, "1")


@pytest.fixture
def finished(home, monkeypatch):
    monkeypatch.setenv(demo.SWITCH, "0")
    run = write_benchmark(api.load_recipe("quick"))
    monkeypatch.setenv(demo.SWITCH, "1")
    return run


@pytest.mark.parametrize("name", PAGES)
def test_a_page_offers_nothing_that_a_demo_forbids(name, open_page, finished):
    at = open_page(name, run=finished.id, experiment="layers")
    assert not at.exception
    assert "**Demo.** Built-in models and tasks" in rendered(at)
    assert not at.get("file_uploader")
    assert not {key for key in FORBIDDEN if any(button.key == key for button in at.button)}
    typed = [field.key or "" for field in [*at.text_input, *at.text_area]]
    assert not [key for key in typed if key.startswith(TYPED) or key.endswith(TYPED)]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("runs", "nothing can be exported"),
        ("sweeps", "there are no sweeps"),
        ("results", "there are no benchmarks"),
        ("paper", "experiments cannot be started"),
    ],
)
def test_a_page_says_in_one_sentence_what_a_demo_lacks(name, why, open_page, finished):
    query = {"run": finished.id} if name == "runs" else {"experiment": "layers"}
    assert f"On this demo server {why}" in shown(open_page(name, **query))


def test_outside_a_demo_the_same_page_has_them(open_page, finished, monkeypatch):
    monkeypatch.setenv(demo.SWITCH, "0")
    at = open_page("runs", run=finished.id)
    assert {"delete", "export", "bundle"} <= {button.key for button in at.button}
    assert "Demo." not in rendered(at)


@pytest.mark.parametrize("name", ["/etc", "org/model", "~/.ssh"])
def test_a_link_to_another_model_reaches_nothing(name, open_page):
    at = open_page("models", teacher=name)
    assert name not in at.selectbox("teacher").options
    assert not at.exception


def test_a_visitor_starts_a_run_until_the_queue_is_full(open_page, monkeypatch):
    at = open_page()
    at.button("try-it").click().run()
    assert len(api.runs()) == 1
    monkeypatch.setattr(demo, "MOST_LIVE", 0)
    at = open_page()
    at.button("try-it").click().run()
    assert len(api.runs()) == 1
    assert "which is all that it takes" in shown(at)
