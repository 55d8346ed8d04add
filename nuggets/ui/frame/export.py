"""Buttons that the browser serves itself: copy this view's link, save a figure as SVG or PNG.

Saving in the browser gives exactly what is seen and needs no second Chrome on the server. The
buttons press the figure's own camera after setting its format.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

_HTML = """
<div class="row">
  <button type="button" data-act="link">Copy link</button>
  <button type="button" data-act="svg">SVG</button>
  <button type="button" data-act="png">PNG</button>
  <span role="status" aria-live="polite"></span>
</div>
"""

_CSS = """
.row { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; }
button {
  font: inherit; color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: 0.5rem;
  padding: 0.25rem 0.75rem; min-height: 2.5rem; cursor: pointer;
}
button:hover { border-color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
button[hidden] { display: none; }
span { font-size: 0.9rem; color: var(--st-text-color); }
"""

_JS = """
export default function ({ data, parentElement }) {
  const say = (text) => { parentElement.querySelector('[role=status]').textContent = text; };
  const save = (format) => {
    const plot = data.figure &&
      document.querySelector(`.st-key-${CSS.escape(data.figure)} .js-plotly-plot`);
    const camera = plot && plot.querySelector('.modebar-btn[data-title*="ownload"]');
    if (!camera) { say('The figure is not drawn yet.'); return; }
    plot._context.toImageButtonOptions =
      { format, filename: data.name, scale: format === 'png' ? 3 : 1 };
    camera.click();
    say(`Saved as ${format.toUpperCase()}`);
  };
  const copy = () => navigator.clipboard.writeText(window.location.href)
    .then(() => say('Copied'), () => say('Copying was blocked. Copy the address bar.'));
  for (const button of parentElement.querySelectorAll('button')) {
    const act = button.dataset.act;
    button.hidden = act !== 'link' && !data.figure;
    button.onclick = () => (act === 'link' ? copy() : save(act));
  }
}
"""


def buttons(name: str, key: str, figure: str | None) -> None:
    """Draws the buttons.

    Args:
        name: of saved files, without ending.
        key: unique on the page.
        figure: key of the container around the figure; None where there is only a link to copy.
    """
    from streamlit.runtime import Runtime

    runtime = Runtime.instance() if Runtime.exists() else None
    _component(runtime)(data={"name": name, "figure": figure}, key=key)


@lru_cache(maxsize=1)
def _component(runtime: Any) -> Any:
    """The component, registered once per runtime: again for each would warn, never would fail."""
    from streamlit.components import v2

    return v2.component("nuggets_export", html=_HTML, css=_CSS, js=_JS)
