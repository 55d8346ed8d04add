"""Every member of both selector families, and what each one claims."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nuggets.errors import BadInput
from nuggets.extraction.consistent import check_cut, choose_consistent
from nuggets.extraction.factors import cut_matrix
from nuggets.extraction.layers import CkaPath, LayersByHand, LayerSelector, TopLayers, UniformLayers
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan, picks_of
from nuggets.extraction.selectors import ConsistentSelector, MatrixSelector
from nuggets.frozen import members
from nuggets.models.architecture import LAYER_ROLES, ArchSpec
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.selected_entries import top


def spec(layers=4, hidden=12, ffn=18, heads=4, kv=2, head_dim=4, vocab=11, tied=False):
    return ArchSpec(
        model_type="llama",
        n_layers=layers,
        hidden_size=hidden,
        intermediate_size=ffn,
        n_heads=heads,
        n_kv_heads=kv,
        head_dim=head_dim,
        vocab_size=vocab,
        tied=tied,
    )


TEACHER = spec()
STUDENT = spec(layers=2, hidden=6, ffn=8, heads=2, kv=1)


def make_map(teacher=TEACHER, seed=0, keep=True):
    generator = np.random.default_rng(seed)
    full = {
        m: generator.random(teacher.shape(r), dtype=np.float32) for m, r, _ in teacher.modules()
    }
    names = [f"{module}.weight" for module in full]
    totals = np.array([[values.sum(dtype=np.float64) for values in full.values()]])
    return SensitivityMap(
        spec=teacher,
        score="theta_grad",
        rows={m: v.sum(1, dtype=np.float64) for m, v in full.items()},
        cols={m: v.sum(0, dtype=np.float64) for m, v in full.items()},
        full=full if keep else {},
        parameters=tuple(names),
        totals=totals,
    )


MATRIX_KINDS = list(members(MatrixSelector).values())
LAYER_KINDS = list(members(LayerSelector).values())


def a_layer_selector(kind):
    return kind(layers=(3, 1)) if kind is LayersByHand else kind()


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_layer_selectors_return_valid_layers_and_repeat_themselves(kind):
    scores, cka = np.array([0.5, 3.0, 1.0, 2.0]), np.arange(8.0).reshape(4, 2)
    selector = a_layer_selector(kind)
    chosen = selector.select(scores, 2, cka)
    assert chosen == selector.select(scores.copy(), 2, cka)
    assert len(set(chosen)) == 2
    assert set(chosen) <= {0, 1, 2, 3}
    if kind is not LayersByHand:
        assert chosen == sorted(chosen)
        assert selector.select(scores, 4, np.ones((4, 4))) == [0, 1, 2, 3]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_top_layers_keep_the_largest_sum_with_ties_to_the_lowest(scores, data):
    n = data.draw(st.integers(1, len(scores)))
    chosen = TopLayers().select(np.array(scores, dtype=float), n)
    best = max(combinations(range(len(scores)), n), key=lambda c: sum(scores[i] for i in c))
    assert chosen == list(best)  # max keeps the first, lexicographically lowest, best choice


def test_layer_selectors_by_hand():
    scores = np.array([0.5, 3.0, 1.0, 2.0])
    wanted = {
        "sensitivity": [1, 3],
        "first": [0, 1],
        "last": [2, 3],
        "uniform": [0, 3],
        "cka": [1, 2],
        "by_hand": [3, 1],
    }
    for kind, layers in wanted.items():
        selector = a_layer_selector(members(LayerSelector)[kind])
        assert selector.select(scores, 2, np.eye(4)[:, 1:3]) == layers


def test_layer_selector_errors_are_sentences():
    with pytest.raises(BadInput, match="needs the alignment of the two models"):
        CkaPath().select(np.ones(4), 2)
    with pytest.raises(BadInput, match="give 2 teacher layers"):
        LayersByHand(layers=(0, 9)).select(np.ones(4), 2)


@pytest.mark.parametrize("kind", MATRIX_KINDS)
def test_every_matrix_selector_fills_every_student_matrix(kind):
    map = make_map()
    roles = ("embed", *LAYER_ROLES, "head")
    config = ExtractionConfig(matrices=kind(), roles=roles)
    plan = make_plan(map, STUDENT, config, LoraConfig(r=2))
    assert [i.student_module for i in plan.items] == [m for m, _, _ in STUDENT.modules()]
    assert plan == make_plan(map, STUDENT, config, LoraConfig(r=2))
    before = {module: values.copy() for module, values in map.full.items()}
    for item, pick in zip(plan.items, picks_of(plan, map).values(), strict=True):
        whole = torch.from_numpy(map.full[item.teacher_module])
        cut = cut_matrix(whole, item.model_copy(update={"role": "q"}), pick).numpy()
        assert cut.shape == STUDENT.shape(item.role)
        share = cut.sum(dtype=np.float64) / map.total(item.teacher_module)
        assert item.kept_mass == pytest.approx(share, rel=1e-6)
        assert 0 < item.kept_mass <= 1 + 1e-9
    for module, values in map.full.items():
        np.testing.assert_array_equal(values, before[module])


def test_orders_of_kept_mass():
    # Single entries keep the most, then rows and columns; a random window the least on average.
    map = make_map()
    kept = {}
    for kind in MATRIX_KINDS:
        plan = make_plan(map, STUDENT, ExtractionConfig(matrices=kind()), LoraConfig(r=2))
        kept[kind.model_fields["kind"].default] = np.mean([i.kept_mass for i in plan.items])
    assert kept["weights"] > kept["rows_cols"] > kept["random_window"]
    assert kept["window"] > kept["random_window"]


def test_consistent_uses_one_residual_choice_whole_groups_and_shared_neurons():
    plan = make_plan(
        make_map(), STUDENT, ExtractionConfig(matrices={"kind": "consistent"}), LoraConfig(r=2)
    )
    by_role = {(i.student_layer, i.role): i for i in plan.items}
    resid = set(by_role[0, "q"].cols)
    for (layer, role), item in by_role.items():
        assert set(item.rows if role in ("o", "down") else item.cols) == resid
        if role in ("gate", "up"):
            assert item.rows == by_role[layer, "down"].cols
        if role in ("k", "v"):
            heads = sorted({row // TEACHER.head_dim for row in item.rows})
            assert len(item.rows) == len(heads) * TEACHER.head_dim
            queries = {row // TEACHER.head_dim for row in by_role[layer, "q"].rows}
            assert queries == {h * TEACHER.group + g for h in heads for g in range(TEACHER.group)}
            assert by_role[layer, "q"].rows == by_role[layer, "o"].cols
    assert plan.residual_agreement == 1.0


def test_consistent_choice_by_sensitivity_ranks_what_indexes_a_dimension():
    map = make_map()
    favourite = 7
    for module, role, _ in TEACHER.modules():
        for side, axis in zip((map.rows, map.cols), TEACHER.axes(role), strict=True):
            if axis == "resid":
                side[module][favourite] += 100
    choice = choose_consistent(map, STUDENT, [0, 2])
    assert favourite in choice.resid
    expected = np.zeros(TEACHER.intermediate_size)
    for suffix, sums in (("gate_proj", map.rows), ("up_proj", map.rows), ("down_proj", map.cols)):
        expected += sums[f"model.layers.2.mlp.{suffix}"]
    np.testing.assert_array_equal(choice.ffn[1], top(expected, STUDENT.intermediate_size))


@pytest.mark.parametrize("order", ["first", "random"])
def test_orders_that_do_not_look_ignore_the_map(order):
    choices = [choose_consistent(make_map(seed=s), STUDENT, [0, 2], order, 5) for s in (1, 2)]
    np.testing.assert_array_equal(choices[0].resid, choices[1].resid)
    for a, b in zip(choices[0].ffn, choices[1].ffn, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fewer_query_heads_per_group_stay_inside_their_group():
    student = spec(layers=2, hidden=6, ffn=8, heads=1, kv=1)
    choice = choose_consistent(make_map(), student, [0, 1])
    for heads, kv in zip(choice.heads, choice.kv_heads, strict=True):
        assert heads // TEACHER.group == kv


@pytest.mark.parametrize(
    ("student", "sentence"),
    [
        (spec(layers=2, hidden=6, ffn=8, heads=2, kv=1, head_dim=2), "heads of 4 and 2"),
        (spec(layers=2, hidden=6, ffn=8, heads=4, kv=1), "4 query heads per key/value head"),
    ],
)
def test_heads_that_cannot_stay_whole_start_plain_and_the_ffn_is_cut(student, sentence):
    with pytest.raises(BadInput, match=sentence):
        check_cut(TEACHER, student)
    for order in ("sensitivity", "random"):
        extraction = ExtractionConfig(matrices=ConsistentSelector(order=order))
        plan = make_plan(make_map(), student, extraction, LoraConfig(r=2))
        assert sentence in plan.plain_sentence
        assert plan.residual_agreement == 1.0
        assert [item.role for item in plan.items] == ["gate", "up", "down"] * 2


@pytest.mark.parametrize(
    "wrong", [{"r": 0}, {"alpha": 0}, {"energy": 0}, {"energy": 1.1}, {"dropout": 1}]
)
def test_a_shape_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        LoraConfig(**wrong)
    LoraConfig(r=1, energy=1.0, dropout=0.0)


def test_too_large_a_rank_is_refused():
    with pytest.raises(BadInput, match=r"Rank 5 is too large: the student's k matrix is 4 × 6"):
        make_plan(make_map(), STUDENT, ExtractionConfig(), LoraConfig(r=5))
    plan = make_plan(
        make_map(), STUDENT, ExtractionConfig(), LoraConfig(r=5, ranks={"k": 4, "v": 4})
    )
    assert {item.rank for item in plan.items if item.role == "k"} == {4}


def test_windows_need_the_full_map():
    with pytest.raises(BadInput, match="keep: full"):
        make_plan(make_map(keep=False), STUDENT, ExtractionConfig(), LoraConfig(r=2))


@pytest.mark.parametrize("kind", ["rows_cols", "consistent"])
def test_sums_are_enough_for_rows_and_columns(kind):
    config = ExtractionConfig(matrices={"kind": kind})
    full = make_plan(make_map(), STUDENT, config, LoraConfig(r=2))
    sums = make_plan(make_map(keep=False), STUDENT, config, LoraConfig(r=2))
    assert [(i.rows, i.cols) for i in full.items] == [(i.rows, i.cols) for i in sums.items]


def test_a_tied_teacher_gives_its_embedding_as_head():
    map = make_map(spec(tied=True))
    config = ExtractionConfig(roles=("embed", "head"))
    plan = make_plan(map, STUDENT, config, LoraConfig(r=2))
    assert [i.teacher_module for i in plan.items] == ["model.embed_tokens"] * 2
    assert [i.student_module for i in plan.items] == ["model.embed_tokens", "lm_head"]


def test_independent_windows_disagree_on_residual_dimensions():
    plan = make_plan(make_map(), STUDENT, ExtractionConfig(), LoraConfig(r=2))
    assert 0 < plan.residual_agreement < 1


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.data())
def test_top_is_ascending_with_ties_to_the_lowest(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert top(np.array(scores, dtype=float), k).tolist() == sorted(ranked)


def test_neurons_keep_the_most_sensitive_rows_and_their_best_columns_by_hand():
    map = make_map()
    (item,) = make_plan(
        map,
        STUDENT,
        ExtractionConfig(matrices={"kind": "neurons"}, roles=("down",)),
        LoraConfig(r=2),
    ).items[:1]
    matrix = map.full[item.teacher_module].astype(np.float64)
    rows = sorted(np.argsort(-matrix.sum(axis=1))[:6].tolist())
    sums = [matrix[rows, col : col + 8].sum() for col in range(18 - 8 + 1)]
    first = int(np.argmax(sums))
    assert list(item.rows) == rows
    assert list(item.cols) == list(range(first, first + 8))
    assert item.kept_mass == pytest.approx(max(sums) / matrix.sum())


@pytest.mark.parametrize(
    ("n", "total", "wanted"),
    [(3, 7, [0, 3, 6]), (4, 6, [0, 2, 3, 5]), (3, 8, [0, 4, 7]), (5, 8, [0, 2, 4, 5, 7])],
)
def test_uniform_layers_are_the_nearest_to_equal_distances(n, total, wanted):
    places = [i * (total - 1) / (n - 1) for i in range(n)]
    assert all(abs(layer - place) <= 0.5 for layer, place in zip(wanted, places, strict=True))
    assert UniformLayers().select(np.zeros(total), n) == wanted


@pytest.mark.parametrize("suffix", ["k_proj", "v_proj"])
@pytest.mark.parametrize("favourite", [0, 1])
def test_consistent_choice_counts_what_keys_and_values_show_of_a_head(suffix, favourite):
    map = make_map()
    own = slice(favourite * TEACHER.head_dim, (favourite + 1) * TEACHER.head_dim)
    for layer in range(TEACHER.n_layers):
        map.rows[f"model.layers.{layer}.self_attn.{suffix}"][own] += 100
    choice = choose_consistent(map, STUDENT, [0, 2])
    assert [kept.tolist() for kept in choice.kv_heads] == [[favourite]] * 2
    assert all((heads // TEACHER.group == favourite).all() for heads in choice.heads)


def test_a_windows_and_its_runner_ups_share_are_of_the_whole_matrix():
    map = make_map()
    for item in make_plan(map, STUDENT, ExtractionConfig(), LoraConfig(r=2)).items:
        matrix = map.full[item.teacher_module].astype(np.float64)
        for (row, col), share in (
            ((item.rows[0], item.cols[0]), item.kept_mass),
            (item.runner_up[:2], item.runner_up[2]),
        ):
            inside = matrix[row : row + item.shape[0], col : col + item.shape[1]].sum()
            assert share == pytest.approx(inside / matrix.sum())
        assert item.runner_up[2] <= item.kept_mass < 1


def test_a_matrix_without_any_sensitivity_is_planned_with_a_share_of_zero():
    map = make_map()
    name = "model.layers.1.mlp.up_proj"
    for kept in (map.full, map.rows, map.cols):
        kept[name][:] = 0
    config = ExtractionConfig(layers={"kind": "by_hand", "layers": (0, 1)})
    items = make_plan(map, STUDENT, config, LoraConfig(r=2)).items
    (item,) = [each for each in items if each.teacher_module == name]
    assert item.kept_mass == item.runner_up[2] == 0


def test_what_a_recipe_leaves_out_keeps_its_meaning():
    """Defaults are part of every recipe and report that does not spell them out."""
    given = {
        "window": {}, "rows_cols": {}, "neurons": {}, "weights": {}, "random_window": {"seed": 0},
        "consistent": {"order": "sensitivity", "seed": 0},
    }  # fmt: skip
    usual = {kind().kind: kind().model_dump(exclude={"kind"}) for kind in MATRIX_KINDS}
    assert {kind: usual[kind] for kind in given} == given
