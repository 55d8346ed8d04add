"""What every arm promises, checked on every arm."""

from __future__ import annotations

import copy
import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM

from nuggets.data.samples import encode
from nuggets.errors import BadInput
from nuggets.extraction.adapter import load_adapter
from nuggets.extraction.layers import LastLayers
from nuggets.extraction.plan import ExtractionConfig, LoraConfig
from nuggets.extraction.selectors import ConsistentSelector
from nuggets.frozen import Frozen, members
from nuggets.models.architecture import LAYER_ROLES
from nuggets.models.forward import evaluation, pad_right
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.recipe import load_recipe
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.scores import Contrast, Specific
from nuggets.statistics.verdict import ArmRole
from nuggets.train import untouched
from nuggets.train.arms.aligned import Hints, Memories, Regressed, States
from nuggets.train.arms.family import Arm, Distill, Graft, Paper, Pissa, TeacherLabels, WrongTask
from nuggets.train.arms.initialisers import Initialiser
from nuggets.train.arms.lexicon import Lexicon, LexiconControl
from nuggets.train.cells import CellResult, run_cell
from nuggets.train.untouched import Untouched
from tests.unit.train.tiny_lab import letters, load, make_lab

ALIGNED = (Memories, States, Hints, Regressed)
SMALL = {
    **{kind: {"n_general": 8} for kind in ("memories", "states", "regressed")},
    "hints": {"n_general": 8, "steps": 3, "batch": 4},
    "teacher_labels": {"n": 6},
    "graft": {"heal_steps": 3, "heal_batch": 4, "heal_samples": 8},
    "lexicon": {"general_samples": 8},
}
ARMS = [cls(**SMALL.get(kind, {})) for kind, cls in members(Arm).items()]
ARMS += [cls(control=True, **SMALL[cls.model_fields["kind"].default]) for cls in ALIGNED]
ARMS += [Graft(origin=origin, **SMALL["graft"]) for origin in ("first", "random", "permuted")]
ARMS += [Lexicon(control=own, **SMALL["lexicon"]) for own in get_args(LexiconControl)]
OWN_WEIGHTS = ("full", "graft", "hints", "lexicon")
"""Arms whose export is a whole model."""
TEST = letters(5, 99)

each_arm = pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)


def each_of(*kinds):
    """Arms of these kinds alone, where the others would show the same."""
    arms = [arm for arm in ARMS[: len(members(Arm))] if arm.kind in kinds]
    assert len(arms) == len(kinds)
    return pytest.mark.parametrize("arm", arms, ids=lambda arm: arm.name)


@pytest.fixture(scope="module")
def lab(tiny):
    return make_lab(tiny)


@pytest.fixture(scope="module")
def before(lab):
    """Both models as they were before any arm was built."""
    return state(lab.student), state(lab.teacher)


@pytest.fixture(scope="module")
def trained(lab, before):
    """Every arm trained once with seed 0, when it is asked for."""
    return Trained(lab)


class Trained(dict[str, CellResult]):
    """The arms trained so far, by name."""

    def __init__(self, lab):
        self.lab = lab

    def __missing__(self, name):
        arm = next(arm for arm in ARMS if arm.name == name)
        return self.setdefault(name, cell(self.lab, arm))


def cell(lab, arm, seed=0) -> CellResult:
    return run_cell(lab, arm, seed, test=TEST)


def logits(lab, model):
    with evaluation(model):
        return model(input_ids=pad_right(lab.encode(TEST), "cpu")[0]).logits.clone()


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_kinds_and_names_are_unique():
    assert len(members(Arm)) == len(get_args(get_args(Arm)[0]))
    assert len({arm.name for arm in ARMS}) == len(ARMS)


@each_arm
def test_an_arm_is_described_and_survives_its_json(arm):
    assert isinstance(arm, Frozen)
    assert arm.role in get_args(ArmRole)
    assert arm.title
    assert type(arm).__doc__
    assert TypeAdapter(Arm).validate_json(arm.model_dump_json()) == arm
    renamed = arm.model_copy(update={"label": "mine"})
    assert renamed.name == "mine"


@each_arm
def test_student_logits_are_unchanged_at_step_zero_with_alpha_other_than_r(lab, trained, arm):
    assert lab.lora.alpha != lab.lora.r
    found = trained[arm.name].record.step0_difference
    if trained[arm.name].trainee.own_base:
        assert found is None
    elif not arm.keeps_function:
        assert found > 1e-3
    else:
        trainee = arm.build(lab, 0)
        torch.testing.assert_close(
            logits(lab, trainee.model), logits(lab, lab.student), rtol=0, atol=1e-4
        )
        assert found is not None
        assert found < 1e-4


