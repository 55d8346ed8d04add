"""The size of a cut, before anything is loaded."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from nuggets.disk.home import cache_dir
from nuggets.errors import BadInput, Cancelled
from nuggets.models.architecture import ARCHITECTURES
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.progress import InMemoryProgress
from nuggets.recipe import CutJob
from nuggets.stages.cutting import cut_to, student_spec

BOUND = [kind for kind, row in ARCHITECTURES.items() if not row.free_heads]


@pytest.mark.parametrize("kind", BOUND)
def test_a_narrower_student_has_as_many_heads_as_fill_its_width(kind, tiny):
    folder = tiny(kind)
    teacher = read_spec(parse_ref(str(folder)))
    job = CutJob(teacher=str(folder), sizes={"hidden_size": 16})
    student = student_spec(job, teacher)
    assert (student.n_heads, student.head_dim) == (2, 8)
    assert student.group == teacher.group


@pytest.mark.parametrize("width", [8, 24])
def test_a_width_between_whole_head_groups_is_refused(width, tiny):
    folder = tiny("stablelm")
    job = CutJob(teacher=str(folder), sizes={"hidden_size": width})
    with pytest.raises(BadInput, match="a width that is a multiple of 16,"):
        student_spec(job, read_spec(parse_ref(str(folder))))


def test_an_interrupted_healing_goes_on_where_it_was_and_ends_as_if_never_stopped(
    tiny, jsonl, tmp_path, monkeypatch
):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))
    samples = jsonl(tmp_path / "general.jsonl", {f"{i} +": f"{i}" for i in range(8)})
    job = CutJob(
        teacher=str(tiny("llama")),
        sizes={"n_layers": 1},
        order="first",
        heal=str(samples),
        heal_steps=103,
        heal_batch_size=2,
        device="cpu",
    )

    class Impatient(InMemoryProgress):
        def metric(self, **data):
            super().metric(**data)
            if data.get("step") == 102:
                self.cancel()

    with pytest.raises(Cancelled):
        cut_to(job, tmp_path / "student", Impatient())
    assert not (tmp_path / "student").exists()
    resumed = InMemoryProgress()
    cut_to(job, tmp_path / "student", resumed)
    assert [data["step"] for data in resumed.metrics if "step" in data] == [101, 102, 103]
    assert not list((cache_dir() / "healing").iterdir())  # nothing is left
    cut_to(job, tmp_path / "calm")
    ours, calm = (load_file(tmp_path / name / "model.safetensors") for name in ("student", "calm"))
    assert all(torch.equal(ours[name], calm[name]) for name in calm)
