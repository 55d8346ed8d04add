"""Figures and tables of answers: every token with its probability and what else was likely."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from nuggets import api
from nuggets.documents.colours import LIGHT, Look
from nuggets.ui.charts import base as charts


def tokens_frame(answer: api.playground.Answer) -> pd.DataFrame:
    """One row per place and candidate; `rank` 1 is what was said."""
    rows = [
        {"place": place, "rank": rank, "token": text, "probability": probability}
        for place, token in enumerate(answer.tokens, 1)
        for rank, (text, probability) in enumerate(token.alternatives, 1)
    ]
    return pd.DataFrame(rows, columns=["place", "rank", "token", "probability"])


def tokens_figure(answer: api.playground.Answer, look: Look = LIGHT) -> go.Figure:
    """A bar per token as high as its probability; the alternatives on hover."""
    places = list(range(1, len(answer.tokens) + 1))
    fig = go.Figure(
        go.Bar(
            x=places,
            y=[token.probability for token in answer.tokens],
            marker_color=look.blue,
            customdata=[_alternatives(token) for token in answer.tokens],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    names = [visible(token.text) for token in answer.tokens]
    fig.update_xaxes(tickvals=places, ticktext=names, tickfont={"size": 14}, showgrid=False)
    fig.update_yaxes(range=[0, 1.02], tickformat=".0%", title="probability")
    return charts.finish(fig, look, 190, showlegend=False)


def visible(token: str) -> str:
    """A token as a label: blanks and line ends can be seen."""
    text = token.replace("\n", "↵").replace(" ", "␣") or "∅"
    return charts.shorten(text, 14)


def _alternatives(token: api.playground.Token) -> str:
    lines = (f"{visible(text)}  {probability:.1%}" for text, probability in token.alternatives)
    return "<br>".join(lines)
