"""Scores that set one skill's map against those of others, by slow versions and by hand."""

import dataclasses

import numpy as np
import pytest
from torch import nn

from nuggets.errors import BadInput
from nuggets.models.architecture import ArchSpec
from nuggets.planning.cache import MapRequest
from nuggets.planning.checks import check_extraction
from nuggets.planning.jobs import map_job, other_map_job, pair_to_plan
from nuggets.recipe import parse_job
from nuggets.recipe_tree import absolute_paths, named_values
from nuggets.sensitivity.accumulate import MapParts
from nuggets.sensitivity.comparing import compare_maps
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Contrast, Specific
from nuggets.sensitivity.selected_entries import top_entries
from nuggets.stages.measuring import measure_map
from nuggets.workspace.strangers import wants

SPECIFIC = {"kind": "specific"}
SPEC = ArchSpec(
    model_type="llama", n_layers=2, hidden_size=4, intermediate_size=6, n_heads=2, n_kv_heads=1,
    head_dim=2, vocab_size=9, tied=False,
)  # fmt: skip


def drawn(seed: int) -> SensitivityMap:
    """A map with many equal entries and many zeros; norms have totals, as they do in real maps."""
    rng = np.random.default_rng(seed)
    parts = MapParts()
    names = []
    for module, role, _ in SPEC.modules():
        parts.take_matrix(module, rng.integers(0, 6, SPEC.shape(role)).astype(np.float32))
        names.append(f"{module}.weight")
        parts.totals[names[-1]] = parts.rows[module].sum() * np.array([0.25, 0.75])
    names.append("model.norm.weight")
    parts.totals[names[-1]] = np.array([1.0, 2.0])
    return parts.finish(SPEC, "theta_grad", names, {})


def blocks(map: SensitivityMap) -> np.ndarray:
    return np.concatenate([matrix.ravel() for _, matrix in map.blocks()])


@pytest.mark.parametrize("k", [1, 7, 40, 10_000])
def test_top_entries_are_those_of_a_stable_sort_of_all(k):
    map = drawn(0)
    entries = blocks(map)
    order = np.argsort(-entries, kind="stable")[:k]
    values, places = top_entries(map.blocks(), k)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(values, entries[order])


@pytest.mark.parametrize("q", [0.1, 0.3])
def test_specific_leaves_out_exactly_what_is_top_in_another_map(q):
    own, others = drawn(0), [drawn(1), drawn(2)]
    found = compare_maps(Specific(q=q), own, others)
    bounds = [np.sort(blocks(o))[::-1][round(q * len(blocks(o))) - 1] for o in others]
    for module, matrix in own.full.items():
        top = np.zeros(matrix.shape, bool)
        for other, bound in zip(others, bounds, strict=True):
            top |= other.matrix(module) >= bound
        np.testing.assert_array_equal(found.matrix(module), np.where(top, 0, matrix))
        assert found.total(module) == found.matrix(module).sum()
    assert 0 < blocks(found).sum() < blocks(own).sum()


def test_a_map_that_is_zero_nearly_everywhere_has_no_top_weights_among_its_zeros():
    own, silent = drawn(0), drawn(1)
    zeros = {module: np.zeros_like(matrix) for module, matrix in silent.full.items()}
    found = compare_maps(Specific(q=0.5), own, [dataclasses.replace(silent, full=zeros)])
    np.testing.assert_array_equal(blocks(found), blocks(own))


def test_one_percent_is_the_top_where_a_recipe_does_not_say():
    assert Specific().q == 0.01
    assert Contrast().unit == "share"


@pytest.mark.parametrize("unit", ["share", "log_ratio"])
def test_contrast_is_the_difference_to_the_mean_share_and_no_less_than_0(unit):
    own, others = drawn(0), [drawn(1), drawn(2)]
    found = compare_maps(Contrast(unit=unit), own, others)
    a, b, c = (blocks(map) / blocks(map).mean(dtype=np.float64) for map in (own, *others))
    mean = (b + c) / 2
    expected = a - mean if unit == "share" else np.log2((1 + a) / (1 + mean))
    np.testing.assert_allclose(blocks(found), np.maximum(expected, 0), rtol=1e-5, atol=1e-6)


