"""A run with several learning rates chooses on items that its report does not count."""

from __future__ import annotations

import random

from nuggets import api
from nuggets.planning.datasets import load_datasets
from nuggets.stages import transfer


def test_every_seed_chooses_its_rate_on_validation_items_and_the_report_says_how_many(
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
