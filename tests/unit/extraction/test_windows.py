import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from nuggets.extraction import windows
from nuggets.extraction.windows import TIE, find_window, window_sums

SHAPES = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


@st.composite
def problems(draw, elements):
    values = draw(npst.arrays(np.float64, SHAPES, elements=elements))
    height = draw(st.integers(1, values.shape[0]))
    width = draw(st.integers(1, values.shape[1]))
    return values, height, width


def exact_sum(values, row, col, height, width):
    return math.fsum(values[row : row + height, col : col + width].ravel().tolist())


def brute_force(values, height, width, allowed=lambda row, col: True):
    corners = [
        (row, col)
        for row in range(values.shape[0] - height + 1)
        for col in range(values.shape[1] - width + 1)
        if allowed(row, col)
    ]
    if not corners:
        return None
    sums = [exact_sum(values, *corner, height, width) for corner in corners]
    slack = TIE * math.fsum(values.ravel().tolist())
    first = next(i for i, total in enumerate(sums) if total >= max(sums) - slack)
    return (*corners[first], sums[first])


@settings(max_examples=300)
@given(problems(st.integers(0, 3).map(float)))
def test_window_search_matches_brute_force_with_many_ties(problem):
    values, height, width = problem
    best, _ = find_window(values, height, width)
    assert tuple(best) == brute_force(values, height, width)


@settings(max_examples=300)
@given(problems(st.floats(0, 1e6, width=32)))
def test_window_search_matches_brute_force_on_floats(problem):
    values, height, width = problem
    best, _ = find_window(values, height, width)
    _, _, mass = brute_force(values, height, width)
    slack = 4 * TIE * values.sum()
    assert exact_sum(values, best.row, best.col, height, width) >= mass - slack
    assert abs(best.mass - exact_sum(values, best.row, best.col, height, width)) <= slack


@settings(max_examples=200)
@given(problems(st.integers(0, 5).map(float)))
def test_runner_up_is_the_best_window_at_least_half_a_window_away(problem):
    values, height, width = problem
    best, runner_up = find_window(values, height, width)

    def far(row, col):
        return abs(row - best.row) >= height / 2 or abs(col - best.col) >= width / 2

    expected = brute_force(values, height, width, far)
    assert (None if runner_up is None else tuple(runner_up)) == expected


def test_constant_matrix_gives_the_first_window_although_tenths_are_not_exact():
    best, _ = find_window(np.full((40, 30), 0.1), 7, 5)
    assert (best.row, best.col) == (0, 0)


def test_window_sums_by_hand():
    values = np.arange(12.0).reshape(3, 4)
    sums, total = window_sums(values, 2, 3)
    np.testing.assert_array_equal(sums, [[18, 24], [42, 48]])
    assert total == values.sum()


def test_window_of_the_whole_matrix_has_no_runner_up():
    best, runner_up = find_window(np.ones((3, 4)), 3, 4)
    assert (best.row, best.col, best.mass, runner_up) == (0, 0, 12.0, None)


def test_sums_stay_exact_in_float64_where_float32_tables_fail():
    # A float32 summed-area table loses the small difference behind large running sums.
    values = np.full((300, 300), 1e4, dtype=np.float32)
    values[200, 250] += 1.0
    best, _ = find_window(values, 2, 2)
    assert (best.row, best.col) == (199, 249)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit_of_the_sums(monkeypatch, threads):
    values = np.random.default_rng(0).random((83, 61), dtype=np.float32)
    monkeypatch.setattr(windows, "_BLOCK", 4)
    monkeypatch.setattr(windows, "_PART", 8)
    monkeypatch.setattr(windows, "_STRIPS", 10)
    alone, _ = window_sums(values, 50, 33)
    monkeypatch.setattr(windows, "_PER_THREAD", 1)
    monkeypatch.setattr(windows, "cpu_threads", lambda: threads)
    np.testing.assert_array_equal(window_sums(values, 50, 33)[0], alone)
    expected = [exact_sum(values, row, col, 50, 33) for row in range(34) for col in range(29)]
    np.testing.assert_allclose(alone.ravel(), expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("entries", "shares"), [(0, 1), (1_999_999, 1), (2_000_000, 2), (5_500_000, 3), (9_000_000, 3)]
)
def test_work_is_shared_out_only_where_each_thread_has_a_million_entries(
    monkeypatch, entries, shares
):
    monkeypatch.setattr(windows, "cpu_threads", lambda: 3)
    taken = []
    with windows._threads(entries) as share_out:
        share_out(taken.append, 7)
    assert len(taken) == shares
    assert sorted(i for mine in taken for i in range(7)[mine]) == list(range(7))


def test_no_more_than_the_sums_and_some_strips_are_held():
    values = np.ones((2000, 1500), dtype=np.float32)
    tracemalloc.start()
    try:
        find_window(values, 400, 300)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sums = 8 * 1601 * 1201
    assert sums < peak < sums + 10_000_000  # all strips at once would be 19 MB
