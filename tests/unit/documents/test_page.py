"""The one page template: text of others stays text, and nothing is asked of a network."""

from __future__ import annotations

import re

from nuggets.documents.colours import DARK
from nuggets.documents.page import html_page


def test_a_title_is_text_and_a_body_is_left_as_it_is():
    page = html_page("</title><script>", "<p>costs $paper, {braces} and 5 %</p>")
    assert "<script>" not in page
    assert "<p>costs $paper, {braces} and 5 %</p>" in page


def test_a_page_asks_for_nothing_and_takes_the_look_given():
    page = html_page("t", "b", DARK)
    assert DARK.paper in page
    assert not re.search(r"<(script|link|img)|https?:|url\(|@import", page)
