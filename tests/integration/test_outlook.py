"""What is foretold is what the core then does; and what is refused is said before."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nuggets import api
from nuggets.builtin.resolve import model_named
from nuggets.errors import BadInput
from nuggets.extraction.factors import extract_factors
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.models import pair
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.models.stored_weights import StoredWeights
from nuggets.planning import cache
from nuggets.planning.svd_kept import kept_by_svd
from nuggets.planning.work import work_of
from tests.unit.extraction.test_selectors import make_map

ROLES = ("embed", "q", "k", "v", "o", "up", "down")


def planned(tiny, kind="llama", lora=None, **extraction):
    small = {"hidden_size": 16, "intermediate_size": 48, "num_attention_heads": 2}
    grouped = {} if kind in ("gpt2", "gpt_neox") else {"num_key_value_heads": 1}
    teacher, student = tiny(kind, num_hidden_layers=3), tiny(kind, seed=1, **small, **grouped)
    ref = parse_ref(str(teacher))
    map = make_map(read_spec(ref))
    config = ExtractionConfig.model_validate({"roles": ROLES, **extraction})
    shape = LoraConfig.model_validate({"r": 6, "svd": "exact", **(lora or {})})
    plan = make_plan(map, read_spec(parse_ref(str(student))), config, shape)
    weights = StoredWeights(ref, map.spec)
    return plan, str(teacher), map, extract_factors(weights.weight, plan, map)


@pytest.mark.parametrize(
    ("kind", "lora", "extraction"),
    [
        ("llama", {}, {}),
        ("llama", {"energy": 0.7}, {}),
        ("llama", {"energy": 0.999}, {}),
        ("llama", {"ranks": {"q": 2, "down": 9}}, {}),
        ("llama", {}, {"ratio": 0.4}),
        ("llama", {}, {"matrices": {"kind": "weights"}}),
        ("llama", {}, {"matrices": {"kind": "consistent"}}),
        ("phi3", {"energy": 0.8}, {}),
        ("gpt2", {}, {}),
        ("gpt_neox", {}, {}),
    ],
)
def test_rank_and_energy_are_those_of_the_extraction(tiny, kind, lora, extraction):
    plan, teacher, map, factors = planned(tiny, kind, lora, **extraction)
    found = kept_by_svd(plan, teacher, map)
    assert [each.module for each in found] == list(factors)
    assert [each.rank for each in found] == [factor.rank for factor in factors.values()]
    wanted = [factor.energy for factor in factors.values()]
    np.testing.assert_allclose([each.energy for each in found], wanted, atol=1e-5)
    entries = [factor.a.numel() + factor.b.numel() for factor in factors.values()]
    assert [each.parameters for each in found] == entries


def test_matrices_too_large_for_a_glance_are_left_to_the_run(tiny, monkeypatch):
    plan, teacher, map, _ = planned(tiny)
    monkeypatch.setattr("nuggets.planning.svd_kept.MOST_OPERATIONS", 1e3)
    with pytest.raises(BadInput, match="too large"):
        kept_by_svd(plan, teacher, map)


@pytest.fixture
def recipe(tiny, jsonl, tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    file = jsonl(tmp_path / "all.jsonl", {f"{a} {b}": "1" for a in range(6) for b in range(5)})
    pair = [f"teacher={tiny(num_hidden_layers=3)}", f"student={tiny(seed=1, **small)}"]
    sets = [
        *pair,
        f"data={{file: {file}, n_seed_samples: 3, n_train: 8}}",
        "lora.r=4",
        "device=cpu",
    ]
    return api.load_recipe("quick", sets)


def changed(recipe, **changes):
    return api.parse_job(recipe.model_dump(mode="json") | changes)


def write_map(recipe):
    """A map where the measurement would put it."""
    job = api.map_job(recipe)
    map = make_map(api.spec(recipe.teacher))
    api.save_map(map, cache.MapRequest.of(job).folder)
    return map


def test_before_the_map_all_but_the_plan_is_known(recipe):
    ahead = api.look_ahead(recipe)
    assert (ahead.missing, ahead.plan, ahead.kept, ahead.parameters) == ("map", None, None, None)
    assert ahead.refusals == ()
    assert [stage.stage for stage in ahead.stages] == [
        "load", "sensitivity (full map)", "extraction", "training", "evaluation"
    ]  # fmt: skip
    assert ahead.detectable == api.detectable(recipe)


def test_a_preview_reads_every_config_and_vocabulary_once(recipe, monkeypatch):
    write_map(recipe)
    seen = []
    for name in ("read_config", "vocabulary"):
        read = getattr(pair, name)
        monkeypatch.setattr(
            pair,
            name,
            lambda ref, name=name, read=read: seen.append((name, ref.source)) or read(ref),
        )
    assert api.look_ahead(recipe).plan is not None
    models = (recipe.teacher, recipe.student)
    assert sorted(seen) == sorted(product(("read_config", "vocabulary"), models))


def test_with_the_map_the_plan_is_that_of_the_api(recipe):
    write_map(recipe)
    ahead = api.look_ahead(recipe)
    assert ahead.missing is None
    assert ahead.plan == api.plan(recipe)
    assert ahead.parameters == api.plan(recipe).trainable_parameters
    assert ahead.residual is not None
    assert float(ahead.residual.agreement.mean()) == pytest.approx(
        api.plan(recipe).residual_agreement
    )
    assert "sensitivity" not in " ".join(stage.stage for stage in ahead.stages)
    known = sum(stage.seconds for stage in ahead.stages if stage.seconds)
    low, high = ahead.seconds
    assert 6 < low < 6 + known < high < 6 + 2 * known  # 6: the worker's imports


def test_energy_lowers_the_weights_that_are_trained(recipe):
    write_map(recipe)
    less = api.look_ahead(changed(recipe, lora={"r": 4, "energy": 0.3}))
    assert less.kept is not None
    assert less.parameters == sum(each.parameters for each in less.kept)
    assert less.parameters < api.plan(recipe).trainable_parameters


def test_sizes_of_the_training_do_not_ask_for_another_map(recipe):
    write_map(recipe)
    data = recipe.data.model_dump(mode="json") | {"n_train": 5, "n_test": 2}
    assert api.map_job(changed(recipe, data=data)) == api.map_job(recipe)
    assert api.look_ahead(changed(recipe, data=data)).missing is None


def test_every_refusal_is_told_at_once(recipe):
    data = recipe.data.model_dump(mode="json") | {"metric": "choice"}
    ahead = api.look_ahead(changed(recipe, data=data, lora={"r": 900}))
    assert len(ahead.refusals) == 2
    assert "Rank 900 is too large" in ahead.refusals[0]
    assert "metric choice needs choices in every test sample" in ahead.refusals[1]
    assert ahead.plan is None


def test_a_single_item_or_a_loss_promises_nothing(recipe):
    data = recipe.data.model_dump(mode="json")
    assert api.look_ahead(changed(recipe, data=data | {"n_test": 1})).detectable is None
    assert api.look_ahead(changed(recipe, data=data | {"metric": "loss"})).detectable is None


def test_streaming_is_counted_where_it_is_asked_for(recipe):
    ahead = api.look_ahead(changed(recipe, sensitivity={"method": "streaming"}))
    assert [s.stage for s in ahead.stages if "sensitivity" in s.stage] == [
        "sensitivity (streaming)"
    ]


@pytest.mark.parametrize(
    ("keep", "planned"),
    [
        ("full", "sensitivity (full map)"),
        ("windows", "sensitivity (full map)"),
        ("sums", "sensitivity (sums)"),
    ],
)
def test_windows_need_the_whole_map_in_memory_and_none_on_disk(recipe, keep, planned):
    stages = api.look_ahead(changed(recipe, sensitivity={"keep": keep})).stages
    [stage] = [each for each in stages if "sensitivity" in each.stage]
    assert stage.stage == planned
    assert (stage.disk_needed > 0) is (keep == "full")


def test_work_that_no_estimate_covers_is_named(recipe):
    arms = [{"kind": "plain"}, {"kind": "graft"}, {"kind": "graft", "origin": "random"}]
    assert api.look_ahead(changed(recipe, arms=arms)).uncounted == (
        "fine-tuning the grafts to recover",
    )


@pytest.mark.parametrize(
    ("arm", "trainings", "whole"),
    [
        ({"kind": "pissa"}, 0, False),
        ({"kind": "full"}, 1, True),
        ({"kind": "lexicon"}, 1, True),
        ({"kind": "lexicon", "trained": "lora"}, 0, False),
        ({"kind": "hints"}, 0, True),
        ({"kind": "graft"}, 0, True),
        ({"kind": "graft", "heal_steps": 0}, 0, False),
    ],
)
def test_arms_that_train_all_weights_are_planned_with_them(recipe, arm, trainings, whole):
    asked = changed(recipe, arms=[{"kind": "plain"}, arm])
    work = work_of(asked, model_named("teacher"), "cpu")
    assert work.trainings == 2 * len(asked.seeds)
    assert work.whole_trainings == trainings * len(asked.seeds)
    assert work.trains_all is whole
