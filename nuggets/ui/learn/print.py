"""All chapters as one HTML page to print or to hand out: self-contained, no network."""

from __future__ import annotations

import html
import re

from nuggets.documents.page import html_page
from nuggets.errors import NuggetsError
from nuggets.ui.frame.share import Picture
from nuggets.ui.learn.asked import Asked, NotMeasured
from nuggets.ui.learn.chapters import CHAPTERS, GLOSSARY, Chapter
from nuggets.ui.learn.scenes import scene

_BODY = """<h1>Where a skill lives, and whether it can be moved</h1>
<p>The method in ten chapters. Numbers: {origin}. Guess before you read the answer; the answers
stand at the end.</p>{chapters}<section><h2>Answers</h2><ol>{answers}</ol></section>
<section><h2>Glossary</h2><dl>{glossary}</dl></section>"""


def document(asked: Asked) -> str:
    """The page; chapters whose measurements are missing say so in place of their figure."""
    chapters, answers = [], []
    scripted = False
    for number, chapter in enumerate(CHAPTERS, 1):
        pictures, answer = "<p>Not measured yet.</p>", "Not measured yet."
        try:
            found = scene(chapter.key, asked)
        except NotMeasured:
            pass
        except NuggetsError as error:
            pictures = f"<p>{html.escape(str(error))}</p>"
        else:
            pictures = _figure(found.picture, not scripted)
            scripted = True
            answer = f"<b>{html.escape(chapter.options[found.answer])}.</b> "
            answer += html.escape(found.because)
            answer += "" if found.revealed is None else _figure(found.revealed, False)
        chapters.append(_section(number, chapter, pictures))
        answers.append(f"<li>{answer}</li>")
    words = "".join(f"<dt>{html.escape(w)}</dt><dd>{html.escape(m)}</dd>" for w, m in GLOSSARY)
    body = _BODY.format(
        origin=html.escape(asked.about),
        chapters="".join(chapters),
        answers="".join(answers),
        glossary=words,
    )
    return html_page("Nuggets: the method in ten chapters", body)


def _section(number: int, chapter: Chapter, pictures: str) -> str:
    options = "".join(f"<li>☐ {html.escape(option)}</li>" for option in chapter.options)
    return (
        f"<section><h2>{number}. {html.escape(chapter.title)}</h2>"
        f"<p>{_marked(chapter.text)}</p><pre>{html.escape(chapter.plain)}</pre>{pictures}"
        f"<p><b>Guess:</b> {html.escape(chapter.question)}</p>"
        f'<ul style="list-style:none">{options}</ul></section>'
    )


def _figure(picture: Picture, script: bool) -> str:
    """A figure; the first carries Plotly's script for all."""
    drawn = picture.figure.to_html(
        full_html=False, include_plotlyjs=script, config={"displayModeBar": False}
    )
    return f"<figure>{drawn}<figcaption>{html.escape(picture.caption)}</figcaption></figure>"


def _marked(text: str) -> str:
    """Our own text, whose only Markdown is `**bold**` and `*stressed*`."""
    bold = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"\*(.+?)\*", r"<i>\1</i>", bold)