def test_each_sample_keeps_its_share_of_a_matrix_and_vectors_count_as_nothing():
    found = compare_maps(Specific(q=0.1), drawn(0), [drawn(1)])
    module = "model.layers.1.mlp.up_proj"
    column = found.parameters.index(f"{module}.weight")
    np.testing.assert_allclose(
        found.totals[:, column], found.total(module) * np.array([0.25, 0.75])
    )
    assert not found.totals[:, found.parameters.index("model.norm.weight")].any()


def test_a_comparison_cannot_be_summed_over_samples():
    with pytest.raises(BadInput, match="specific compares finished maps"):
        compute_sensitivity(nn.Linear(1, 1), SPEC, [([1, 2], [-100, 2])], Specific())


@pytest.fixture
def asked(tiny, jsonl, tmp_path, monkeypatch):
    """A measurement of one file against two others."""
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    rows = {"own": {"1 2 3": "4 5", "6 7": "8"}, "b": {"a b": "c"}, "c": {"d e": "f g"}}
    files = {name: str(jsonl(tmp_path / f"{name}.jsonl", each)) for name, each in rows.items()}

    def request(against=("b", "c"), **sensitivity):
        score = {"kind": "specific", "q": 0.1, "against": [files[name] for name in against]}
        data = {"seed_samples": files["own"], "n_seed_samples": 2}
        tree = {"job": "sensitivity", "model": str(tiny()), "data": data, "device": "cpu",
                "sensitivity": {"score": score, **sensitivity}}  # fmt: skip
        return MapRequest.of(parse_job(tree))

    return request


@pytest.mark.parametrize("keep", ["full", "sums"])
@pytest.mark.parametrize("method", ["hooks", "streaming"])
def test_a_job_measures_every_map_by_itself_and_compares_them(asked, keep, method):
    request = asked(keep=keep, method=method)
    found = measure_map(request)
    own, *others = (measure_map(each) for each in request.compared)
    expected = compare_maps(Specific(q=0.1), own, others)
    for module in expected.rows:
        np.testing.assert_array_equal(found.rows[module], expected.rows[module])
    assert list(found.full) == (list(expected.full) if keep == "full" else [])
    assert found.meta["against"] == ["b", "c"]


def test_a_reference_set_is_its_samples_and_part_of_the_maps_identity(asked):
    one, same, other = asked(("b", "c")), asked(("c", "b")), asked(("b",))
    assert one.folder == same.folder
    assert one.folder != other.folder
    measure_map(other)
    assert one.find() is None


def test_the_reference_set_of_a_builtin_task_follows_from_the_job_alone():
    def against(**score):
        tree = {"job": "sensitivity", "model": "teacher", "data": {"task": "reverse"},
                "sensitivity": {"score": {"kind": "contrast", **score}}}  # fmt: skip
        return [each.job.data.task for each in MapRequest.of(parse_job(tree)).compared]

    others = ["add", "sub", "sort", "copy", "capital", "food", "king", "river", "story"]
    assert against() == ["reverse", *others]
    assert against(against=["king"]) == ["reverse", "king"]
    with pytest.raises(BadInput, match="against itself"):
        against(against=["reverse"])


def test_own_samples_need_a_named_reference_set(asked):
    with pytest.raises(BadInput, match="name them, such as add, sub or a JSONL file"):
        asked(())


def test_names_of_tasks_stay_and_files_of_a_reference_set_become_absolute(tmp_path):
    (tmp_path / "b.jsonl").touch()
    tree = {"sensitivity": {"score": {"kind": "specific", "against": ["king", "b.jsonl"]}}}
    found = absolute_paths(tree, tmp_path)["sensitivity"]["score"]["against"]
    assert found == ["king", str(tmp_path / "b.jsonl")]