@each_of("paper", "states", "full", "graft", "lexicon")
def test_where_one_student_finds_room_an_arm_gives_the_same_bits_and_holds_no_second(
    lab, trained, arm, monkeypatch
):
    handed: list[weakref.ref] = []

    def load():
        gc.collect()
        assert not [student for student in handed if student() is not None]
        student = copy.deepcopy(lab.student)
        handed.append(weakref.ref(student))
        return student

    monkeypatch.setattr(untouched, "free_memory", lambda device: 0)
    tight = replace(lab, untouched=Untouched(load=load), _cache={})
    found, expected = cell(tight, arm).record, trained[arm.name].record
    assert found.losses == expected.losses
    assert found.step0_difference == expected.step0_difference
    assert found.outcome.outcomes == expected.outcome.outcomes
    assert equal(state(tight.student), state(lab.student))
    keeps = isinstance(arm, Graft)  # which is cut from the teacher
    assert len(handed) == 1 if keeps else len(handed) > 1


def test_arms_that_change_the_students_weights_are_refused_in_bfloat16():
    for arm in ARMS[: len(members(Arm))]:
        own = [f"arms=[{{kind: {arm.kind}}}]", "train.dtype=bfloat16"]
        if arm.keeps_weights:
            assert load_recipe("quick", own).train.dtype == "bfloat16"
            continue
        with pytest.raises(BadInput, match=f"{arm.name} changes the student's own weights"):
            load_recipe("quick", own)


@each_of("plain", "paper")
def test_weights_in_bfloat16_stay_as_they_are(lab, arm, tmp_path):
    student = copy.deepcopy(lab.student).bfloat16()
    result = cell(replace(lab, untouched=Untouched(student), _cache={}), arm)
    trainee, found = result.trainee, result.record.step0_difference
    assert found < 0.01
    trained = logits(lab, trainee.model)
    result.save_weights(tmp_path, base="student", card="# A card")
    reloaded = load_adapter(copy.deepcopy(student), tmp_path)
    torch.testing.assert_close(logits(lab, reloaded), trained, rtol=0, atol=0.05)
    assert equal(state(trainee.model.unload()), state(student))


@each_arm
def test_the_export_reloads_and_agrees_with_the_trained_model(lab, trained, arm, tmp_path):
    result = trained[arm.name]
    result.save_weights(tmp_path, base="student", card="# A card")
    wanted = logits(lab, result.trainee.model)
    if (tmp_path / "adapter_config.json").is_file():
        reloaded = load_adapter(lab.fresh_student(), tmp_path)
    else:
        reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(lab, reloaded), wanted, rtol=0, atol=2e-4)
    assert (tmp_path / "README.md").read_text() == "# A card"
    if arm.trains:
        changed = (wanted - logits(lab, lab.student)).abs().max()
        assert changed > 1e-2, "the test needs a trained model"


@each_arm
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(lab, trained, arm):
    first = state(trained[arm.name].trainee.model)
    again, other = (state(cell(lab, arm, seed).trainee.model) for seed in (0, 1))
    assert equal(first, again)
    assert equal(first, other) == (not arm.trains)


def test_the_labs_models_are_untouched(lab, before, trained):
    assert all(trained[arm.name] for arm in ARMS)
    assert equal(state(lab.student), before[0])
    assert equal(state(lab.teacher), before[1])
    assert not lab.student.training
    assert not lab.teacher.training


@each_arm
def test_every_arm_gets_the_same_samples_and_steps(trained, arm):
    outcome = trained[arm.name].record.outcome
    extra = {"teacher_labels": 6, "states": 8, "hints": 8, "lexicon": 8}.get(arm.kind, 0)
    assert outcome.samples == (10 + extra if arm.trains else 0)
    assert outcome.steps == (4 if arm.trains else 0)
    assert (outcome.flops > 0) == arm.trains
    assert outcome.items == [item.id for item in TEST]
    assert (outcome.arm, outcome.role, outcome.seed) == (arm.name, arm.role, 0)


def test_adapter_arms_have_the_same_capacity(lab, trained):
    counts = {
        arm.name: trained[arm.name].record.outcome.trainable_parameters
        for arm in ARMS
        if not trained[arm.name].trainee.whole
    }
    assert set(counts.values()) == {lab.plan().trainable_parameters}


