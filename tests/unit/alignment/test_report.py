from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import subspace_angles

from nuggets.alignment.linear_maps import r2_matrix, ridge_map
from nuggets.alignment.report import META, TENSORS, AlignmentReport, monotone_path
from nuggets.alignment.similarity import (
    cka_matrix,
    profile_correlation,
    subspace_matrix,
)
from nuggets.compute import products
from nuggets.errors import BadInput, Damaged

seeds = st.integers(0, 2**32 - 1)


def linear_cka(x, y):
    return float(cka_matrix(x[None], y[None])[0, 0])


def subspace_similarity(x, y):
    return float(subspace_matrix(x[None, None], y[None, None])[0, 0])


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(seed, size):
    return np.linalg.qr(normal(seed, size, size))[0]


# CKA


def slow_cka(x, y):
    """Kornblith et al. 2019, eq. 3 and 2, as written: HSIC from centred Gram matrices."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n

    def hsic(k, m):
        return np.trace(k @ centre @ m @ centre) / (n - 1) ** 2

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_cka_by_hand():
    # One feature each: CKA is the squared correlation. Here Σxy = 0.
    x = np.array([[1.0], [2.0], [3.0]])
    assert linear_cka(x, np.array([[0.0], [1.0], [0.0]])) == pytest.approx(0)
    # Σxy = 1, Σx² = Σy² = 2, so r² = 1/4.
    assert linear_cka(x, np.array([[0.0], [-1.0], [1.0]]) + 5) == pytest.approx(1 / 4)
    # Two orthogonal features against the first of them: ‖XᵀY‖² = 4, norms √(4 + 4) and 2.
    two = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) / np.sqrt(2)
    assert linear_cka(two, two[:, :1]) == pytest.approx(4 / (np.sqrt(8) * 2))


@pytest.mark.parametrize(("n", "p", "q"), [(30, 4, 7), (6, 9, 3), (5, 3, 12), (7, 7, 7)])
def test_cka_matrix_matches_the_definition_with_many_and_few_tokens(n, p, q):
    x, y = normal(0, 3, n, p) + 3, normal(1, 2, n, q)
    expected = [[slow_cka(a, b) for b in y] for a in x]
    np.testing.assert_allclose(cka_matrix(x, y), expected, rtol=1e-10)
    assert linear_cka(x[2], y[1]) == pytest.approx(expected[2][1])


@given(seeds, st.integers(3, 12), st.integers(1, 8), st.floats(1e-200, 1e200))
def test_cka_ignores_rotation_scale_and_shift(seed, n, p, scale):
    x, y = normal(seed, n, p), normal(seed + 1, n, 4)
    moved = scale * (x @ rotation(seed, p) + 0.5)
    assert linear_cka(moved, y) == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert linear_cka(moved, x) == pytest.approx(1)
    assert 0 <= linear_cka(x, y) <= 1


def test_constant_features_have_no_similarity_and_give_no_warning():
    x = normal(0, 20, 3)
    assert linear_cka(np.full((20, 3), 0.1, dtype=np.float32), x) == 0
    assert linear_cka(np.zeros((20, 3)), np.zeros((20, 2))) == 0
    # A constant column beside others changes nothing, though 0.1 has no exact mean.
    assert linear_cka(np.c_[x, np.full(20, 0.1)], x) == pytest.approx(1)


# Subspaces


def test_subspace_similarity_is_the_mean_squared_cosine_of_principal_angles():
    x, y = normal(0, 40, 5), normal(1, 40, 5) + 2
    angles = subspace_angles(x - x.mean(0), y - y.mean(0))
    expected = np.mean(np.cos(angles) ** 2)
    assert subspace_similarity(x, y) == pytest.approx(expected)
    whole = subspace_matrix(np.stack([[x, y], [y, y]]), np.stack([[y, y]]))
    np.testing.assert_allclose(whole, [[(expected + 1) / 2], [1.0]])


def test_subspace_similarity_by_hand():
    # Span {e1, e2} against {e1, e3} of the centred tokens: cosines 1 and 0.
    basis = np.linalg.qr(np.c_[np.ones(6), normal(0, 6, 3)])[0][:, 1:]
    similarity = subspace_similarity(basis[:, [0, 1]], 7 * basis[:, [0, 2]])
    assert similarity == pytest.approx(1 / 2)


@settings(max_examples=30)
@given(seeds)
def test_subspace_similarity_ignores_a_rotation_of_the_space_that_is_read(seed):
    tokens, weight, other = normal(seed, 50, 9), normal(seed + 1, 6, 9), normal(seed + 2, 50, 3)

    def reads(x, w):
        return x @ np.linalg.svd(w)[2][:3].T

    turn = rotation(seed, 9)
    same = reads(tokens @ turn, -3 * rotation(seed + 3, 6) @ weight @ turn)
    assert subspace_similarity(same, reads(tokens, weight)) == pytest.approx(1)
    before = subspace_similarity(reads(tokens, weight), other)
    assert subspace_similarity(same, other) == pytest.approx(before)


def test_unrelated_subspaces_give_the_stated_baseline():
    found = [subspace_similarity(normal(i, 41, 4), normal(-1 - i + 10**6, 41, 4))
             for i in range(400)]  # fmt: skip
    # Mean of the trace of a product of random projections of rank 4 in 40 dimensions, over 4.
    assert np.mean(found) == pytest.approx(4 / 40, abs=4 * np.std(found) / np.sqrt(400))


def test_missing_directions_count_as_orthogonal():
    x = normal(0, 20, 2)
    assert subspace_similarity(np.c_[x, x[:, 0]], np.c_[x, normal(1, 20)]) == pytest.approx(2 / 3)
    assert subspace_similarity(np.zeros((20, 2)), x) == 0


# Profiles


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_profile_correlation_is_scipys_on_logs(method):
    teacher, student = np.exp(normal(0, 4, 7)), np.exp(normal(1, 3, 7))
    slow = getattr(stats, method + "r")
    expected = [[slow(np.log(t), np.log(s)).statistic for s in student] for t in teacher]
    np.testing.assert_allclose(profile_correlation(teacher, student, method), expected)
    scaled = profile_correlation(1e6 * teacher, student, method)
    np.testing.assert_allclose(scaled, expected)


def test_flat_and_empty_profiles_have_no_correlation():
    rising = np.array([[1.0, 2.0, 4.0]])
    found = profile_correlation(np.array([[3.0, 3.0, 3.0], [0.0, 0.0, 0.0]]), rising)
    np.testing.assert_array_equal(found, [[0.0], [0.0]])
    # A role without any sensitivity counts as the least sensitive one.
    low = profile_correlation(np.array([[0.0, 2.0, 4.0]]), np.array([[2.0, 2.0, 4.0]]))
    np.testing.assert_allclose(low, [[1.0]])


# Layer paths


@given(st.data())
def test_monotone_path_matches_brute_force(data):
    n_teacher = data.draw(st.integers(1, 7))
    n_student = data.draw(st.integers(1, n_teacher))
    values = st.integers(-3, 3)  # few values, so that ties are common and sums exact
    similarity = np.array(
        data.draw(st.lists(values, min_size=n_teacher * n_student, max_size=n_teacher * n_student))
    ).reshape(n_teacher, n_student)

    def total(path):
        return sum(similarity[i, j] for j, i in enumerate(path))

    best = max(combinations(range(n_teacher), n_student), key=total)  # ties: the first
    assert monotone_path(similarity.astype(float)) == list(best)


def test_monotone_path_by_hand():
    # Greedy takes teacher layer 2 for the first student layer and has nothing left.
    assert monotone_path(np.array([[0.0, 0.0], [0.5, 0.0], [1.0, 0.9]])) == [1, 2]
    assert monotone_path(np.ones((5, 3))) == [0, 1, 2]


def test_impossible_layer_maps_are_refused():
    with pytest.raises(BadInput, match="2 teacher and 3 student"):
        monotone_path(np.ones((2, 3)))
    with pytest.raises(BadInput, match="finite"):
        monotone_path(np.array([[1.0], [np.nan]]))


# Linear maps


@pytest.mark.parametrize(("n", "p"), [(60, 5), (5, 60)])
def test_ridge_without_penalty_is_least_squares(n, p):
    x, y = normal(0, n, p) + 4, normal(1, n, 3) - 2
    weight, bias = ridge_map(x, y, 1e-12)
    centred = x - x.mean(0)  # with more features than tokens: the shortest solution of centred data
    expected = np.linalg.lstsq(centred, y - y.mean(0))[0]
    np.testing.assert_allclose(weight, expected, atol=1e-8)
    np.testing.assert_allclose(bias, y.mean(0) - x.mean(0) @ expected, atol=1e-7)


@pytest.mark.parametrize(("n", "p"), [(60, 5), (5, 60)])
def test_ridge_minimises_its_objective(n, p):
    x, y = normal(0, n, p), normal(1, n, 2)
    weight, bias = ridge_map(x.astype(np.float32), y.astype(np.float32), 0.3)
    assert weight.dtype == np.float64
    centred = x - x.mean(0)
    strength = 0.3 * np.linalg.eigvalsh(centred.T @ centred).mean()
    gradient = centred.T @ (x @ weight + bias - y) + strength * weight
    np.testing.assert_allclose(gradient, 0, atol=1e-4 * np.abs(centred.T @ y).max())


def test_a_map_that_the_tokens_do_not_determine_is_refused():
    x = np.ones((4, 3)) * np.arange(4)[:, None]
    with pytest.raises(BadInput, match="Raise the penalty"):
        ridge_map(x, x, 0.0)
    with pytest.raises(BadInput, match="tokens"):
        ridge_map(np.ones((0, 3)), np.ones((0, 2)))
    weight, bias = ridge_map(np.ones((4, 3)), x)  # constant inputs: the mean is all they tell
    np.testing.assert_array_equal(weight, 0)
    np.testing.assert_array_equal(bias, x.mean(0))


def test_r2_of_an_exact_linear_map_is_one_and_of_noise_not_above_zero():
    teacher = normal(0, 2, 300, 6)
    exact = teacher[1] @ normal(1, 6, 4) + 3
    noise, flat = normal(2, 300, 4), np.full((300, 4), 0.5)
    student = np.stack([exact, noise, flat])
    fit, test = slice(0, 200), slice(200, None)
    found = r2_matrix(teacher[:, fit], student[:, fit], teacher[:, test], student[:, test], 1e-9)
    assert found[1, 0] == pytest.approx(1)
    assert found[0, 0] < 0.05
    assert (found[:, 1] < 0.05).all()
    np.testing.assert_array_equal(found[:, 2], 0)


def test_r2_matches_a_loop():
    teacher, student = normal(0, 2, 50, 6), normal(1, 3, 50, 4)
    student[:, :, 0] += teacher[1][:, 0]
    fit, test = slice(0, 30), slice(30, None)
    found = r2_matrix(teacher[:, fit], student[:, fit], teacher[:, test], student[:, test], 0.1)
    for i in range(2):
        for j in range(3):
            weight, bias = ridge_map(teacher[i, fit], student[j, fit], 0.1)
            left = student[j, test] - (teacher[i, test] @ weight + bias)
            expected = 1 - (left**2).sum() / (student[j, test].var(0).sum() * 20)
            assert found[i, j] == pytest.approx(expected)


@given(seeds, st.sampled_from([(30, 5), (60, 3), (8, 12)]), st.floats(0, 4), st.floats(0, 2))
def test_large_products_in_float32_change_no_figure(seed, shape, outlier, shift):
    """As in trained models, some features are far larger than others and far from 0."""
    n, p = shape
    sizes = np.ones(p)
    sizes[0] = 10**outlier
    teacher = (normal(seed, 3, n + 20, p) + 10**shift) * sizes
    student = np.stack([teacher[1] @ normal(seed + 1, p, 4), normal(seed + 2, n + 20, 4)])
    teacher, student = teacher.astype(np.float32), student.astype(np.float32)
    sides = teacher[:, :n], student[:, :n]
    held_out = teacher[:, n:], student[:, n:]
    exact = cka_matrix(*sides), r2_matrix(*sides, *held_out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "SLOW", 0)
        fast = cka_matrix(*sides), r2_matrix(*sides, *held_out)
    for name, slow, quick in zip(("cka", "r2"), exact, fast, strict=True):
        np.testing.assert_allclose(quick, slow, atol=2e-6, err_msg=name)
    assert not np.array_equal(exact[1], fast[1])  # another precision was used


# The report


def report():
    stitching = np.array([[np.nan, 1.0], [np.nan, 0.5]])
    matrices = {"cka": np.arange(6.0).reshape(2, 3).T, "stitching.a.b": stitching}
    return AlignmentReport(matrices, 12, ("a.b", "c"), {"baselines": {"cka": 0.1}})


def test_report_survives_the_disk(tmp_path):
    report().save(tmp_path)
    loaded = AlignmentReport.load(tmp_path)
    assert list(loaded.matrices) == ["cka", "stitching.a.b"]
    for name, matrix in report().matrices.items():
        np.testing.assert_array_equal(loaded.matrices[name], matrix)
    assert (loaded.n_tokens, loaded.skills) == (12, ("a.b", "c"))
    assert loaded.meta == {"baselines": {"cka": 0.1}}
    assert list(loaded.stitching) == ["a.b"]  # c was not stitched
    assert loaded.by_skill("cka") == {}
    assert loaded.tables()["stitching.a.b"] == [[None, 1.0], [None, 0.5]]


@pytest.mark.parametrize(
    ("name", "content"),
    [(META, b"{}"), (META, b"[1]"), (META, b""), (META, b'{"schema": 9}'), (TENSORS, b"12345678")],
)
def test_a_damaged_report_is_refused_in_one_sentence(tmp_path, name, content):
    report().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Damaged, match="measure it again"):
        AlignmentReport.load(tmp_path)
