"""Every page as axe-core sees it, and on a phone's width."""

from __future__ import annotations

from pathlib import Path

import pytest

from nuggets import api
from tests.browser.conftest import PAGES, idle

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # `make browser` runs it, `make test` does not

WORST = ("serious", "critical")
_RULES = """() => axe.run({exclude: [['.katex-display'], ['.st-key-scale']]}, {
  resultTypes: ['violations']}).then(
    found => found.violations.map(({impact, id, nodes}) => [impact, id, nodes[0].html]))"""
"""Left out are formulas, which KaTeX makes scroll though they have room and nothing to operate, and
the slider that is disabled where there is no adapter: WCAG asks no contrast of it."""


def test_no_page_has_a_serious_problem_and_each_fits_a_phone(server, open_context):
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is missing")
    rules = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    run = api.shipped_run()
    page = open_context()[0]
    for name in (*PAGES, "paper?experiment=main"):
        page.set_viewport_size({"width": 1280, "height": 720})
        page.goto(f"/{name}{'&' if '?' in name else '?'}run={run.id}")
        page.get_by_role("heading", level=1).first.wait_for()
        idle(page)
        page.evaluate(rules)
        assert [found for found in page.evaluate(_RULES) if found[0] in WORST] == [], name
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390, name
