"""Preflight: what is said of a pair before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nuggets.amounts import size
from nuggets.compute.speed import Speed
from nuggets.models.architecture import ArchSpec
from nuggets.models.loading import load_model
from nuggets.models.pair import Model, ModelPair, read_spec
from nuggets.models.references import parse_ref
from nuggets.preflight import resources
from nuggets.preflight.headers import Preflight, preflight
from nuggets.preflight.resources import Machine, Work
from nuggets.sensitivity.footprint import activation_bytes

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
STUDENT = SMALL | {"num_key_value_heads": 1, "intermediate_size": 32}


@pytest.fixture
def pair(tiny):
    return parse_ref(str(tiny())), parse_ref(str(tiny(**STUDENT)))


def machine(memory=10**9, **changes) -> Machine:
    known = {"memory_free": memory, "ram_free": 10**12, "disk_free": 10**12}
    return Machine(**(known | changes))


def check(teacher, student, **options) -> Preflight:
    pair = ModelPair(Model(teacher), Model(student))
    return preflight(pair, **({"machine": machine()} | options))


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
    assert "There is nothing to extract" in found.problems[0]
    assert found.problems[0].endswith("Swap the two models.")
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
    assert found.ok
    assert "embed: vocabularies of 40 and 48 tokens" in found.notes[0]
    assert not check(pair[0], other, roles=("embed",)).ok


def test_differing_words_are_a_note_and_a_problem_for_the_embedding(pair, tiny_copy):
    folder = tiny_copy(**STUDENT)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"a"', '"zz"'))
    found = check(pair[0], parse_ref(str(folder)))
    assert (found.ok, found.vocabularies) == (True, "differ")
    assert any("each model reads its own tokens" in note for note in found.notes)
    reasons = {role.role: role.reason for role in found.roles}
    assert reasons["embed"] == reasons["head"] == "the same row is a different token"
    found = check(pair[0], parse_ref(str(folder)), roles=("embed", "q"))
    assert "map tokens to different ids" in found.problems[0]
    assert found.problems[0].endswith("or do without the roles embed and head.")


def test_damaged_tokenizer_is_a_problem(pair, tiny_copy):
    folder = tiny_copy(**STUDENT)
    (folder / "tokenizer.json").write_text("{}")
    assert "has no vocabulary" in check(pair[0], parse_ref(str(folder))).problems[0]


def test_missing_tokenizer_is_a_problem_and_one_in_another_file_a_note(pair, tiny_copy):
    folder = tiny_copy()
    (folder / "tokenizer.json").unlink()
    found = check(pair[0], parse_ref(str(folder)))
    assert found.problems == (
        f"{folder} has no tokenizer; put tokenizer.json into the folder of its weights.",
    )
    (folder / "tokenizer.model").write_bytes(b"words")
    found = check(pair[0], parse_ref(str(folder)))
    assert found.ok
    assert found.vocabularies == "unknown"
    assert any("cannot be compared" in note for note in found.notes)


@pytest.mark.parametrize(
    ("teacher", "student", "note"),
    [
        ({}, {"tie_word_embeddings": True}, "head of the student are one tensor (tied)"),
        ({}, {"head_dim": 4}, "attention starts as plain LoRA (heads of 8 and 4 dimensions)"),
        ({}, {"intermediate_size": 96}, "3 of 7 matrices start as plain LoRA, the others from"),
        ({}, {"num_hidden_layers": 3}, "7 of 21 matrices start as plain LoRA, the others from"),
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
    little = Work(batch_size=1, runs_teacher=True)
    found = check(*pair, work=little, machine=machine(sums))
    assert found.ok
    assert any("keep row and column sums only" in note for note in found.notes)
    found = check(*pair, work=little, machine=machine(sums - 1))
    assert not found.ok
    assert (
        f"Stage sensitivity (sums) needs about {size(sums, digits=3)} of memory"
        in found.problems[0]
    )


def test_a_teacher_that_fits_only_block_by_block_is_streamed_unless_an_arm_runs_it(tiny):
    ref = parse_ref(str(tiny(num_hidden_layers=12)))
    work = Work(n_seed_samples=1, max_tokens=8, batch_size=1)
    needed = {s.stage: s.bytes_needed for s in check(ref, ref, work=work).stages}
    assert needed["sensitivity (streaming)"] < needed["load"] / 2
    found = check(ref, ref, work=work, machine=machine(needed["load"] - 1))
    assert any("block by block from its files" in note for note in found.notes)
    assert found.ok
    work = work.model_copy(update={"runs_teacher": True})
    found = check(ref, ref, work=work, machine=machine(needed["load"] - 1))
    assert "Stage load needs" in found.problems[0]
    nothing = machine(needed["sensitivity (streaming)"] - 1)
    assert "Stage load needs" in check(ref, ref, machine=nothing).problems[0]


def test_disk_shortage_is_a_problem(pair):
    found = check(*pair, machine=machine(disk_free=1000))
    assert "of disk are needed, but 1.00 kB are free" in found.problems[-1]
    assert any("sensitivity (full map) needs about" in s and "of disk" in s for s in found.notes)


def published(n_layers, hidden_size, intermediate_size, n_heads, parameters):
    """A Llama 3 with these dimensions, from its config alone."""
    spec = ArchSpec(
        model_type="llama", n_layers=n_layers, hidden_size=hidden_size, n_heads=n_heads,
        intermediate_size=intermediate_size, n_kv_heads=8, head_dim=hidden_size // n_heads,
        vocab_size=128_256, tied=False,
    )  # fmt: skip
    size = {"parameters": parameters, "bytes_on_disk": 2 * parameters}
    return resources.Size(spec=spec, format="safetensors", **size)


LARGE = published(80, 8192, 28672, 64, 70_553_706_496)
MEDIUM = published(32, 4096, 14336, 32, 8_030_261_248)


def test_a_teacher_of_70b_streams_in_20_gb_on_the_gpu_and_32_gb_beside_it():
    """States between blocks take 22 GB: on disk where half of the memory does not hold them."""
    work = Work(dtype="bfloat16", n_seed_samples=32, max_tokens=512)

    def streamed(**given):
        stages = resources.estimate_stages(LARGE, MEDIUM, work, machine(**given))
        return next(need for need in stages if need.stage == "sensitivity (streaming)")

    tight = streamed(memory=20 * 10**9, device="cuda:0", ram_free=32 * 10**9)
    assert tight.fits
    assert tight.disk_needed == 32 * 512 * 8192 * 82 * 2
    roomy = streamed(memory=20 * 10**9, device="cuda:0", ram_free=64 * 10**9)
    assert roomy.fits
    assert roomy.disk_needed == 0
    assert roomy.ram_needed == tight.ram_needed + tight.disk_needed
    assert streamed(memory=32 * 10**9, ram_free=32 * 10**9).fits, "on the CPU alone"
    short = streamed(memory=20 * 10**9, device="cuda:0", ram_free=32 * 10**9, disk_free=10**9)
    assert not short.fits


def test_training_holds_the_student_twice_where_there_is_room_and_a_teacher_that_an_arm_runs():
    def needed(memory=10**12, **more):
        work = Work(dtype="bfloat16", max_tokens=8, **more)
        stages = resources.estimate_stages(LARGE, MEDIUM, work, machine(memory, device="cuda:0"))
        return next(need.bytes_needed for need in stages if need.stage == "training")

    student = 4 * MEDIUM.parameters  # float32, in whatever number format sensitivity is measured
    assert 2 * student < needed() < 2.2 * student
    assert student < needed(80 * 10**9) < 1.2 * student, "half of what is left has no room for it"
    half = needed(train_dtype="bfloat16")
    assert student < half < 1.2 * student, "twice half"
    assert needed(runs_teacher=True) == needed() + 4 * LARGE.parameters
    assert needed(trains_all=True) == needed() + 3 * student, "gradients and two moments"


def test_a_student_of_8b_trains_in_bfloat16_on_24_gb():
    work = Work(
        dtype="bfloat16", train_dtype="bfloat16", checkpointed=True, batch_size=16, max_tokens=512
    )
    on = machine(24 * 10**9, device="cuda:0", ram_free=64 * 10**9)
    stages = resources.estimate_stages(LARGE, MEDIUM, work, on)
    training = next(need for need in stages if need.stage == "training")
    assert training.fits
    assert 2 * MEDIUM.parameters < training.bytes_needed <= 24 * 10**9


def test_training_needs_what_a_batch_in_parts_does(tiny):
    """More samples than find room are computed in parts, so that they need no more memory."""
    ref = parse_ref(str(tiny(num_hidden_layers=6)))

    def needed(n, memory, **more):
        work = Work(batch_size=n, **more)
        stages = check(ref, ref, work=work, machine=machine(memory, device="cuda:0")).stages
        return next(need.bytes_needed for need in stages if need.stage == "training")

    plenty, one = [needed(n, 10**12) for n in (1, 2, 64)], needed(1, 10**6)
    assert plenty[0] < plenty[1] < plenty[2]
    assert needed(64, 10**6) == needed(10**4, 10**6) < plenty[2]
    weights = 4 * load_model(ref).num_parameters()
    assert one == plenty[0] - weights, "one sample is the least, and one student"
    assert needed(64, 10**12, checkpointed=True) < plenty[2] / 2


def test_a_gpu_needs_its_own_memory_and_the_machines_to_load(pair):
    """Weights pass through the machine's memory; what is computed stays on the GPU."""
    gpu = machine(device="cuda:0", ram_free=1000)
    whole = Work(runs_teacher=True)
    found = check(*pair, machine=gpu, work=whole)
    assert "Stage load needs about " in found.problems[0]
    assert "of memory, but 1.00 kB are free" in found.problems[0]
    full = next(s for s in found.stages if s.stage == "sensitivity (full map)")
    assert full.ram_needed < full.bytes_needed
    small = check(*pair, machine=machine(memory=1000, device="cuda:0"), work=whole)
    assert "of memory on cuda:0, but 1.00 kB are free" in small.problems[0]


