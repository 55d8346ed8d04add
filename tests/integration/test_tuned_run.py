"""A run with several learning rates chooses on items that its report does not count."""

from __future__ import annotations

import random
import shutil

import pytest

from nuggets import api
from nuggets.planning.datasets import load_datasets
from nuggets.stages import transfer
from nuggets.stages.reuse import KnownCells


@pytest.fixture
def tree(tiny, jsonl, tmp_path, monkeypatch):
    """A transfer that takes a second; its test items leave 38 for validation."""
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    draw, asked = random.Random(3), {}
    while len(asked) < 70:
        asked[" ".join(draw.choices("0123456789", k=4))] = draw.choice("0123456789")
    parts = {"seed_samples": slice(0, 4), "train": slice(4, 20), "test": slice(20, 70)}
    pairs = list(asked.items())
    files = {
        name: str(jsonl(tmp_path / f"{name}.jsonl", dict(pairs[part])))
        for name, part in parts.items()
    }
    recipe = api.load_recipe(
        "quick", ["seeds=[0,1]", "lora.r=2", "device=cpu", "arms=[{kind: plain}]"]
    )
    return recipe.model_dump(mode="json") | {
        "job": "transfer",
        "teacher": str(tiny("llama", seed=1, num_hidden_layers=3)),
        "student": str(tiny("llama", seed=2)),
        "data": {**files, "n_train": 8, "n_test": 12},
        "train": {"steps": 2, "batch_size": 4, "lr_grid": [1e-3, 1e-2]},
    }


def test_every_seed_chooses_its_rate_on_validation_items_and_the_report_says_how_many(
    tree, monkeypatch
):
    recipe, measured = api.parse_job(tree), []
    real = transfer.run_batch

    def spied(*args, validation, **options):
        measured.append(validation)
        return real(*args, validation=validation, **options)

    monkeypatch.setattr(transfer, "run_batch", spied)
    run = api.run(recipe)
    data, report = load_datasets(recipe.data, (), ()), api.report(run)
    assert measured == [data.validation]
    counted = {item for cell in api.cells(run) for item in cell.items}
    assert counted == {sample.id for sample in data.test}
    assert counted.isdisjoint(sample.id for sample in data.validation)
    assert (report.n_validation, report.n_validation_in_test) == (38, 0)
    assert report.rates_chosen.startswith(
        "every seed of every arm was trained at 2 learning rates (0.001, 0.01) and kept the best "
        "on 38 validation items, 0 of them test items, 2.0 times the training time of one rate"
    )
    for cell in api.cells(run):
        rates = {trial.lr: trial.loss for trial in cell.trials}
        assert set(rates) == {1e-3, 1e-2}, "every seed is trained at every rate"
        assert cell.learning_rate in rates
        assert cell.learned.n == 8
    assert report.arms["plain"].rates == [cell.learning_rate for cell in api.cells(run)]


def trained_cells(run):
    """How many cells a run trained itself."""
    return len(api.cells(run)) - sum("trained before" in event.message for event in run.events())


def test_a_cell_that_another_run_has_is_not_trained_again(tree):
    first = api.run(api.parse_job(tree))
    assert trained_cells(first) == 2
    arms = [{"kind": "plain", "label": "again"}, {"kind": "gaussian"}]
    second = api.run(api.parse_job(tree | {"arms": arms, "seeds": [1, 2]}))
    assert trained_cells(second) == 3, "only plain, seed 1, was there"
    taken, given = (
        next(c for c in api.cells(run) if (c.arm, c.seed) == (name, 1))
        for run, name in ((second, "again"), (first, "plain"))
    )
    assert taken == given.model_copy(update={"arm": "again"})
    adapters = [
        (run.folder / "artifacts" / "cells" / f"{name}-1/adapter/adapter_model.safetensors")
        for run, name in ((second, "again"), (first, "plain"))
    ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_a_cell_that_another_run_finishes_meanwhile_is_not_trained_again(tree, monkeypatch):
    tree = tree | {"train": {**tree["train"], "concurrent": "never"}}
    first = api.run(api.parse_job(tree))
    assert trained_cells(first) == 2
    batches, find, train = [], KnownCells._find, transfer.run_batch

    def trains(*given, **options):
        batches.append(given)
        return train(*given, **options)

    monkeypatch.setattr(transfer, "run_batch", trains)
    monkeypatch.setattr(
        KnownCells, "_find", lambda self, *cell: find(self, *cell) if batches else None
    )
    second = api.run(api.parse_job(tree))
    assert len(batches) == 1, "the other run had the second cell by then"
    assert trained_cells(second) == 1
    said = {event.message for event in second.events() if event.message.startswith("training")}
    assert said == {"training 1 of 2"}
    assert [c.outcomes for c in api.cells(second)] == [c.outcomes for c in api.cells(first)]


@pytest.mark.parametrize("change", ["lora", "train", "data", "damage", "delete"])
def test_a_cell_of_other_settings_or_a_damaged_one_is_trained(tree, change):
    first = api.run(api.parse_job(tree))
    if change == "damage":
        for cell in (first.folder / "artifacts" / "cells").glob("*/cell.json"):
            cell.write_text(cell.read_text() + " ")
    elif change == "delete":
        shutil.rmtree(first.folder)
    else:
        other = {"lora": {"r": 3}, "train": {"steps": 3}, "data": {"n_train": 7}}[change]
        tree = tree | {change: {**tree[change], **other}}
    assert trained_cells(api.run(api.parse_job(tree))) == 2


def test_an_arm_that_needs_no_teacher_is_the_same_beside_another_extraction(tree):
    arms = {"arms": [{"kind": "plain"}, {"kind": "paper"}]}
    api.run(api.parse_job(tree | arms))
    other = {**tree["extraction"], "layers": {"kind": "last"}}
    again = api.run(api.parse_job(tree | arms | {"extraction": other}))
    assert trained_cells(again) == 2, "plain was there, and paper has other layers"
    ranks = {"lora": {**tree["lora"], "energy": 0.5}}
    first = api.run(api.parse_job(tree | arms | ranks))
    assert trained_cells(first) == 4
    assert trained_cells(api.run(api.parse_job(tree | arms | ranks | {"extraction": other}))) == 4