def test_ranks_chosen_by_energy_are_shared_by_all_arms(tiny):
    lab = make_lab(tiny, LoraConfig(r=8, energy=0.6))
    ranks = lab.ranks()
    assert len(set(ranks.values())) > 1
    for arm in ARMS:
        trainee = arm.build(lab, 0)
        if not trainee.whole:
            layers = dict(trainee.model.base_model.model.named_modules())
            found = {name: layers[name].r["default"] for name in ranks}
            assert found == ranks, arm.name


@pytest.mark.parametrize(
    "tied", [pytest.param(False, marks=pytest.mark.slow), True], ids=["untied", "tied"]
)
@pytest.mark.parametrize(
    "arm",
    [
        arm
        for arm in ARMS
        if arm.trains and not isinstance(arm, Initialiser) and arm.kind not in OWN_WEIGHTS
    ],
    ids=lambda a: a.name,
)
def test_embedding_and_head_are_exported_too(tiny, tmp_path, arm, tied):
    extraction = ExtractionConfig(roles=("embed", "q", "down", "head"))
    lab = make_lab(tiny, LoraConfig(r=4, alpha=6), extraction, tie_word_embeddings=tied)
    result = cell(lab, arm)
    assert result.record.step0_difference < 1e-4 or not arm.keeps_function
    result.save_weights(tmp_path, base="student", card="")
    reloaded = load_adapter(lab.fresh_student(), tmp_path)
    torch.testing.assert_close(
        logits(lab, reloaded), logits(lab, result.trainee.model), rtol=0, atol=2e-4
    )


def test_the_control_of_a_consistent_choice_is_a_random_consistent_choice(tiny):
    extraction = ExtractionConfig(matrices=ConsistentSelector())
    lab = make_lab(tiny, extraction=extraction)
    made = next(arm for arm in ARMS if arm.kind == "random_window").build(lab, 0)
    random = ExtractionConfig(matrices=ConsistentSelector(order="random", seed=0))
    for name, factor in lab.factors(lab.plan(random)).items():
        assert torch.equal(made.initial[name].a, factor.a)


def test_arms_that_cannot_work_say_so(tiny, lab):
    import copy
    import dataclasses

    unmeasured = dataclasses.replace(lab, other_map=None)
    for arm in (WrongTask(), Paper(task="copy")):
        with pytest.raises(BadInput, match="sensitivity on copy"):
            arm.build(unmeasured, 0)
    words = copy.deepcopy(lab.tokenizer)
    words.add_tokens(["zebra"])
    with pytest.raises(BadInput, match="37 tokens in the teacher and 36 in the student"):
        Distill().build(dataclasses.replace(lab, teacher_tokenizer=words), 0)
    endless = dataclasses.replace(lab, teacher=load(tiny("llama")).model)
    with pytest.raises(BadInput, match="finished none of its 6 answers"):
        TeacherLabels(n=6).build(endless, 0)
    embedded = make_lab(tiny, extraction=ExtractionConfig(roles=("embed", "q")))
    with pytest.raises(BadInput, match="no PiSSA for embeddings"):
        Pissa().build(embedded, 0)


def test_every_arm_learns_something_of_its_own(lab, trained):
    # In so small a teacher, random layers and another task may well pick the same windows, and
    # none of its answers ends, so that teacher_labels adds none (its labels: test_training.py).
    found = {
        arm.name: logits(lab, trained[arm.name].trainee.model)
        for arm in ARMS
        if arm.name not in ("random_layers", "wrong_task", "teacher_labels")
    }
    for first, second in combinations(found, 2):
        assert (found[first] - found[second]).abs().max() > 1e-4, (first, second)


def test_an_arms_own_extraction_is_that_of_a_recipe_with_it(lab):
    last = lab.extraction.model_copy(update={"layers": LastLayers()})
    wanted = lab.factors(lab.plan(last))
    found = Paper(layers=LastLayers(), label="last").build(lab, 0).initial
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name].a, wanted[name].a) for name in wanted)


def test_roles_left_out_of_an_arm_start_as_plain_lora_does(lab):
    arm = Paper(only=("gate", "up", "down"), label="ffn").build(lab, 0)
    assert {name.split(".")[-1] for name in arm.initial} == {"gate_proj", "up_proj", "down_proj"}
    trained = {n for n, p in arm.model.named_parameters() if p.requires_grad and "lora_B" in n}
    assert len(trained) == len(lab.ranks())
    start = dict(arm.model.named_parameters())
    untouched = {n for n in trained if "self_attn" in n}
    assert all(not start[n].any() for n in untouched)
    torch.testing.assert_close(logits(lab, arm.model), logits(lab, lab.student), rtol=0, atol=1e-4)


