"""Measuring by hooks or block by block, chosen by what fits; what is never loaded stays on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from nuggets.builtin.resolve import model_named, pair_named
from nuggets.compute.threads import SMALL, each_on_a_thread, threads_for
from nuggets.errors import BadInput, Damaged
from nuggets.planning.cache import MapRequest
from nuggets.planning.checks import check_extraction
from nuggets.planning.jobs import plan_from_cache
from nuggets.progress import InMemoryProgress
from nuggets.recipe import parse_job
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.stages import measuring
from nuggets.stages.measuring import Loaded, extract_to, measure_map


@pytest.fixture
def job(tiny, jsonl, tmp_path):
    seeds = jsonl(tmp_path / "seeds.jsonl", {"1 2 3": "4 5", "6 7": "8"})

    def make(**sensitivity):
        tree = {
            "job": "sensitivity",
            "model": str(tiny(num_hidden_layers=3)),
            "data": {"seed_samples": str(seeds), "n_seed_samples": 2},
            "sensitivity": sensitivity,
            "device": "cpu",
        }
        return parse_job(tree)

    return make


@pytest.fixture
def never_loaded(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the whole model was loaded")

    monkeypatch.setattr(measuring, "load_model", refuse)


def measured(job, progress=None):
    return measure_map(MapRequest.of(job), progress)


def at_home(monkeypatch, folder):
    monkeypatch.setenv("NUGGETS_HOME", str(folder))


def test_both_methods_give_one_map_and_share_the_cache(job, monkeypatch, tmp_path):
    at_home(monkeypatch, tmp_path / "a")
    hooks = measured(job(method="hooks"))
    at_home(monkeypatch, tmp_path / "b")
    streamed = measured(job(method="streaming"))
    assert streamed.meta["digest"] == hooks.meta["digest"]
    for module in hooks.full:
        np.testing.assert_array_equal(streamed.full[module], hooks.full[module])
    monkeypatch.setattr(measuring, "_measure", None)  # nothing is measured twice
    assert measured(job(method="hooks")).meta["digest"] == hooks.meta["digest"]


def test_samples_of_a_small_model_share_a_pass_unless_a_method_is_named(job, monkeypatch, tmp_path):
    taken = []

    def counted(*arguments, real=measuring.compute_sensitivity):
        taken.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(measuring, "compute_sensitivity", counted)
    maps = []
    for method in ("auto", "hooks"):
        at_home(monkeypatch, tmp_path / method)
        maps.append(measured(job(method=method)))
    assert taken == [maps[0].n_samples, 1]
    for module, values in maps[1].full.items():
        np.testing.assert_allclose(maps[0].full[module], values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["auto", "hooks", "streaming"])
def test_a_map_of_files_that_changed_while_they_were_measured_is_not_kept(
    method, job, tiny_copy, monkeypatch, tmp_path
):
    at_home(monkeypatch, tmp_path / "home")
    folder = tiny_copy(num_hidden_layers=3)
    changed = job(method=method).model_copy(update={"model": str(folder)})

    class Intruder(InMemoryProgress):
        def progress(self, *given, **named):
            weights = load_file(folder / "model.safetensors")
            weights["lm_head.weight"][0, 0] += 1
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(Damaged, match="changed while they were in use"):
        measured(changed, Intruder())
    assert not list((tmp_path / "home/cache/sensitivity").glob("*"))
    assert measured(changed).full  # as they are now


@pytest.mark.parametrize(("free", "given_back"), [(10**9, 0), (10**6, 1)])
def test_freed_memory_is_given_back_where_there_is_little(
    free, given_back, job, monkeypatch, tmp_path
):
    calls = []
    monkeypatch.setattr(measuring, "free_memory", lambda device: free)
    monkeypatch.setattr(measuring, "return_freed_memory", lambda: calls.append(1))
    at_home(monkeypatch, tmp_path / "home")
    measured(job(method="hooks"))
    assert len(calls) == given_back


@pytest.mark.parametrize("keep", ["full", "sums"])
def test_a_model_that_does_not_fit_is_streamed_and_never_loaded(
    keep, job, monkeypatch, tmp_path, never_loaded
):
    at_home(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(measuring, "free_memory", lambda device: 10_000)
    progress = InMemoryProgress()
    found = measured(job(keep=keep), progress)
    assert any("one block at a time" in message for message in progress.messages)
    assert bool(found.full) == (keep == "full")
    assert progress.fraction == 1.0


def test_extraction_reads_windows_from_the_files(tiny, job, monkeypatch, tmp_path, request):
    recipe = parse_job(
        {
            "job": "transfer",
            "teacher": job().model,
            "student": str(tiny(hidden_size=16, intermediate_size=48, seed=1)),
            "data": job().data.model_dump(),
            "lora": {"r": 3},
            "device": "cpu",
        }
    )
    at_home(monkeypatch, tmp_path / "home")
    extract_to(recipe, tmp_path / "whole")
    request.getfixturevalue("never_loaded")
    at_home(monkeypatch, tmp_path / "other")
    streaming = recipe.sensitivity.model_copy(update={"method": "streaming"})
    extract_to(recipe.model_copy(update={"sensitivity": streaming}), tmp_path / "lazy")
    whole, lazy = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "lazy")
    )
    assert list(whole) == list(lazy)
    for name in whole:
        np.testing.assert_array_equal(lazy[name], whole[name])


def test_windows_alone_extract_what_the_full_map_does_and_no_map_is_written(
    tiny, job, monkeypatch, tmp_path, never_loaded
):
    recipe = parse_job(
        {
            "job": "transfer",
            "teacher": job().model,
            "student": str(tiny(hidden_size=16, intermediate_size=48, seed=1)),
            "data": job().data.model_dump(),
            "sensitivity": {"method": "streaming"},
            "extraction": {"roles": ["embed", "q", "down", "head"]},
            "arms": [{"kind": "plain"}, {"kind": "paper", "matrices": {"kind": "neurons"}}],
            "lora": {"r": 3},
            "device": "cpu",
        }
    )
    at_home(monkeypatch, tmp_path / "home")
    whole = extract_to(recipe, tmp_path / "whole")
    at_home(monkeypatch, tmp_path / "other")
    few = recipe.model_copy(
        update={"sensitivity": recipe.sensitivity.model_copy(update={"keep": "windows"})}
    )
    plan = extract_to(few, tmp_path / "few")
    assert plan.items == whole.items
    assert plan_from_cache(few).items == whole.items
    names = (tmp_path / name / "adapter_model.safetensors" for name in ("whole", "few"))
    factors = [load_file(name) for name in names]
    for name, values in factors[0].items():
        np.testing.assert_array_equal(factors[1][name], values)
    (folder,) = (tmp_path / "other/cache/sensitivity").iterdir()
    found = SensitivityMap.load(folder)
    assert not found.full
    assert set(found.picks) == {"window", "neurons"}
    mapped = 4 * sum(found.rows[module].size * found.cols[module].size for module in found.rows)
    assert (folder / "map.safetensors").stat().st_size < mapped / 2


def test_an_alignment_measures_sums_alone_and_takes_a_full_map_that_is_there(
    tiny, job, monkeypatch, tmp_path
):
    at_home(monkeypatch, tmp_path / "home")
    kept = measured(job())
    models = job().model, str(tiny(hidden_size=16, intermediate_size=48, seed=1))
    names = dict(zip(("teacher", "student"), models, strict=True))
    asked = {"job": "align", **names, "data": job().data.model_dump(), "device": "cpu"}
    pair = tuple(Loaded(model_named(each), "cpu") for each in models)
    [(teacher, student)] = measuring._maps(parse_job(asked), pair, None).values()
    assert teacher.meta["digest"] == kept.meta["digest"]
    assert teacher.full
    assert not student.full
    assert student.total("model.layers.0.mlp.down_proj") > 0


@pytest.mark.parametrize(
    ("keep", "change", "sentence"),
    [
        ("sums", {}, "The selector window looks at every entry, but sensitivity.keep is sums"),
        ("windows", {"extraction": {"matrices": {"kind": "weights"}}}, "The selector weights"),
        (
            "windows",
            {"arms": [{"kind": "paper", "matrices": {"kind": "weights"}}]},
            "The selector weights looks at every entry, but sensitivity.keep is windows",
        ),
        ("windows", {"extraction": {"ratio": 0.5}}, "An extraction ratio of 0.5 looks at every"),
    ],
)
def test_what_looks_at_every_entry_is_refused_before_anything_is_measured(keep, change, sentence):
    tree = {"job": "transfer", "sensitivity": {"keep": keep}, **change}
    with pytest.raises(BadInput, match=sentence):
        check_extraction(parse_job(tree), pair_named("teacher", "independent"))


def test_windows_are_measured_for_a_student_and_nothing_else_is():
    tree = {"job": "sensitivity", "model": "teacher", "data": {"task": "add"}}
    with pytest.raises(
        BadInput,
        match=r"^The recipe is not valid: .*needs a student, whose shapes the windows have\.$",
    ):
        parse_job({**tree, "sensitivity": {"keep": "windows"}})
    with pytest.raises(
        BadInput, match=r"a student is used only with .*windows, but keep is full\.$"
    ):
        parse_job({**tree, "student": "sibling"})


@pytest.mark.parametrize(
    ("parameters", "device", "expected"),
    [(SMALL - 1, "cpu", 1), (SMALL, "cpu", 2), (SMALL - 1, "cuda:0", 2)],
)
def test_small_models_compute_on_one_thread(parameters, device, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(parameters, device):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2
        assert each_on_a_thread(lambda n: n * n, range(5), "cpu") == [0, 1, 4, 9, 16]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
