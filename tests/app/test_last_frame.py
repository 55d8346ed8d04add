"""Pages: what nobody foresaw is one sentence; any address draws a page or says what is wrong."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuggets import api
from nuggets.disk import last_frame
from nuggets.disk.home import nuggets_home
from tests.app.conftest import shown

ROOT = Path(__file__).parents[2]
PAGES = sorted(file.stem for file in (ROOT / "pages").glob("*.py"))
THE_SENTENCE = last_frame.sentence


class PanicException(BaseException):
    """As libraries written in Rust raise it."""


@pytest.fixture
def real_frame(monkeypatch):
    monkeypatch.setattr(last_frame, "sentence", THE_SENTENCE)


@pytest.mark.parametrize(
    "error", [TypeError("odd"), MemoryError(), OSError(5, "bad disk"), PanicException("out")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("name", ["runs", "skills"])
@pytest.mark.parametrize("drawn_before", [0, 3])
def test_a_page_shows_a_sentence_and_the_log_has_the_trace(
    open_page, real_frame, monkeypatch, error, name, drawn_before
):
    usual = getattr(api, name)
    calls = iter(range(1000))

    def fail():
        if next(calls) < drawn_before:  # the sidebar is drawn, the page is not
            return usual()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(api, name, fail)
        at = open_page("runs" if name == "runs" else "models")
    assert not at.exception
    assert type(error).__name__ in shown(at)
    assert type(error).__name__ in (nuggets_home() / "logs" / "unforeseen.log").read_text()


def bound():
    """Every name of a control that is bound to the address, as the sources write it."""
    for file in sorted([*(ROOT / "nuggets/ui").rglob("*.py"), *(ROOT / "pages").glob("*.py")]):
        tree = ast.parse(file.read_text())
        constants = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            named = {word.arg: word.value for word in call.keywords}
            key = named.get("key") if "bind" in named else None
            key = constants.get(key.id) if isinstance(key, ast.Name) else key
            if isinstance(key, ast.Constant):
                yield key.value


KEYS = (
    *bound(),
    "ahead", "blocks", "chapter", "containing", "counted", "curve_arms", "device", "dtype",
    "eval_arms", "eval_data", "eval_kinds", "eval_limit", "eval_models", "eval_shots",
    "experiment", "flips", "format", "kind", "left", "map_run", "maps", "matrix", "measure",
    "recipe", "right", "run", "scale", "seed", "selectors", "side", "speakers", "status", "task",
    "teacher", "student", "tokens", "units", "with", "rank", "energy", "ratio", "layers",
    "sweep", "view", "fields", "space-lora.r", "sampler", "trials", "confirm", "hours", "objective",
)  # fmt: skip
VALUES = st.sampled_from(
    ["", "-1", "1e999", "nan", "9" * 30, "x" * 5000, "../../etc/passwd", "/dev/zero", "org/name",
     "run:x", "\u202e", "<b>x</b>", "[1]", "{}", "None", "true", "a,b", "\ud7ff", "~nobody/x",
     "https://evil.example", "0", "quick"]
) | st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=12)  # fmt: skip


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(given_=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=8))
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (n % 3 > 0)) for n, p in enumerate(PAGES)]
)
def test_any_address_draws_a_page_or_says_what_is_wrong(open_page, monkeypatch, page, given_):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    try:
        assert not open_page(page, **given_).exception
    except ValueError as problem:  # the test harness cannot draw a typed choice a second time
        if "is not in list" not in str(problem):
            raise
