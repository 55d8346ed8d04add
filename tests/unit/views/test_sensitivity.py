"""What the views compute, against hand-computed values and slow independent versions."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nuggets.errors import BadInput
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.views import sensitivity as views
from nuggets.views.stability import _ranks

SPEC = ArchSpec(
    model_type="llama",
    n_layers=3,
    hidden_size=8,
    intermediate_size=12,
    n_heads=4,
    n_kv_heads=2,
    head_dim=2,
    vocab_size=20,
    tied=False,
)


def make_map(seed: int, n_samples: int = 6, spec: ArchSpec = SPEC) -> SensitivityMap:
    """A map in which every sum is consistent with the per-sample matrices it was made from."""
    rng = np.random.default_rng(seed)
    modules = [module for module, _, _ in spec.modules()]
    roles = [role for _, role, _ in spec.modules()]
    samples = {
        module: rng.gamma(0.5, size=(n_samples, *spec.shape(role)))
        for module, role in zip(modules, roles, strict=True)
    }
    names = [*(f"{module}.weight" for module in modules), "model.layers.0.input_layernorm.weight"]
    totals = np.stack([*(samples[m].sum((1, 2)) for m in modules), rng.random(n_samples)], axis=1)
    # Parameters in another order than modules: views must look them up by name.
    order = rng.permutation(len(names))
    return SensitivityMap(
        spec=spec,
        score="theta_grad",
        rows={m: s.sum((0, 2)) for m, s in samples.items()},
        cols={m: s.sum((0, 1)) for m, s in samples.items()},
        full={m: s.sum(0).astype(np.float32) for m, s in samples.items()},
        parameters=tuple(names[i] for i in order),
        totals=totals[:, order],
    )


@pytest.fixture
def tasks() -> list[SensitivityMap]:
    return [make_map(seed, n_samples) for seed, n_samples in ((0, 6), (1, 5), (2, 9))]


def test_absolute_values_are_the_sums_of_the_matrices(tasks: list[SensitivityMap]) -> None:
    found = views.module_values(tasks[0], "absolute").mean
    assert found == pytest.approx([tasks[0].total(m) for m, _, _ in SPEC.modules()])


def test_values_per_parameter_are_means_over_entries(tasks: list[SensitivityMap]) -> None:
    found = views.module_values(tasks[0], "per_parameter").mean
    means = [tasks[0].full[m].mean(dtype=np.float64) for m, _, _ in SPEC.modules()]
    assert found == pytest.approx(means, rel=1e-6)


def test_shares_add_up_to_one_and_do_not_depend_on_the_loss_scale(
    tasks: list[SensitivityMap],
) -> None:
    first = tasks[0]
    found = views.module_values(first, "share")
    assert found.mean.sum() == pytest.approx(1)
    louder = SensitivityMap(
        SPEC, first.score, first.rows, first.cols, {}, first.parameters, first.totals * 100
    )
    assert views.module_values(louder, "share").high == pytest.approx(found.high)


def test_distinctive_is_the_log_ratio_to_the_mean_share(tasks: list[SensitivityMap]) -> None:
    shares = np.array([views.module_values(task, "share").mean for task in tasks])
    found = views.module_values(tasks[1], "distinctive", tasks).mean
    assert found == pytest.approx(np.log2(shares[1] / shares.mean(axis=0)))


def test_distinctive_of_a_single_task_is_refused(tasks: list[SensitivityMap]) -> None:
    with pytest.raises(BadInput, match="compare at least two tasks"):
        views.module_values(tasks[0], "distinctive", tasks[:1])


def test_a_map_of_zeros_has_no_shares(tasks: list[SensitivityMap]) -> None:
    first = tasks[0]
    empty = SensitivityMap(
        SPEC, first.score, first.rows, first.cols, {}, first.parameters, first.totals * 0
    )
    with pytest.raises(BadInput, match="zero everywhere"):
        views.module_values(empty, "share")
    assert (views.module_values(empty, "absolute").mean == 0).all()


def test_differences_have_the_sign_of_a_minus_b(tasks: list[SensitivityMap]) -> None:
    a, b = tasks[:2]
    share_a, share_b = (views.module_values(task, "share").mean for task in (a, b))
    assert views.difference(a, b, "share").mean == pytest.approx(share_a - share_b)
    for mode, log in (("share", True), ("distinctive", False), ("distinctive", True)):
        found = views.difference(a, b, mode, log, tasks).mean  # type: ignore[arg-type]
        assert found == pytest.approx(np.log2(share_a / share_b))
    each_a, each_b = (
        views.module_values(task, "absolute").mean / task.n_samples for task in (a, b)
    )
    assert views.difference(a, b, "absolute", log=True).mean == pytest.approx(
        np.log2(each_a / each_b)
    )


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("mode", ["absolute", "per_parameter"])
def test_sums_over_other_numbers_of_samples_are_scaled(tasks, mode, log) -> None:
    """A skill that was measured on more samples is no larger."""
    once = tasks[0]
    twice = dataclasses.replace(once, totals=np.concatenate([once.totals, once.totals]))
    for pair in ((once, twice), (twice, once)):
        found = views.difference(*pair, mode, log)
        assert found.mean == pytest.approx(0, abs=1e-12)
        assert (found.low < 0).all()


def test_interval_of_a_sum_is_students_interval_of_the_mean(tasks: list[SensitivityMap]) -> None:
    samples = views.module_samples(tasks[0])
    found = views.module_values(tasks[0], "absolute")
    for column in range(samples.shape[1]):
        expected = stats.ttest_1samp(samples[:, column], 0).confidence_interval(0.95)
        assert found.low[column] == pytest.approx(expected.low * len(samples))
        assert found.high[column] == pytest.approx(expected.high * len(samples))


def test_intervals_of_shares_and_ratios_match_a_bootstrap_over_samples() -> None:
    a, b = make_map(3, 60), make_map(4, 60)
    rng = np.random.default_rng(5)
    draws = []
    for _ in range(3000):
        drawn = [views.module_samples(m)[rng.integers(60, size=60)].sum(0) for m in (a, b)]
        draws.append([values / values.sum() for values in drawn])
    share_a, share_b = np.array(draws).transpose(1, 0, 2)
    critical = stats.t.isf(0.025, 59)
    for found, expected in (
        (views.module_values(a, "share"), share_a),
        (views.difference(a, b, "share"), share_a - share_b),
        (views.difference(a, b, "share", log=True), np.log2(share_a / share_b)),
        (views.module_values(a, "distinctive", [a, b]), np.log2(2 * share_a / (share_a + share_b))),
    ):
        errors = (found.high - found.mean) / critical
        assert errors == pytest.approx(expected.std(axis=0), rel=0.12)


def test_a_single_sample_has_no_interval() -> None:
    found = views.module_values(make_map(0, 1), "share")
    assert np.isfinite(found.mean).all()
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()


def test_layer_values_follow_the_papers_layer_score(tasks: list[SensitivityMap]) -> None:
    assert views.layer_values(tasks[0], "absolute").mean == pytest.approx(tasks[0].layer_scores)
    assert views.layer_values(tasks[0]).mean.sum() == pytest.approx(1)


# Matrices


@given(
    shape=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    side=st.integers(1, 9),
    data=st.data(),
)
def test_bins_are_mean_and_max_of_near_equal_blocks(
    shape: tuple[int, int], side: int, data: st.DataObject
) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    top = data.draw(st.integers(0, shape[0] - 1))
    bottom = data.draw(st.integers(top + 1, shape[0]))
    found = views.bin_matrix(matrix, side, rows=(top, bottom))
    assert found.mean.shape == found.max.shape
    assert max(found.mean.shape) <= side
    assert (found.rows[0], found.rows[-1]) == (top, bottom)
    assert (found.cols[0], found.cols[-1]) == (0, shape[1])
    assert np.ptp(np.diff(found.rows)) <= 1
    for i in range(len(found.rows) - 1):
        for j in range(len(found.cols) - 1):
            block = matrix[
                found.rows[i] : found.rows[i + 1], found.cols[j] : found.cols[j + 1]
            ].astype(np.float64)
            assert found.mean[i, j] == pytest.approx(block.mean(), abs=1e-12)
            assert found.max[i, j] == block.max()


def test_a_small_matrix_is_not_binned() -> None:
    matrix = np.arange(12.0).reshape(3, 4)
    found = views.bin_matrix(matrix)
    assert (found.mean == matrix).all()
    assert (found.max == matrix).all()


@pytest.mark.parametrize("rows", [(2, 2), (-1, 2), (0, 4)])
def test_a_part_outside_the_matrix_is_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="not within a matrix of 3 × 4"):
        views.bin_matrix(np.zeros((3, 4)), rows=rows)


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 7))
def test_chosen_window_holds_the_largest_share(seed: int, height: int, width: int) -> None:
    matrix = np.random.default_rng(seed).random((7, 9)).astype(np.float32)
    best, second = views.chosen_windows(matrix, height, width)
    shares = {
        (r, c): matrix[r : r + height, c : c + width].sum(dtype=np.float64)
        / matrix.sum(dtype=np.float64)
        for r in range(7 - height + 1)
        for c in range(9 - width + 1)
    }
    assert best.share == pytest.approx(max(shares.values()))
    assert shares[best.row, best.col] == pytest.approx(best.share)
    if second is not None:
        assert shares[second.row, second.col] == pytest.approx(second.share)
        assert second.share <= best.share


def test_a_window_larger_than_the_matrix_is_refused() -> None:
    with pytest.raises(BadInput, match="does not fit"):
        views.chosen_windows(np.ones((4, 4)), 5, 2)


def test_profile_keeps_the_mean_and_short_profiles_entry_by_entry() -> None:
    values = np.random.default_rng(0).random(1000)
    at, means = views.profile(values, most=50)
    assert len(at) == 50
    assert means.mean() == pytest.approx(values.mean())
    assert at[0] == pytest.approx(9.5)
    at, means = views.profile(values[:30], most=50)
    assert (at == np.arange(30)).all()
    assert (means == values[:30]).all()


def test_neurons_and_heads_gather_their_rows_and_columns(tasks: list[SensitivityMap]) -> None:
    full = tasks[0].full
    neurons, heads = (views.unit_scores(tasks[0], units) for units in ("neurons", "heads"))
    for layer in range(3):
        ffn = f"model.layers.{layer}.mlp"
        for n in range(12):
            expected = (
                full[f"{ffn}.gate_proj"][n].sum()
                + full[f"{ffn}.up_proj"][n].sum()
                + full[f"{ffn}.down_proj"][:, n].sum()
            )
            assert neurons[layer, n] == pytest.approx(expected, rel=1e-5)
        for h in range(4):
            attention = f"model.layers.{layer}.self_attn"
            expected = (
                full[f"{attention}.q_proj"][2 * h : 2 * h + 2].sum()
                + full[f"{attention}.o_proj"][:, 2 * h : 2 * h + 2].sum()
            )
            assert heads[layer, h] == pytest.approx(expected, rel=1e-5)


def test_top_units_are_sorted_and_ties_go_to_the_lowest_index() -> None:
    scores = np.array([[1.0, 5.0, 2.0], [5.0, 0.0, 2.0]])
    assert views.top_units(scores, 4) == [
        (0, 1, 5 / 15),
        (1, 0, 5 / 15),
        (0, 2, 2 / 15),
        (1, 2, 2 / 15),
    ]


def test_overlap_counts_shared_units_beside_chance() -> None:
    a = np.array([[4.0, 3.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]])  # top 3: 00 01 10
    b = np.array([[0.0, 3.0, 0.0, 4.0], [2.0, 0.0, 0.0, 0.0]])  # top 3: 03 01 10
    found = views.overlap([a, b], 3)
    assert found[0][1] == found[1][0] == (2 / 3, 3 / 8, 3)
    assert found[0][0].share == 1


def test_chance_overlap_is_what_independent_scores_share() -> None:
    rng = np.random.default_rng(0)
    shares = [
        views.overlap([rng.random((6, 40)), rng.random((6, 40))], 24)[0][1] for _ in range(300)
    ]
    assert np.mean([s.share for s in shares]) == pytest.approx(shares[0].chance, abs=0.01)


def test_axes_are_named_in_words() -> None:
    assert views.axis_name(SPEC, "down") == ("residual dimension", "FFN neuron")
    assert views.axis_name(SPEC, "embed") == ("word", "residual dimension")
    assert (views.units_of("down"), views.units_of("o")) == ("neurons", "heads")


# Stability


@given(st.integers(0, 1000), st.integers(1, 8))
def test_chosen_layers_agree_with_a_sort_that_keeps_order(seed: int, k: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, size=8).astype(float)
    expected = sorted(range(8), key=lambda layer: (-scores[layer], layer))[:k]
    assert np.flatnonzero(views.chosen_layers(scores, k)).tolist() == sorted(expected)


def test_halves_of_equal_samples_agree_and_of_noise_do_not() -> None:
    same = np.tile(np.arange(20.0), (8, 1))
    assert views.split_half(same) == (pytest.approx(1), pytest.approx(1), pytest.approx(1), 4)
    noise = views.split_half(np.random.default_rng(0).normal(size=(32, 50)))
    assert abs(noise.mean) < 0.15
    assert noise.low < 0 < noise.high


def test_halves_use_spearmans_correlation() -> None:
    samples = np.random.default_rng(1).gamma(0.3, size=(4, 6)) + np.arange(6)
    splits = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    exact = [
        stats.spearmanr(samples[list(a)].sum(0), samples[list(b)].sum(0)).statistic
        for a, b in splits
    ]
    found = views.split_half(samples, draws=4000)
    assert found.mean == pytest.approx(np.mean(exact), abs=0.02)
    assert (found.low, found.high) == (pytest.approx(min(exact)), pytest.approx(max(exact)))


def test_halves_without_ranks_are_not_a_number() -> None:
    assert np.isnan(views.split_half(np.ones((6, 5))).mean)


def test_ranks_are_scipys_ties_included():
    for values in np.random.default_rng(1).integers(0, 9, size=(50, 20)).astype(float):
        np.testing.assert_array_equal(_ranks(values), stats.rankdata(values))


def test_too_few_samples_for_halves_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 4 samples"):
        views.split_half(np.ones((3, 5)))


def test_layer_stability_matches_a_loop_over_bootstrap_samples() -> None:
    samples = np.random.default_rng(2).gamma(1.0, size=(10, 5)) + np.array([2, 0.2, 0.1, 0, 2])
    found = views.layer_stability(samples, 3, draws=4000)
    rng = np.random.default_rng(9)
    counts = np.zeros(5)
    for _ in range(4000):
        scores = samples[rng.integers(10, size=10)].sum(axis=0)
        counts[sorted(range(5), key=lambda layer: -scores[layer])[:3]] += 1
    assert found.frequency == pytest.approx(counts / 4000, abs=0.04)
    assert found.frequency.sum() == pytest.approx(3)
    assert found.chosen.sum() == 3


def test_choosing_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(BadInput, match="6 of 5 layers"):
        views.layer_stability(np.ones((4, 5)), 6)


def test_all_samples_choose_the_same_layers_as_themselves() -> None:
    samples = np.random.default_rng(3).gamma(0.3, size=(16, 8))
    found = views.stability_by_samples(samples, 4, [1, 4, 16])
    assert found[-1] == 1
    assert found[0] < 1
    assert (np.diff(found) >= 0).all()


def test_layer_maps_pair_every_student_layer_with_a_teacher_layer() -> None:
    scores = np.array([1.0, 9.0, 3.0, 9.0, 0.0])
    cka = np.zeros((5, 3))
    cka[1, 0] = cka[2, 1] = cka[4, 2] = 1.0
    found = views.layer_maps(5, 3, scores, cka)
    assert found == {
        "sensitivity": [(0, 1), (1, 2), (2, 3)],
        "uniform": [(0, 0), (1, 2), (2, 4)],
        "cka": [(0, 1), (1, 2), (2, 4)],
    }
    assert list(views.layer_maps(5, 3)) == ["uniform"]
    assert views.layer_maps(5, 3, by_hand=(4, 0, 0))["by hand"] == [(0, 4), (1, 0), (2, 0)]
    for impossible in ((0, 1), (0, 1, 5), (0, -1, 2)):
        with pytest.raises(BadInput, match="give 3 teacher layers, one for each student layer"):
            views.layer_maps(5, 3, by_hand=impossible)
    assert views.layer_maps(3, 5)["uniform"] == [(0, 0), (2, 1), (4, 2)]  # the student is deeper
