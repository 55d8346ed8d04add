"""A run that tunes learning rates does so on items that its report does not count."""

from __future__ import annotations

import random

from nuggets import api
from nuggets.planning.datasets import load_datasets
from nuggets.stages import transfer


def test_rates_are_tuned_on_validation_items_and_the_report_says_how_many(
    tiny, jsonl, tmp_path, monkeypatch
):
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
    tree = recipe.model_dump(mode="json") | {
        "teacher": str(tiny("llama", seed=1, num_hidden_layers=3)),
        "student": str(tiny("llama", seed=2)),
        "data": {**files, "n_train": 8, "n_test": 12},
        "train": {"steps": 2, "batch_size": 4, "lr_grid": [1e-3, 1e-2]},
    }
    recipe, measured = api.parse_job({"job": "transfer", **tree}), []
    real = transfer.tune_batch

    def spied(*args, items, **options):
        measured.append(items)
        return real(*args, items=items, **options)

    monkeypatch.setattr(transfer, "tune_batch", spied)
    run = api.run(recipe)
    data, report = load_datasets(recipe.data, (), ()), api.report(run)
    assert measured == [data.tuning]
    counted = {item for cell in api.cells(run) for item in cell.items}
    assert counted == {sample.id for sample in data.test}
    assert counted.isdisjoint(sample.id for sample in data.tuning)
    assert (report.n_validation, report.n_validation_in_test) == (38, 0)
    assert report.tuned_on == ("learning rates tuned on 38 validation items, 0 of them test items")
