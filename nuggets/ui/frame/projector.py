"""Projector mode: no sidebar and everything larger, for a room."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import streamlit as st

KEY = "projector"
LARGER = 1.25
_SIZES = ("size", "height", "yshift", "standoff", "ticklabelstandoff", "thickness")
_STYLE = f"""<style>
[data-testid=stSidebar], [data-testid=stExpandSidebarButton] {{ display: none; }}
html {{ font-size: {LARGER:.0%} !important; }}
.st-key-leave-projector {{
  position: fixed; top: .4rem; right: 4rem; z-index: 999991; width: auto;
}}
</style>"""


def on() -> bool:
    """Whether the page is shown in this mode."""
    return st.session_state.get(KEY) is True


def switch() -> None:
    """Draws the switch, which is part of the address."""
    st.toggle("Projector mode", key=KEY, bind="query-params",
              help="Hides this sidebar and makes everything larger.")  # fmt: skip


def apply() -> None:
    """Hides the sidebar, whose choices stay as they are, and offers the way back."""
    if on():
        st.html(_STYLE)
        st.button("Leave projector mode", key="leave-projector", type="tertiary", on_click=_leave)


def _leave() -> None:
    st.session_state[KEY] = False


def enlarged(fig: go.Figure) -> go.Figure:
    """A figure with larger type, marks and room for them; as it is outside of this mode."""
    if not on():
        return fig
    larger = _scaled(fig.to_plotly_json())
    larger["layout"]["margin"] = _all_scaled(larger["layout"].get("margin", {}))
    return go.Figure(larger)


def _scaled(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {
            name: round(value * LARGER) if name in _SIZES and _is_number(value) else _scaled(value)
            for name, value in tree.items()
        }
    return [_scaled(each) for each in tree] if isinstance(tree, list | tuple) else tree


def _all_scaled(sizes: dict[str, Any]) -> dict[str, Any]:
    return {side: round(size * LARGER) for side, size in sizes.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
