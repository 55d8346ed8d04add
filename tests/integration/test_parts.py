"""One transfer in several runs at once: the same report, weights and cells as in one."""

from __future__ import annotations

import pytest

from nuggets import api
from nuggets.errors import BadInput
from nuggets.stages.parts import split

SMALL = ["device=cpu", "seeds=[0,1,2]", "train.steps=3", "train.evaluate_every=0", "lora.r=2",
         "train.concurrent=never", "data.n_train=16", "data.n_test=16", "data.old_skills=[]",
         "arms=[{kind: plain},{kind: paper}]"]  # fmt: skip


def test_seeds_are_split_into_neighbours():
    recipe = api.load_recipe("quick", ["seeds=[3,1,4,5,9]"])
    assert [part.seeds for part in split(recipe, 2)] == [(3, 1), (4, 5, 9)]
    assert [len(part.seeds) for part in split(recipe, 5)] == [1] * 5
    with pytest.raises(BadInput, match="6 parts cannot be made of 5 seeds"):
        split(recipe, 6)


def test_more_parts_than_seeds_are_refused_before_anything_starts(nuggets):
    ended = nuggets("run", "quick", "--set", "seeds=[0,1]", "--parts", 3)
    assert ended.code == 2
    assert "3 parts cannot be made of 2 seeds" in ended.err
    assert api.runs() == []


@pytest.mark.slow
def test_parts_at_once_give_the_same_bytes_as_one_run(nuggets, tmp_path, monkeypatch):
    words = [word for text in SMALL for word in ("--set", text)]
    found = []
    for place, more in (
        ("alone", ()),
        ("parts", ("--parts", 2, "--engine", "{kind: local, cpu: 2}")),
    ):
        monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / place))
        ended = nuggets("run", "quick", *words, *more)
        assert ended.code == 0, ended.err
        (run,) = api.runs()
        weights = {str(file.relative_to(run.folder)): file.read_bytes()
                   for file in run.folder.rglob("cells/**/*.safetensors")}  # fmt: skip
        found.append((weights, [(c.arm, c.seed, c.outcomes) for c in api.cells(run)]))
        trained = [e for e in run.events() if "trained before" in e.message]
        assert len(trained) == (6 if more else 0)
    alone, parts = found
    assert len(alone[0]) == 6
    assert parts == alone
