"""`nuggets erase` on the built-in teacher and on files: a job, a run, a command, a saved model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from nuggets import api
from nuggets.builtin.pairs import model_folder
from nuggets.builtin.skills import skill_samples
from nuggets.cli.main import app
from nuggets.data.samples import encode_all
from nuggets.erasure import words
from nuggets.errors import BadInput
from nuggets.models.loading import load_tokenizer
from nuggets.planning import erasing
from nuggets.planning.erasing import EraseRequest, usual_others
from nuggets.stages import erasing as stages
from nuggets.stages import measuring


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """One home for all: maps and reports are measured once."""
    folder = tmp_path_factory.getbasetemp() / "erasing-home"
    monkeypatch.setenv("NUGGETS_HOME", str(folder))
    return folder


def job(**fields):
    tree = {"job": "erase", "model": "teacher", "data": {"task": "reverse"}, "device": "cpu"}
    return api.parse_job({**tree, "against": ["sub", "king"], "n_items": 16, **fields})


def map_of(task):
    tree = {"job": "sensitivity", "model": "teacher", "data": {"task": task}, "device": "cpu"}
    return api.measure(api.parse_job(tree))


def test_a_builtin_skill_is_erased_as_a_plain_loop_does_it(home):
    asked = job(scores=[{"kind": "specific"}], n_maps=1, parts=[], fractions=[1e-3, 1e-2])
    report = api.erase(asked)
    model = AutoModelForCausalLM.from_pretrained(model_folder("teacher"))
    maps = [map_of(task) for task in ("reverse", "sub", "king")]
    names = [m for m, _, layer in maps[0].spec.modules() if layer is not None]
    own, *others = (np.concatenate([map.matrix(n).ravel() for n in names]) for map in maps)
    for other in others:
        top = np.argsort(-other, kind="stable")[: round(0.01 * len(other))]
        own = np.where(other >= other[top[-1]], 0, own)
    order = np.argsort(-own, kind="stable")
    weights = [model.get_submodule(name).weight for name in names]
    ends = np.cumsum([0, *(weight.numel() for weight in weights)])
    tokenizer = load_tokenizer(api.locate("teacher"))
    for place, count in enumerate((round(1e-3 * ends[-1]), round(1e-2 * ends[-1]))):
        assert report.counts[place] == count
        with torch.no_grad():
            for weight, start in zip(weights, ends, strict=False):
                inside = order[:count] - start
                weight.view(-1)[inside[(inside >= 0) & (inside < weight.numel())]] = 0
            for task, own_items in report.places.items():
                encoded = encode_all(skill_samples(task, "test", 16), tokenizer, 2048, "paper")
                losses = [
                    float(model(torch.tensor([ids]), labels=torch.tensor([labels])).loss)
                    for ids, labels in encoded
                ]
                found = report.curves["specific"][0, place, 0, own_items]
                np.testing.assert_allclose(found, losses, rtol=1e-4, atol=1e-5)


def test_a_report_has_every_order_and_random_is_specific_to_nothing(home):
    asked = job(data={"task": "story"}, against=["add", "king"], parts=[], n_maps=3)
    report = api.erase(asked)
    assert set(report.curves) == {
        "theta_grad", "specific", "contrast", "theta_grad of add", "random", "least", "magnitude"
    }  # fmt: skip
    for control in ("random", "least"):
        found = report.specificity(control)
        assert found.low <= words.NEGLIGIBLE, control
        assert found.high >= -words.NEGLIGIBLE, control
        assert "does not tell story from other skills" in words.verdict(report, control)
    assert report.specificity("theta_grad of add").high < 0  # another skill's map is the other's
    assert report.specificity("specific").low > 0
    points = [p for p in report.points("theta_grad") if p.fraction == 1e-2]
    assert all(point.right < 0.5 for point in points)
    assert api.find_erasure(asked) is not None
    assert api.find_erasure(asked.model_copy(update={"seed": 1})) is None


def test_another_name_of_the_same_is_found_and_another_reference_set_is_not(home):
    api.erase(job(parts=["layers"], n_maps=1))
    same = job(parts=["layers"], n_maps=1, name="again")
    assert api.find_erasure(same) is not None
    assert api.find_erasure(job(parts=["layers"], n_maps=1, against=["sub", "add"])) is None


def test_a_run_keeps_its_report(home):
    run = api.run(job(parts=["layers"], n_maps=1))
    assert run.status() == "done"
    report = api.erasure_of(run)
    assert report is not None
    assert words.as_tree(report) == words.as_tree(api.erase(job(parts=["layers"], n_maps=1)))
    shown = CliRunner().invoke(app, ["show", run.id])
    assert words.verdict(report, "specific")[:60] in " ".join(shown.output.split())
    document = CliRunner().invoke(app, ["show", run.id, "--json"]).stdout
    assert json.loads(document)["erasure"]["skills"] == {"reverse": 16, "sub": 16, "king": 16}


def test_the_command_prints_one_document_and_saves_the_erased_model(home, tmp_path):
    before = load_file(model_folder("teacher") / "model.safetensors")
    command = ["erase", "teacher", "--task", "reverse", "--against", "sub,king", "--items", "16"]
    options = ["--maps", "1", "--parts", "layers", "--device", "cpu", "--json", "--save"]
    nowhere = CliRunner().invoke(app, [*command, *options])
    assert "name a new one (--out)" in str(nowhere.exception)
    found = CliRunner().invoke(app, [*command, *options, "--out", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    again = CliRunner().invoke(app, [*command, *options[:-1]])
    assert json.loads(again.stdout) | {"out": told["out"]} == told, "no folder is needed to look"
    assert told["skills"] == {"reverse": 16, "sub": 16, "king": 16}
    assert "on reverse by" in told["orders"]["theta_grad"]["verdict"]
    assert api.ErasureReport.load(tmp_path / "out").counts == tuple(told["counts"])
    after = load_file(model_folder("teacher") / "model.safetensors")
    erased = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    changed = sum(int((erased[name] != before[name]).sum()) for name in before)
    assert changed == told["counts"][-1]
    assert all(not erased[n][erased[n] != before[n]].any() for n in before)


def test_a_mean_ablation_is_another_report_said_so_and_not_saved(home, tmp_path, monkeypatch):
    few = {"n_items": 4, "n_maps": 1, "parts": ["layers"], "fractions": [1e-2]}
    report = api.erase(job(ablation="mean", **few))
    assert words.ablation(report).startswith("Erased weights go on to contribute their mean")
    zero = api.erase(job(**few))
    assert not words.ablation(zero)
    assert not np.array_equal(report.curves["theta_grad"], zero.curves["theta_grad"])
    np.testing.assert_array_equal(report.untouched, zero.untouched)
    with pytest.raises(BadInput, match=r"needs biases .* write --ablation zero"):
        api.erase(job(ablation="mean", **few), tmp_path / "out", True)
    assert not (tmp_path / "out").exists()
    settings = []
    monkeypatch.setattr(erasing, "digest_of", lambda **given: settings.append(given["settings"]))
    for asked in (job(), job(ablation="mean")):
        with pytest.raises(TypeError):  # no digest, no folder
            _ = EraseRequest.of(asked).folder
    assert settings[1] == settings[0] | {"ablation": "mean"}
    assert "ablation" not in settings[0], "reports from before there was another are still found"


def test_a_model_that_does_not_fit_is_erased_block_by_block_with_the_same_numbers(
    tiny, tmp_path, jsonl, monkeypatch
):
    """Two draws of the seed samples, every order and part; the model is never loaded."""
    a, b = (
        jsonl(
            tmp_path / f"{name}.jsonl",
            {f"{name} {i} {j}": f"{j} {i}" for i in (1, 2) for j in range(4)},
        )
        for name in "ab"
    )
    tree = {"job": "erase", "model": str(tiny()), "device": "cpu", "against": [str(b)],
            "data": {"seed_samples": str(a), "n_seed_samples": 3}, "n_items": 4, "n_maps": 2,
            "parts": ["layers"], "fractions": [1e-3, 1e-2],
            "scores": [{"kind": "theta_grad"}, {"kind": "specific"}]}  # fmt: skip
    asked = api.parse_job(tree)
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "whole"))
    for module in (stages, measuring):
        monkeypatch.setattr(module, "samples_per_pass", lambda *_: 1)  # streaming knows one alone
    monkeypatch.setattr(stages.Eraser, "_check_known", lambda *_: None)  # it knows nothing
    whole = api.erase(asked)
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "streamed"))
    for module in (stages, measuring):
        monkeypatch.setattr(module, "streams", lambda *_: True)
    monkeypatch.setattr(measuring, "load_model", None)
    report = api.erase(asked)
    np.testing.assert_array_equal(report.untouched, whole.untouched)
    np.testing.assert_array_equal(report.without, whole.without)
    assert list(report.curves) == list(whole.curves)
    for order, curve in whole.curves.items():
        np.testing.assert_array_equal(report.curves[order], curve, err_msg=order)
    left = [path.name for path in (tmp_path / "streamed" / "cache").iterdir()]
    assert not [name for name in left if name.startswith(".tmp")], "drawn maps are gone"
    with pytest.raises(BadInput, match="does not fit into memory, as it has to where it is saved"):
        api.erase(asked, tmp_path / "out", True)
    mean = asked.model_copy(update={"ablation": "mean"})
    with pytest.raises(BadInput, match="block by block weights can only be erased to 0"):
        api.erase(mean)


def test_own_files_are_measured_on_what_follows_their_seed_samples(jsonl, tmp_path, tiny):
    def rows(shift):
        return {f"{n // 10} {n % 10} {shift}": f"{(n + shift) % 10}" for n in range(12)}

    a, b = (jsonl(tmp_path / f"{name}.jsonl", rows(i)) for i, name in enumerate("ab"))
    tree = {
        "job": "erase", "model": str(tiny()), "against": [str(b)], "n_maps": 1, "parts": [],
        "data": {"seed_samples": str(a), "n_seed_samples": 4}, "n_items": 5, "device": "cpu",
    }  # fmt: skip
    request = EraseRequest.of(api.parse_job(tree))
    assert {name: len(items) for name, items in request.items.items()} == {"a": 5, "b": 5}
    for each, items in zip(request.maps, request.items.values(), strict=True):
        assert not {s.prompt for s in each.samples} & {s.prompt for s in items}
    with pytest.raises(BadInput, match="Lower the number of seed samples"):
        EraseRequest.of(
            api.parse_job({**tree, "data": {"seed_samples": str(a), "n_seed_samples": 11}})
        )
    with pytest.raises(BadInput, match="name them"):
        EraseRequest.of(api.parse_job({**tree, "against": []}))


def test_a_skill_that_the_model_does_not_know_is_refused(home):
    with pytest.raises(BadInput, match="does not know reverse"):
        api.erase(job(model="independent", against=["add"], parts=[], n_maps=1))


def test_the_usual_other_skills_are_one_of_each_kind_that_the_model_knows():
    assert usual_others(job()) == ("add", "sort", "capital", "story")
    assert "sub" not in usual_others(job(model="independent", data={"task": "add"}))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"fractions": [1e-2, 1e-3]}, "fractions must ascend"),
        ({"fractions": [0.7]}, "between 0 and 0.5"),
        ({"scores": [{"kind": "random"}]}, "an order is measured once"),
        ({"scores": [{"kind": "fisher"}, {"kind": "fisher"}]}, "an order is measured once"),
    ],
)
def test_what_cannot_be_erased_is_one_sentence(fields, sentence):
    with pytest.raises(BadInput, match=sentence):
        job(**fields)


def test_a_shown_erasure_is_repeated_by_its_command_and_its_script():
    asked = job(scores=[{"kind": "specific", "q": 0.02}], fractions=[1e-4, 1e-2], parts=["heads"])
    command = api.as_command(asked)
    assert command == (
        "nuggets erase teacher --task reverse --against sub,king --n 32 --score "
        "'{kind: specific, q: 0.02}' --fractions 0.0001,0.01 --items 16 --parts heads "
        "--device cpu --out erasure"
    )
    script = api.as_python(asked)
    tree = script.partition("parse_job(")[2].partition(")\nreport")[0]
    assert api.parse_job(eval(tree)) == asked
