"""Real clicks on the map and real boxes on the matrix, on maps that need no measuring."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import click_cell, idle, serving

pytestmark = pytest.mark.browser

_AREA = """key => {
  const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
  const {xaxis3: x, yaxis3: y} = plot._fullLayout, box = plot.getBoundingClientRect();
  return [box.left + x._offset, box.top + y._offset, x._length, y._length];
}"""
_OUTLINED = """key => {
  const {shapes} = document.querySelector(`.st-key-${key} .js-plotly-plot`)._fullLayout;
  return shapes.map(({y0, y1}) => (y0 + y1) / 2);
}"""
_SEEN = """keys => {
  const inside = document.querySelector('[data-testid=stMainBlockContainer] h1')
    .closest('[data-testid=stVerticalBlock]').getBoundingClientRect();
  const header = document.querySelector('[data-testid=stHeader]').getBoundingClientRect().bottom;
  const plots = keys.map(key => document.querySelector(`.st-key-${key} .js-plotly-plot`));
  const drawn = plots.map(plot => plot.getBoundingClientRect()).map(
    box => box.width * (Math.min(box.bottom, window.innerHeight) - box.top));
  return (drawn[0] + drawn[1]) / (inside.width * (window.innerHeight - header));
}"""
_MAP, _MATRIX = "figure-sensitivity-map-0", "figure-matrix-map-0"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for all that only look at the map."""
    with serving(tmp_path_factory.mktemp("clicks")) as found:
        yield found


@pytest.fixture(scope="module")
def measured(server):
    """A map of the built-in teacher, drawn by chance, in the server's home."""
    from nuggets.recipe import DataConfig, SensitivityJob
    from tests.app.measured import write_map

    write_map(SensitivityJob(model="teacher", data=DataConfig(task="add"), device="cpu"), 0)


def test_click_chooses_a_matrix_and_a_box_looks_closer(measured, open_context, shoot):
    page, _ = open_context()
    page.goto("/sensitivity?task=add&device=cpu")
    page.locator(f".st-key-{_MATRIX} .js-plotly-plot").wait_for()
    idle(page)
    assert page.evaluate(_SEEN, [_MAP, _MATRIX]) > 0.6  # side by side, without scrolling
    click_cell(page, _MAP, "model.layers.3.mlp.up_proj")
    page.get_by_text(re.compile(r"^model\.layers\.3\.mlp\.up_proj · rows 0–383 of 384")).wait_for()
    assert "matrix=L3.mlp.up_proj" in page.url
    idle(page)
    assert page.evaluate(_OUTLINED, _MAP) == [3, 3]
    shoot(page, "sensitivity-clicked")

    page.locator(f".st-key-{_MATRIX}").scroll_into_view_if_needed()
    idle(page)
    left, top, width, height = page.evaluate(_AREA, _MATRIX)
    page.mouse.move(left + 0.25 * width, top + 0.25 * height)
    page.mouse.down()
    page.mouse.move(left + 0.4 * width, top + 0.4 * height, steps=4)
    page.mouse.move(left + 0.5 * width, top + 0.5 * height, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile(r"rows=9[4-7]&rows=19[1-3]"))
    idle(page)
    shoot(page, "matrix-zoomed")
    restored = page.url
    page.goto(restored)  # the link brings the same part back
    page.get_by_text(
        re.compile(r"^model\.layers\.3\.mlp\.up_proj · rows 9[4-7]–19[0-2]")
    ).wait_for()


@pytest.mark.slow
def test_a_redraw_draws_its_own_figure_once(measured, open_context):
    page, _ = open_context()
    page.add_init_script("""
      window.painted = [];
      const paint = HTMLCanvasElement.prototype.toDataURL;
      HTMLCanvasElement.prototype.toDataURL = function (...how) {
        if (this.width > 40) window.painted.push(this.width);
        return paint.apply(this, how);
      };
    """)
    page.goto("/sensitivity?task=add&device=cpu&mode=share")
    page.locator(f".st-key-{_MATRIX} .js-plotly-plot").wait_for()
    idle(page)
    page.evaluate("window.painted = []")
    page.get_by_role("radio", name="max", exact=True).click()
    page.wait_for_url(re.compile("blocks=max"))
    idle(page)
    assert len(page.evaluate("window.painted")) == 1  # one matrix, painted one time


@pytest.mark.slow
def test_a_figure_is_saved_as_svg_and_png_and_its_link_copied(measured, open_context):
    page, _ = open_context()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/sensitivity?task=add&device=cpu&mode=absolute")
    page.locator(f".st-key-{_MAP} .js-plotly-plot").wait_for()
    idle(page)
    for name, start in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        page.get_by_role("button", name="Export").first.click()
        with page.expect_download() as saved:
            page.get_by_role("button", name=name, exact=True).click()
        content = saved.value.path().read_bytes()
        assert content.startswith(start)
        if name == "SVG":
            assert b"rgb(255, 255, 255)" in content  # its own paper, not a placeholder's
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Export").first.click()
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
