"""Preflight: what is said of a pair before any weight is read."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from nuggets.core import preflight as module
from nuggets.core.loading import load_model
from nuggets.core.models import parse_ref
from nuggets.core.preflight import Preflight, preflight

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
STUDENT = SMALL | {"num_key_value_heads": 1, "intermediate_size": 32}


@pytest.fixture
def pair(tiny):
    return parse_ref(str(tiny())), parse_ref(str(tiny(**STUDENT)))


def check(teacher, student, **options) -> Preflight:
    return preflight(teacher, student, memory_available=10**9, **options)


def test_fitting_pair_has_no_problem(pair):
    found = check(*pair)
    assert (found.ok, found.problems, found.vocabularies) == (True, (), "agree")
    rows = {row.name: (row.teacher, row.student, row.fits) for row in found.dimensions}
    assert rows["hidden_size"] == (32, 16, True)
    assert rows["n_layers"] == (2, 1, True)
    assert any("2 query heads" in note for note in found.notes)


def test_result_survives_json(pair):
    found = check(*pair)
    document = json.loads(found.model_dump_json())
    assert document.pop("ok") is True
    assert Preflight.model_validate(document) == found


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}, {"attention_bias": True}])
def test_parameters_are_counted_as_torch_counts_them(tiny, config):
    ref = parse_ref(str(tiny(**config)))
    found = check(ref, ref)
    assert found.teacher is not None
    assert found.teacher.parameters == load_model(ref).num_parameters()
    assert found.teacher.stored == ("F32",)
    assert found.teacher.bytes_on_disk == (tiny(**config) / "model.safetensors").stat().st_size


def test_swapped_pair_says_what_to_do(pair):
    found = check(*reversed(pair))
    assert not found.ok
    assert "The student is deeper than the teacher: 2 > 1." in found.problems[0]
    assert [r.name for r in found.dimensions if not r.fits][:2] == ["n_layers", "hidden_size"]


def test_damaged_model_is_a_problem_and_the_other_is_still_described(pair, tiny_copy):
    folder = tiny_copy()
    (folder / "model.safetensors").write_bytes(b"")
    found = check(parse_ref(str(folder)), pair[1])
    assert found.teacher is None
    assert found.student is not None
    assert "File damaged or incomplete: model.safetensors" in found.problems[0]


def test_both_damaged_models_are_named(tiny_copy):
    folder = tiny_copy()
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    found = check(parse_ref(str(folder)), parse_ref(str(folder)))
    assert len(found.problems) == 2


def test_vocabulary_matters_where_embeddings_are_extracted(pair, tiny):
    other = parse_ref(str(tiny(vocab_size=48, **STUDENT)))
    assert check(pair[0], other, roles=("q", "v")).ok
    found = check(pair[0], other, roles=("q", "embed"))
    assert "the teacher has 40 words and the student 48" in found.problems[0]


def test_differing_words_are_a_problem(pair, tiny_copy):
    folder = tiny_copy(**STUDENT)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"a"', '"zz"'))
    found = check(pair[0], parse_ref(str(folder)))
    assert found.vocabularies == "differ"
    assert "give words different ids" in found.problems[0]


def test_damaged_tokenizer_is_a_problem(pair, tiny_copy):
    folder = tiny_copy(**STUDENT)
    (folder / "tokenizer.json").write_text("{}")
    assert "has no vocabulary" in check(pair[0], parse_ref(str(folder))).problems[0]


def test_missing_tokenizer_is_a_note(pair, tiny_copy):
    folder = tiny_copy(**STUDENT)
    (folder / "tokenizer.json").unlink()
    found = check(pair[0], parse_ref(str(folder)))
    assert found.ok
    assert any("vocabularies cannot be compared" in note for note in found.notes)


@pytest.mark.parametrize(
    ("teacher", "student", "note"),
    [
        ({}, {"tie_word_embeddings": True}, "head of the student are one tensor (tied)"),
        ({}, {"head_dim": 4}, "The teacher's have 8 dimensions and the student's 4"),
        ({"num_key_value_heads": 4}, {}, "2 query heads per key/value head and the teacher only 1"),
    ],
)
def test_what_cannot_be_cut_is_noted(tiny, teacher, student, note):
    found = check(parse_ref(str(tiny(**teacher))), parse_ref(str(tiny(**(STUDENT | student)))))
    assert any(note.lower() in sentence.lower() for sentence in found.notes), found.notes


def test_other_architecture_is_noted(pair, tiny):
    found = check(pair[0], parse_ref(str(tiny("mistral", **STUDENT))))
    assert any("a llama and the student a mistral" in note for note in found.notes)


def test_memory_shortage_names_needed_and_free(pair):
    needed = {s.stage: s.bytes_needed for s in check(*pair).stages}
    assert needed["load"] < needed["sensitivity (sums)"] < needed["sensitivity (full map)"]
    sums = needed["sensitivity (sums)"]
    found = preflight(*pair, memory_available=sums, batch_size=1)
    assert found.ok
    assert any("keep row and column sums only" in note for note in found.notes)
    found = preflight(*pair, memory_available=sums - 1)
    assert not found.ok
    assert "Stage sensitivity (sums) needs about 0.0 GB of memory" in found.problems[0]


def test_disk_shortage_is_a_problem(pair, monkeypatch):
    usage = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(module, "shutil", usage)
    assert "of disk are needed and 0.0 GB are free" in check(*pair).problems[0]


def test_absurd_config_is_refused_without_building_a_model(tiny_copy):
    folder = tiny_copy()
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 9_000_000}
    (folder / "config.json").write_text(json.dumps(config))
    found = check(parse_ref(str(folder)), parse_ref(str(folder)))
    assert "has shape [40, 32], but the config says [9000000, 32]" in found.problems[0]


def test_activation_estimate_is_near_what_autograd_saves(tiny):
    ref = parse_ref(str(tiny(hidden_size=64, intermediate_size=192, num_hidden_layers=4)))
    model, saved = load_model(ref), {}

    def keep(tensor):
        saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.data_ptr() for p in model.parameters()}
    ids = torch.arange(64)[None] % 40
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    measured = sum(size for place, size in saved.items() if place not in weights)
    estimated = module._activations(check(ref, ref).teacher.spec, 64, 4)
    assert 0.5 < estimated / measured < 2, (estimated, measured)
