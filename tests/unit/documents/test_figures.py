"""Static figures: where marks stand, what axes say, and that text of others stays text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from nuggets.documents.figures import Row, Rows, forest, interval_text, ticks

SVG = "{http://www.w3.org/2000/svg}"


def drawn(panels, tag):
    root = ElementTree.fromstring(forest(panels))
    return [(each.attrib, each.text or "") for each in root.iter(f"{SVG}{tag}")]


def places(panels):
    """Every interval as (low, high), and every mean, in pixels."""
    paths = [attributes for attributes, _ in drawn(panels, "path")]
    ends = [re.search(r"M([\d.]+) .*H([\d.]+)", a["d"]) for a in paths if "H" in a["d"]]
    means = [a["transform"][10:].split()[0] for a in paths if "transform" in a]
    return [(float(e[1]), float(e[2])) for e in ends if e], [float(mean) for mean in means]


@pytest.mark.parametrize(
    ("low", "high", "written"),
    [
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-0.11, 0.26, ["−0.1", "0.0", "0.1", "0.2"]),
        (0.0, 0.11, ["0.00", "0.02", "0.04", "0.06", "0.08", "0.10"]),
        (31.0, 35.0, ["31", "32", "33", "34", "35"]),
        (0.97, 1.94, ["1.0", "1.2", "1.4", "1.6", "1.8"]),
        (0.0, 12_000.0, ["0", "2500", "5000", "7500", "10000"]),
    ],
)
def test_an_axis_is_marked_at_round_numbers_written_alike(low, high, written):
    assert list(ticks(low, high).values()) == written
    assert all(float(words.replace("−", "-")) == pytest.approx(value)
               for value, words in ticks(low, high).items())  # fmt: skip


def test_intervals_means_and_marks_share_one_linear_scale():
    rows = [Row("a", 0.5, (0.25, 1.0), (0.5,)), Row("b", 0.0, (0.0, 0.5))]
    panel = Rows("", "score", rows)
    ((low, high), (zero, half)), (mean, nothing) = places([panel])
    assert nothing == zero
    assert mean == half
    assert (low - zero) / (high - zero) == pytest.approx(0.25, abs=0.001)
    (dot,) = [float(attributes["cx"]) for attributes, _ in drawn([panel], "circle")]
    assert dot == mean
    marks = {words: float(a["x"]) for a, words in drawn([panel], "text")}
    assert (marks["0.0"], marks["1.0"]) == pytest.approx((zero, high))


def test_a_difference_stands_beside_zero_even_where_all_are_far_from_it():
    rows = [Row("a − b", 0.8, (0.7, 0.9))]
    words = [text for _, text in drawn([Rows("", "", rows, zero=True)], "text")]
    assert "0.0" in words
    assert "0.0" not in [text for _, text in drawn([Rows("", "", rows)], "text")]


def test_a_number_without_an_interval_gets_none():
    intervals, means = places([Rows("", "", [Row("a", 28.22), Row("b", None)])])
    assert (intervals, len(means)) == ([], 1)


def test_names_stand_once_per_line_where_all_panels_have_the_same():
    def names(*panels):
        return [text for _, text in drawn(panels, "text") if text in ("a", "b", "c")]

    same = [Rows(str(n), "", [Row("a", 1.0, (0.0, 2.0))]) for n in range(5)]
    assert names(*same) == ["a", "a"]  # five panels on two lines
    other = Rows("x", "", [Row("b", 1.0, (0.0, 2.0))])
    assert names(same[0], other) == ["a", "b"]


@pytest.mark.parametrize(
    ("n", "alike", "across"), [(3, True, 3), (4, True, 2), (8, True, 3), (4, False, 2)]
)
def test_panels_keep_to_three_across_and_fill_their_lines(n, alike, across):
    rows = [[Row("a" if alike else f"arm {place}", 1.0, (0.0, 2.0))] for place in range(n)]
    panels = [Rows("run", "", each) for each in rows]
    assert len({a["x"] for a, text in drawn(panels, "text") if text == "run"}) == across


def test_what_measures_the_same_has_the_same_scale_and_other_things_their_own():
    narrow = Rows("", "hits", [Row("a", 0.5, (0.4, 0.6))])
    wide = Rows("", "hits", [Row("a", 0.5, (0.0, 1.0))])
    other = Rows("", "loss", [Row("a", 0.5, (0.4, 0.6))])
    first, second, third = places([narrow, wide, other])[0]
    assert first[1] - first[0] == pytest.approx((second[1] - second[0]) / 5, abs=0.1)
    assert third[1] - third[0] > second[1] - second[0] - 0.1


def test_a_line_of_panels_is_as_high_as_its_longest():
    rows = [Row(name, 1.0, (0.0, 2.0)) for name in "abc"]
    mixed = [Rows("", "", own) for own in (rows, rows, rows[:1], rows[:1])]
    heights = [_height([Rows("", "", rows)] * 2), _height([Rows("", "", rows[:1])] * 2)]
    assert _height(mixed) == sum(heights)


def _height(panels):
    return int(re.search(r'height="(\d+)"', forest(panels))[1])


def test_values_that_are_all_alike_can_be_drawn():
    rows = [Row("a", 0.0, (0.0, 0.0), (0.0, 0.0))]
    assert places([Rows("", "", rows)])[0]


def test_text_of_others_stays_text():
    hostile = '"><script>alert(1)</script>'
    svg = forest([Rows(hostile, hostile, [Row(hostile, 1.0, (0.0, 2.0), text=hostile)])])
    assert "<script" not in svg
    assert svg.count("&lt;script") == 4


def test_an_interval_is_written_with_minus_signs():
    assert interval_text(-0.1, -0.25, 0.05) == "−0.100 [−0.250, 0.050]"
    assert interval_text(0.1, -0.25, 0.5, signed=True) == "+0.100 [−0.250, +0.500]"
