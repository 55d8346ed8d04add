"""What ships as measured is what measuring gives, for every built-in model and skill."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets import api
from nuggets.extraction.plan import make_plan
from nuggets.planning.cache import MapRequest, alignment_folder
from nuggets.recipe import AlignJob, SensitivityJob


def job(model: str, skill: str) -> SensitivityJob:
    return SensitivityJob(model=model, data=api.DataConfig(task=skill), device="cpu")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))


def test_every_skill_of_every_built_in_model_is_measured_when_the_app_is_new():
    missing = [(m, s) for m in api.MODELS for s in api.skills() if api.find_map(job(m, s)) is None]
    assert not missing
    for pair in api.PAIRS.values():
        assert api.find_alignment(AlignJob(teacher=pair.teacher, student=pair.student)) is not None


def test_a_shipped_map_and_plan_are_what_measuring_gives():
    request = MapRequest.of(job("teacher", "add"))
    shipped = request.shipped()
    assert request.find() is None  # a run still measures, with every entry
    assert shipped is not None
    measured = api.measure(job("teacher", "add"))
    assert api.find_map(job("teacher", "add")).full.keys() == measured.full.keys()
    for name in measured.rows:
        for ours, theirs in ((measured.rows, shipped.rows), (measured.cols, shipped.cols)):
            # Where an answer is all but certain, p − 1 has few digits, and makes of processors
            # differ: by .006 in a single column, but not in what a matrix holds where.
            assert np.abs(ours[name] - theirs[name]).sum() < 1e-4 * ours[name].sum(), name
    recipe = api.load_recipe("quick", ["data.task=add"])
    for student in ("independent", "sibling"):
        spec = api.spec(student)
        plans = [make_plan(m, spec, recipe.extraction, recipe.lora) for m in (shipped, measured)]
        for ours, theirs in zip(plans[1].items, plans[0].items, strict=True):
            assert theirs.kept_mass == pytest.approx(ours.kept_mass, rel=1e-5)
            same = {"kept_mass": theirs.kept_mass, "runner_up": theirs.runner_up}
            assert ours.model_copy(update=same) == theirs


def test_shipped_alignments_belong_to_the_models_that_ship():
    from nuggets.builtin.pairs import measured_root
    from nuggets.builtin.resolve import pair_named

    found = {
        alignment_folder(
            AlignJob(teacher=p.teacher, student=p.student), pair_named(p.teacher, p.student)
        ).name
        for p in api.PAIRS.values()
    }
    assert {folder.name for folder in (measured_root() / "alignment").iterdir()} == found
