"""Real clicks on the alignment's matrix: cells become the layer map of a transfer."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import idle

pytestmark = pytest.mark.browser

_CELL = """([student, teacher, dx, dy]) => {
  const plot = document.querySelector('.st-key-figure-similarity-cka .js-plotly-plot');
  const {xaxis: x, yaxis: y} = plot._fullLayout, box = plot.getBoundingClientRect();
  return [box.left + x._offset + x.d2p(student + dx), box.top + y._offset + y.d2p(teacher + dy)];
}"""


@pytest.fixture
def aligned(server):
    """An alignment of the built-in pair, drawn by chance, in the server's home."""
    from nuggets.recipe import AlignJob
    from tests.app.measured import write_alignment

    write_alignment(AlignJob(teacher="teacher", student="independent", device="cpu"))


def test_clicks_on_cells_make_the_layer_map_of_a_transfer(aligned, open_context, shoot):
    page, _ = open_context("dark")
    page.goto("/alignment?device=cpu&layer_map=0,1,2,3")
    page.locator(".st-key-figure-similarity-cka .js-plotly-plot").wait_for()
    idle(page)
    field = page.get_by_role("textbox", name="Layer map by hand")
    # The middle of a cell, its corners, and a cell that was chosen before.
    for student, teacher, dx, dy, expected in (
        (3, 5, 0.0, 0.0, "0, 1, 2, 5"),
        (1, 2, 0.44, -0.4, "0, 2, 2, 5"),
        (2, 4, -0.44, 0.4, "0, 2, 4, 5"),
        (3, 3, 0.0, 0.3, "0, 2, 4, 3"),
        (3, 5, 0.0, 0.0, "0, 2, 4, 5"),
    ):
        page.mouse.click(*page.evaluate(_CELL, [student, teacher, dx, dy]))
        page.wait_for_url(re.compile("layer_map=" + expected.replace(", ", r"(%2C|,)(\+|%20)")))
        idle(page)
        assert field.input_value() == expected
    shoot(page, "layer-map-dark")
    page.get_by_role("button", name="Use in a transfer").click()
    page.wait_for_url(re.compile("/transfer"))
    idle(page)
    by_hand = page.get_by_role("textbox", name="Teacher layer per student layer")
    by_hand.wait_for()
    assert by_hand.input_value() == "0, 2, 4, 5"