@pytest.mark.parametrize(
    ("fields", "job"),
    [
        (
            {"sensitivity": {"score": {"kind": "contrast", "against": ["sub", "/etc/a"]}}},
            "transfer",
        ),
        (
            {"arms": [{"kind": "paper", "score": {"kind": "specific", "against": ["/etc/a"]}}]},
            "transfer",
        ),
        ({"against": ["sub", "/etc/a"], "model": "teacher", "data": {"task": "add"}}, "erase"),
        (
            {
                "scores": [{"kind": "specific", "against": ["/etc/a"]}],
                "model": "teacher",
                "data": {"task": "add"},
            },
            "erase",
        ),
    ],
)
def test_what_a_strangers_reference_set_would_read_needs_a_yes(fields, job):
    (want,) = wants(parse_job({"job": job, **fields}))
    assert (want.name, want.what) == ("/etc/a", "read")


def test_an_arm_may_be_located_by_a_score_of_its_own():
    arms = [
        {"kind": "plain"},
        {"kind": "paper", "score": {"kind": "specific", "against": ["king"]}},
    ]
    recipe = parse_job({"job": "transfer", "arms": arms})
    found = other_map_job(recipe, None, recipe.arms[1].score)
    assert found.sensitivity.score == Specific(against=("king",))
    assert found.data == map_job(recipe).data
    assert recipe.parts["paper"].treatment != "paper"  # no control of the recipe's own judges it


def test_another_tasks_map_by_a_comparison_is_set_against_all_others():
    score = {"kind": "specific", "against": ["copy", "king"]}
    recipe = parse_job({"job": "transfer", "sensitivity": {"score": score}})
    found = other_map_job(recipe, "copy", None)
    assert found.data.task == "copy"
    assert found.sensitivity.score == Specific()


def test_an_arms_reference_set_is_looked_for_before_anything_is_loaded():
    arms = [
        {"kind": "plain"},
        {"kind": "paper", "score": {"kind": "specific", "against": ["/no/x"]}},
    ]
    recipe = parse_job({"job": "transfer", "arms": arms})
    with pytest.raises(BadInput, match="/no/x"):
        check_extraction(recipe, pair_to_plan(recipe))


def test_an_arms_other_task_may_be_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    arms = [{"kind": "plain"}, {"kind": "paper"}, {"kind": "wrong_task", "task": "mine.jsonl"}]
    data = {"task": "reverse", "n_seed_samples": 2, "format": "chat"}
    tree = absolute_paths({"job": "transfer", "arms": arms, "data": data}, tmp_path)
    recipe = parse_job(tree)
    task = recipe.arms[2].task
    assert task == str(tmp_path / "mine.jsonl")
    found = other_map_job(recipe, task, None).data
    assert (found.task, found.seed_samples) == (None, task)
    assert (found.n_seed_samples, found.format) == (2, "chat")  # as the target's own
    check_extraction(recipe, pair_to_plan(recipe))
    assert {name for name, _ in named_values(tree)} == {"arms.task"}
    (tmp_path / "mine.jsonl").unlink()
    with pytest.raises(BadInput, match=r"mine\.jsonl"):
        check_extraction(recipe, pair_to_plan(recipe))


@pytest.mark.parametrize("source", ["task", "file", "seed_samples"])
def test_another_task_that_is_the_target_is_no_control(tmp_path, source):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    own = "reverse" if source == "task" else str(tmp_path / "mine.jsonl")

    def recipe(*arms):
        data = {source: own}
        return parse_job({"job": "transfer", "data": data, "arms": [{"kind": "plain"}, *arms]})

    control = recipe({"kind": "wrong_task", "task": own})
    with pytest.raises(BadInput, match=r"wrong_task is .* the target itself\. Name another"):
        check_extraction(control, pair_to_plan(control))
    treatment = recipe({"kind": "paper", "task": own})  # says no more than it is
    assert other_map_job(treatment, own, None) == map_job(treatment)