def test_time_is_operations_over_the_measured_rate(tiny):
    """By hand, with one rate at a time and all others infinite."""
    ref = parse_ref(str(tiny()))
    work = Work(n_seed_samples=3, max_tokens=50, steps=7, batch_size=2, trainings=5)

    def seconds(flops, bandwidth, call):
        speed = Speed(device="cpu", flops={"float32": flops}, bandwidth=bandwidth, call=call)
        stages = check(ref, ref, work=work, machine=machine(speed=speed)).stages
        return {s.stage: s.seconds for s in stages}

    n = load_model(ref).num_parameters()
    found = seconds(1e6, 1e30, 0.0)
    assert found["sensitivity (sums)"] == pytest.approx(6 * n * 3 * 50 / (1e6 * resources._REACHED))
    assert found["sensitivity (streaming)"] / found["sensitivity (sums)"] == pytest.approx(8 / 6)
    assert found["training"] == pytest.approx(4 * n * 7 * 2 * 50 * 5 / (1e6 * resources._REACHED))
    work = work.model_copy(update={"whole_trainings": 2})
    both = seconds(1e6, 1e30, 0.0)["training"]
    assert both == pytest.approx(found["training"] * (3 * 4 + 2 * 6) / (5 * 4))
    assert seconds(1e30, 1e6, 0.0)["sensitivity (sums)"] == pytest.approx(24 * n * 3 / 1e6)
    assert seconds(1e30, 1e30, 1.0)["training"] == pytest.approx(7 * 5 * 2 * 200)
    assert all(s.seconds is None for s in check(ref, ref).stages), "no rate, no time"
    disk = machine(reads=1e3, speed=Speed(device="cpu", flops={}, bandwidth=1e4, call=0.0))
    [load] = [s for s in check(ref, ref, work=work, machine=disk).stages if s.stage == "load"]
    stored = sum(path.stat().st_size for path in Path(ref.source).glob("*.safetensors"))
    assert load.seconds == pytest.approx(stored / 1e3 + (stored + 2 * 4 * n) / 1e4)
    packed = resources.Size(spec=read_spec(ref), format="gguf", parameters=n, bytes_on_disk=stored)
    assert resources.estimate_stages(packed, packed, work, disk)[1].seconds is None


