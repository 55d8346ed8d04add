"""One way to write bytes, counts and times, by hand and by what must hold for all of them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuggets.amounts import count, duration, duration_between, operations, setting, size

SIZE = re.compile(r"(\d+|\d\.\d) (B|kB|MB|GB|TB|PB|EB)")
POWERS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15, "EB": 1e18}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (-0.2, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (5_107_088, "5.1 MB"),
        (9_940_000, "9.9 MB"),
        (9_960_000, "10 MB"),
        (99_600_000, "100 MB"),
        (999_499, "999 kB"),
        (999_600, "1.0 MB"),
        (2**30, "1.1 GB"),
        (26e9, "26 GB"),
        (131e6, "131 MB"),
        (3e21, "3000 EB"),
    ],
)
def test_bytes_are_written_for_people(value, text):
    assert size(value) == text


def test_close_sizes_are_told_apart_by_a_third_digit():
    assert (size(26.4e9, digits=3), size(25.9e9, digits=3)) == ("26.4 GB", "25.9 GB")
    assert (size(8e9, digits=3), size(999.96e6, digits=3)) == ("8.00 GB", "1.00 GB")


def test_operations_and_counts_are_written_for_people():
    assert operations(5032799704420.999) == "5.03 TFLOP"
    assert operations(0) == "0 FLOP"
    assert count(1_275_264) == "1.28 M"
    assert count(99_960_000) == "100 M"
    assert count(512) == "512"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.04, "under 0.1 s"),
        (0.2, "0.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7199, "2 h 00 min"),
        (7800, "2 h 10 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_durations_read_like_words(seconds, text):
    assert duration(seconds) == text


def test_a_setting_has_three_digits_and_none_is_lost_of_what_is_no_fraction():
    values = (0.00022014787858400686, 0.25, 1.0, 12345, "sum", True)
    assert [setting(value) for value in values] == ["0.00022", "0.25", "1", "12345", "sum", "True"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (29.4, 36, "29 to 36 s"),
        (0.41, 6, "0.4 to 6.0 s"),
        (12, 12.2, "about 12 s"),
        (59.8, 60.2, "about 1 min 00 s"),
        (50, 61, "50 s to 2 min"),
        (59.8, 119, "1 min to 2 min"),
        (247, 494, "4 to 9 min"),
        (3000, 3601, "50 min to 1.1 h"),
        (3600, 9000, "1.0 to 2.5 h"),
    ],
)
def test_a_range_of_time_is_short(low, high, text):
    assert duration_between(low, high) == text


@given(st.floats(0, 3e5), st.floats(0, 3e5))
def test_a_range_of_time_leaves_nothing_out_and_stays_short(one, other):
    low, high = sorted((one, other))
    text = duration_between(low, high)
    assert low < 1 or len(text) <= len("59 min to 111.1 h")
    if " to " in text:
        first, last = text.split(" to ")
        unit = last.split()[-1]
        first = first if first[-1] in "snh" else f"{first} {unit}"
        assert _seconds(first) <= low + 0.5
        assert _seconds(last) >= high - 0.5


@given(st.floats(0, 9e20))
def test_a_size_is_within_half_of_its_last_digit_and_below_a_thousand(value):
    number, unit = SIZE.fullmatch(size(value)).groups()
    last = 0.1 if "." in number else 1.0
    assert abs(float(number) - value / POWERS[unit]) <= last / 2 + 1e-9
    assert float(number) < 1000
    assert unit == "B" or float(number) >= 1


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_larger_amount_is_never_written_smaller(one, other):
    low, high = sorted((one, other))
    assert _bytes(size(low)) <= _bytes(size(high))
    assert _seconds(duration(low)) <= _seconds(duration(high))


@given(st.floats(0, 4e5))
def test_a_duration_is_as_near_as_its_smallest_unit(value):
    half = 0.05 if value < 9.95 else 0.5 if value < 3599 else 30.5
    assert abs(_seconds(duration(value)) - value) <= half + 1e-9


def _bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * POWERS[unit]


def _seconds(text: str) -> float:
    if text == "under 0.1 s":
        return 0.05
    parts = re.findall(r"([\d.]+) (h|min|s)", text)
    assert all(float(number) < 60 for number, unit in parts if unit != "h")
    return sum(float(number) * {"h": 3600, "min": 60, "s": 1}[unit] for number, unit in parts)
