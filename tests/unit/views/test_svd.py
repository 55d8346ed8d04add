"""What the SVD keeps and what the injection changes: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets.views.svd import injection, kept_energy, low_rank, shuffled

DIAGONAL = np.diag([3.0, 2.0, 1.0]).astype(np.float32)


def test_kept_energy_of_a_diagonal_by_hand():
    assert kept_energy(DIAGONAL) == pytest.approx([9 / 14, 13 / 14, 1])


def test_nothing_is_lost_of_nothing():
    assert kept_energy(np.zeros((2, 3), np.float32)).tolist() == [1, 1]


def test_low_rank_of_a_diagonal_keeps_the_largest():
    assert low_rank(DIAGONAL, 2) == pytest.approx(np.diag([3.0, 2.0, 0.0]))


def test_shuffling_moves_every_entry_and_changes_none():
    matrix = np.arange(12.0).reshape(3, 4)
    assert sorted(shuffled(matrix).ravel()) == sorted(matrix.ravel())
    assert not np.array_equal(shuffled(matrix), matrix)


def test_injection_is_a_ratio_of_norms_and_rounding():
    weight = np.full((2, 2), 0.1, np.float32)
    found = injection(weight, np.full((2, 2), 0.3, np.float32))
    assert found.size == pytest.approx(3)
    assert found.left < 1e-6
    # Far larger products leave the rounding of their own size.
    assert injection(weight, np.full((2, 2), 1e6, np.float32)).left > 0.01