def test_no_text_is_longer_than_the_models_take(pair):
    short = check(*pair, work=Work(max_tokens=64)).stages
    found = check(*pair, work=Work(max_tokens=512))
    assert found.stages == short, "the configs say 64"
    assert found.work.max_tokens == 64


def test_every_matrix_says_whether_it_can_be_extracted(pair, tiny):
    rows = {row.role: row for row in check(*pair).roles}
    assert all(row.fits for row in rows.values())
    assert (rows["k"].teacher_shape, rows["k"].student_shape) == ((16, 32), (8, 16))
    phi, gpt = (parse_ref(str(tiny(kind))) for kind in ("phi3", "gpt2"))
    rows = {row.role: row for row in check(phi, gpt).roles}
    assert (rows["gate"].fits, rows["gate"].reason) == (False, "the student has none")
    assert rows["k"].reason == "the student's is larger: 32 × 32 > 16 × 32"
    assert rows["q"].teacher_module == "model.layers.0.self_attn.qkv_proj.q"
    assert rows["head"].reason == "tied to the embedding"
    other = parse_ref(str(tiny(vocab_size=48, **STUDENT)))
    rows = {row.role: row for row in check(pair[0], other).roles}
    assert rows["embed"].reason == "vocabularies of 40 and 48 tokens"


def test_a_tokenizer_with_ids_beyond_the_embedding_is_a_problem(pair, tiny_copy):
    folder = tiny_copy(**STUDENT)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"a": 13', '"a": 400'))
    found = check(pair[0], parse_ref(str(folder)))
    assert "gives 'a' the id 400, but the embedding has only 40 rows" in found.problems[0]


def test_vocabularies_are_compared_by_their_hash(pair, tiny_copy):
    found = check(*pair)
    assert found.teacher.vocabulary == found.student.vocabulary
    assert len(found.teacher.vocabulary) == 64


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
    estimated = activation_bytes(check(ref, ref).teacher.spec, 64, 4)
    assert 0.5 < estimated / measured < 2, (estimated, measured)