def test_an_arm_located_by_another_task_uses_that_tasks_map(lab):
    import dataclasses

    asked = []

    def other_map(task, score):
        asked.append(task)
        return lab.map if task == "mine.jsonl" else lab.other_map(task, score)

    other = dataclasses.replace(lab, other_map=other_map, unlike="add")
    arms = Paper(task="add", label="from add"), WrongTask(), WrongTask(task="copy")
    found, wanted, named = (arm.build(other, 0).initial for arm in arms)
    assert all(torch.equal(found[name].b, wanted[name].b) for name in wanted)
    assert asked == ["add", "copy"]  # each measured once
    own = lab.factors()
    assert any(not torch.equal(named[name].b, own[name].b) for name in own)
    from_file = WrongTask(task="mine.jsonl").build(other, 0).initial
    assert all(torch.equal(from_file[name].b, own[name].b) for name in own)


def test_an_arm_with_a_score_of_its_own_is_located_by_that_map(lab):
    import dataclasses

    asked = []

    def other_map(task, score):
        asked.append((task, score))
        return lab.other_map(task, score)

    other = dataclasses.replace(lab, other_map=other_map)
    found = Paper(score=Specific(q=0.1), label="specific").build(other, 0).initial
    wanted = WrongTask().build(lab, 0).initial
    assert all(torch.equal(found[name].b, wanted[name].b) for name in wanted)
    graft = Graft(score=Contrast(), task="copy", heal_steps=0)
    cut = graft.build(other, 0).model.state_dict()
    by_map = Graft(heal_steps=0).build(dataclasses.replace(lab, map=lab.other_map(None, None)), 0)
    same = dataclasses.replace(by_map).model.state_dict()
    assert all(torch.equal(cut[name], same[name]) for name in cut if "lora" not in name)
    assert asked == [(None, Specific(q=0.1)), ("copy", Contrast())]


def test_a_teacher_that_is_the_student_has_nothing_to_add_to_it(lab):
    import dataclasses

    encoded = [encode(sample, lab.tokenizer) for sample in letters(4, 7)]
    own = compute_sensitivity(lab.student, lab.student_spec, encoded)
    twin = dataclasses.replace(
        lab, teacher=lab.student, teacher_spec=lab.student_spec, map=own, _cache={}
    )

    def change(lab):
        started = Regressed(n_general=64).build(lab, 0).model
        return float((logits(lab, started) - logits(lab, lab.student)).norm())

    assert change(twin) < 0.1 * change(lab)


@pytest.mark.parametrize(
    ("arm", "teacher", "student", "roles", "sentence"),
    [
        (Memories(), "gpt2", "llama", LAYER_ROLES, "the teacher, a gpt2, has none"),
        (Memories(control=True), "llama", "gpt_neox", LAYER_ROLES, "the student, a gpt_neox, has"),
        (Memories(), "llama", "llama", ("q", "down"), "extraction.roles lacks gate, up. Add gate"),
        (Regressed(), "gpt2", "gpt2", ("q", "up"), "extraction.roles lacks down. Add down"),
        (Memories(), "llama", "phi3", LAYER_ROLES, None),
        (Regressed(), "gpt2", "gpt2", ("q", "down"), None),
    ],
)
def test_aligned_arms_are_refused_where_there_is_nothing_to_align(
    arm, teacher, student, roles, sentence, tiny
):
    specs = [read_spec(parse_ref(str(tiny(kind)))) for kind in (teacher, student)]
    expected = pytest.raises(BadInput, match=sentence) if sentence else nullcontext()
    with expected:
        arm.check(*specs, roles)


def test_a_graft_has_the_teachers_rows_where_one_tokenizer_has_two_numbers_of_them(tiny, tmp_path):
    lab = make_lab(tiny, vocab_size=48)  # the teacher has 40, and there are 36 words
    found = cell(lab, Graft(**SMALL["graft"]))
    rows = found.trainee.model.get_input_embeddings().weight.shape[0]
    assert (lab.student_spec.vocab_size, rows) == (48, 40)
    found.save_weights(tmp_path, "student", "card")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(lab, saved), logits(lab, found.trainee.model.merge_and_unload()))
    more = replace(lab, teacher_spec=lab.teacher_spec.model_copy(update={"vocab_size": 35}))
    with pytest.raises(BadInput, match="embedding of 35 rows does not hold all"):
        Graft().build(more, 0)


def test_a_graft_of_heads_that_do_not_fill_its_width_is_refused_before_it_is_cut(tiny):
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    specs = [read_spec(parse_ref(str(each))) for each in (tiny("gpt2"), tiny("llama", **sizes))]
    with pytest.raises(BadInput, match="2 heads of 8 make 16, not 24"):
        Graft().check(*specs, LAYER_ROLES)
