"""Learn: the method in chapters, each with real numbers and a question to guess."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import streamlit as st
from streamlit.runtime.scriptrunner import add_script_run_ctx, get_script_run_ctx

from nuggets.documents import colours
from nuggets.ui.frame import measure, safe, share, shell, tour
from nuggets.ui.learn import print as learn_print
from nuggets.ui.learn.asked import Asked, NotMeasured, Scene
from nuggets.ui.learn.chapters import CHAPTERS, GLOSSARY, Chapter, chapter
from nuggets.ui.learn.scenes import scene

TITLES = {found.key: f"{number} {found.title}" for number, found in enumerate(CHAPTERS, 1)}


def main() -> None:
    """Draws the page."""
    heading = st.container()
    choice = shell.current()
    asked = Asked(choice.task, choice.device, share.look())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = st.selectbox("Chapter", list(TITLES), key="chapter", bind="query-params", width=330,
                           format_func=lambda name: TITLES.get(name, str(name)))  # fmt: skip
        found = chapter(key)
        heading.title(f"Learn · {TITLES[found.key]}", anchor=False)
        _steps(found)
        _print(asked)
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.markdown(found.text)
        st.latex(found.formula)
    with safe.shown_problems("learn"):
        _lesson(found, asked, left, right)
    _glossary()
    tour.again()


def _steps(found: Chapter) -> None:
    """Previous and next, as a keyboard way too."""
    place = CHAPTERS.index(found)
    for label, step in (("Back", place - 1), ("Next", place + 1)):
        inside = 0 <= step < len(CHAPTERS)
        st.button(label, key=f"chapter-{label}", disabled=not inside, on_click=shell.choose,
                  kwargs={"chapter": CHAPTERS[step].key} if inside else {})  # fmt: skip


def _print(asked: Asked) -> None:
    light, session = asked._replace(look=colours.LIGHT), get_script_run_ctx()

    def document() -> str:
        """Made when asked for, in a thread that belongs to the session, whose caches it uses."""
        with ThreadPoolExecutor(1, initializer=lambda: add_script_run_ctx(ctx=session)) as pool:
            return pool.submit(learn_print.document, light).result()

    st.download_button(
        "Print all chapters (HTML)",
        document,
        "nuggets-learn.html",
        "text/html",
        key="learn-print",
        on_click="ignore",
    )


def _lesson(found: Chapter, asked: Asked, left, right) -> None:
    try:
        shown = scene(found.key, asked)
    except NotMeasured as missing:
        with right:
            measure.missing(
                "Not measured yet",
                f"This chapter uses measurements of the built-in pair ({asked.task}). Measuring "
                "takes less than a minute, and the result is saved.",
                {"Measure": missing.jobs},
                "learn",
            )
        return
    with left:
        revealed = _question(found, shown)
        shell.link(found.page, f"Open {found.page.capitalize()}")
    more = shown.revealed if revealed else None
    with right:
        if more is None or not shown.instead:
            shown.picture.draw()
        if more is not None:
            more.draw()


def _question(found: Chapter, shown: Scene) -> bool:
    """Guess first, then look; returns whether the answer is shown."""
    with st.container(border=True, key="learn-question"):
        guess = st.radio(found.question, found.options, index=None, key=f"guess-{found.key}")
        revealed = st.toggle("Reveal", key=f"reveal-{found.key}", bind="query-params")
        if not revealed:
            return False
        right = found.options[shown.answer]
        if guess is not None:
            st.badge("Your guess was right" if guess == right else "Your guess was wrong",
                     color="green" if guess == right else "orange")  # fmt: skip
        st.text(f"Measured: {right}.")
        st.text(shown.because)
        return True


def _glossary() -> None:
    with st.expander("Glossary"):
        st.dataframe(pd.DataFrame(GLOSSARY, columns=["term", "meaning"]), hide_index=True,
                     height="content", alt="Terms and what they mean")  # fmt: skip


main()
