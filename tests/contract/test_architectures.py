"""What every architecture of the table can do, from preflight to cut, with alpha other than r."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from nuggets.alignment.measure import align_models
from nuggets.errors import BadInput
from nuggets.extraction.adapter import (
    inject,
    load_adapter,
    read_factors,
    save_adapter,
    stack_factors,
)
from nuggets.extraction.consistent import choose_consistent
from nuggets.extraction.cut import cut_model
from nuggets.extraction.factors import extract_factors
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.extraction.selectors import ConsistentSelector, WindowSelector
from nuggets.lens.measure import attribution, logit_lens
from nuggets.models.architecture import ARCHITECTURES
from nuggets.models.layout import place_of
from nuggets.models.loading import load_model
from nuggets.models.pair import Model, ModelPair, read_spec
from nuggets.models.references import parse_ref
from nuggets.preflight.headers import preflight
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.train.config import TrainConfig
from nuggets.train.export import save_model
from nuggets.train.finetune import finetune
from tests.architectures import EACH

STUDENT = {"hidden_size": 16, "intermediate_size": 48, "num_attention_heads": 2, "seed": 1}
LORA = LoraConfig(r=3, alpha=7)
SAMPLES = [
    ([3, 5, 7, 9, 11, 2], [-100, -100, -100, 9, 11, 2]),
    ([4, 6, 8, 10, 2], [-100, -100, -100, 10, 2]),
]
IDS = torch.tensor([[3, 14, 15, 9, 21, 6, 5, 35]])

each = pytest.mark.parametrize("kind", EACH)


def folders(tiny, kind):
    """A teacher of three layers with grouped heads where there are any, and a smaller student."""
    grouped = ARCHITECTURES[kind].grouped
    student = STUDENT | ({"num_key_value_heads": 1} if grouped else {})
    return tiny(kind, num_hidden_layers=3), tiny(kind, **student)


class Pair:
    """Both models loaded, and the teacher's map."""

    def __init__(self, tiny, kind):
        self.folders = folders(tiny, kind)
        self.refs = [parse_ref(str(folder)) for folder in self.folders]
        self.teacher, self.student = (load_model(ref) for ref in self.refs)
        self.specs = [read_spec(ref) for ref in self.refs]
        self.map = compute_sensitivity(self.teacher, self.specs[0], SAMPLES)

    def factors(self, selector=None, **options):
        extraction = ExtractionConfig(matrices=selector or WindowSelector(), **options)
        plan = make_plan(self.map, self.specs[1], extraction, LORA)

        def weights(module):
            return self.teacher.get_submodule(module).weight.detach()

        return plan, extract_factors(weights, plan)


@pytest.fixture(scope="module")
def pairs(tiny):
    made = {}

    def get(kind) -> Pair:
        if kind not in made:
            made[kind] = Pair(tiny, kind)
        return made[kind]

    return get


@each
def test_preflight_finds_nothing_wrong(kind, tiny):
    models = (Model(parse_ref(str(folder))) for folder in folders(tiny, kind))
    found = preflight(ModelPair(*models))
    assert found.problems == ()
    teacher = AutoModelForCausalLM.from_pretrained(folders(tiny, kind)[0])
    assert found.teacher is not None
    assert found.teacher.parameters == teacher.num_parameters()


@each
def test_sensitivity_is_what_a_plain_loop_over_the_untouched_model_gives(kind, pairs):
    """The loop knows nothing of roles: it sums |θ·g| of the parameters as they are stored."""
    pair = pairs(kind)
    model = AutoModelForCausalLM.from_pretrained(pair.folders[0]).eval()
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for ids, labels in SAMPLES:
        model.zero_grad()
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            sums[name] += (p.detach() * p.grad).abs()
    spec = pair.specs[0]
    for module, _, _ in spec.modules():
        name, rows, transposed = place_of(spec, module)
        expected = sums[f"{name}.weight"].T if transposed else sums[f"{name}.weight"]
        expected = expected if rows is None else expected[torch.from_numpy(rows)]
        np.testing.assert_allclose(pair.map.full[module], expected, rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(pair.map.rows[module], expected.sum(1), rtol=2e-4)
        np.testing.assert_allclose(pair.map.cols[module], expected.sum(0), rtol=2e-4)
    total = sum(float(s.double().sum()) for s in sums.values())
    np.testing.assert_allclose(pair.map.totals.sum(), total, rtol=1e-5)


@each
def test_the_lens_ends_in_what_the_model_says_and_the_attribution_is_the_map_of_each_token(
    kind, pairs
):
    """The untouched model: its own logits, and one gradient per answer token."""
    pair = pairs(kind)
    model, spec = AutoModelForCausalLM.from_pretrained(pair.folders[0]).eval(), pair.specs[0]
    ids, labels = SAMPLES[0]
    at = [i - 1 for i, label in enumerate(labels) if label >= 0]
    chances = model(torch.tensor([ids])).logits[0, at].log_softmax(-1)
    ranks, probabilities, best = logit_lens(pair.teacher, spec, SAMPLES[0])
    assert ranks.shape == (spec.n_layers + 1, len(at))
    targets = torch.tensor(ids)[[i + 1 for i in at]]
    own = chances.gather(1, targets[:, None])
    torch.testing.assert_close(probabilities[-1], own[:, 0].exp(), rtol=1e-4, atol=1e-7)
    assert torch.equal(ranks[-1], (chances > own).sum(1) + 1)
    assert torch.equal(best[-1], chances.argmax(-1))
    found = attribution(pair.teacher, spec, SAMPLES[0])
    for token, chance in enumerate(own[:, 0]):
        model.zero_grad()
        chance.backward(retain_graph=True)
        sums = torch.zeros(spec.n_layers, dtype=torch.float64)
        for name, p in model.named_parameters():
            if (layer := spec.layer_of(name)) is not None:
                assert p.grad is not None
                sums[layer] += (p.detach() * p.grad).abs().double().sum()
        torch.testing.assert_close(found[:, token], sums, rtol=1e-4, atol=0)


@each
def test_row_and_column_sums_alone_agree_with_the_full_map(kind, pairs):
    pair = pairs(kind)
    sums = compute_sensitivity(pair.teacher, pair.specs[0], SAMPLES, keep="sums")
    assert list(sums.rows) == list(pair.map.rows)
    for module in pair.map.rows:
        np.testing.assert_allclose(sums.rows[module], pair.map.rows[module], rtol=1e-5)
        np.testing.assert_allclose(sums.cols[module], pair.map.cols[module], rtol=1e-5)


@each
@pytest.mark.parametrize("selector", [WindowSelector(), ConsistentSelector()])
def test_every_role_is_planned_and_injected_without_changing_step_zero(kind, selector, pairs):
    pair = pairs(kind)
    plan, factors = pair.factors(selector)
    own = ARCHITECTURES[kind].roles
    assert [item.role for item in plan.items] == [*own, *own]
    student = copy.deepcopy(pair.student)
    expected = student(IDS).logits
    peft = inject(student, factors, LORA)
    torch.testing.assert_close(peft(IDS).logits, expected, atol=5e-5, rtol=0)
    with peft.disable_adapter():  # and the base was really changed
        assert (peft(IDS).logits - expected).abs().max() > 1e-2


@each
def test_a_trained_adapter_loads_on_the_untouched_student_and_merges(kind, pairs, tmp_path):
    """Loaded with plain transformers and PEFT, which know nothing of roles."""
    pair = pairs(kind)
    _, factors = pair.factors()
    peft = inject(copy.deepcopy(pair.student), factors, LORA)
    log = finetune(peft, SAMPLES, TrainConfig(steps=2, batch_size=2, lr=3e-2), 0)
    assert len(log.losses) == 2
    peft.eval()
    expected = peft(IDS).logits
    assert (expected - pair.student(IDS).logits).abs().max() > 1e-2, "the test needs training"

    scales = {name: LORA.scale(factor.rank) for name, factor in factors.items()}
    stacked = stack_factors(read_factors(peft), factors)
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    adapter.mkdir()
    save_adapter(adapter, stacked, scales, pair.specs[1], str(pair.folders[1]), "card")
    plain = AutoModelForCausalLM.from_pretrained(pair.folders[1])
    loaded = PeftModel.from_pretrained(plain, str(adapter)).eval()
    torch.testing.assert_close(loaded(IDS).logits, expected, atol=2e-4, rtol=0)

    save_model(peft, AutoTokenizer.from_pretrained(pair.folders[1]), merged, "card")
    again = load_model(parse_ref(str(merged)))
    torch.testing.assert_close(again(IDS).logits, expected, atol=2e-4, rtol=0)


@each
def test_an_adapter_of_the_embedding_loads_on_the_untouched_student(kind, pairs, tmp_path):
    """Tied or not, stored transposed or not; beside a role that may share a module."""
    pair = pairs(kind)
    roles = ("embed", "v") if pair.specs[1].tied else ("embed", "v", "head")
    _, factors = pair.factors(roles=roles)
    peft = inject(copy.deepcopy(pair.student), factors, LORA)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.3)
    expected = peft.eval()(IDS).logits
    assert (expected - pair.student(IDS).logits).abs().max() > 1e-2
    scales = {name: LORA.scale(factor.rank) for name, factor in factors.items()}
    stacked = stack_factors(read_factors(peft), factors)
    save_adapter(tmp_path, stacked, scales, pair.specs[1], str(pair.folders[1]), "card")
    loaded = load_adapter(AutoModelForCausalLM.from_pretrained(pair.folders[1]), tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).logits, expected, atol=2e-4, rtol=0)


@each
def test_half_precision_shards_load_split_and_are_measured(kind, pairs, tiny_copy):
    """bfloat16 weights in several files: the same numbers, rounded once."""
    folder = tiny_copy(kind, num_hidden_layers=3)
    model = AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    ref = parse_ref(str(folder))
    loaded = load_model(ref, "bfloat16")
    spec = read_spec(ref)
    whole = pairs(kind).teacher.get_submodule(spec.module("k", 2)).weight
    assert torch.equal(loaded.get_submodule(spec.module("k", 2)).weight, whole.bfloat16())
    map = compute_sensitivity(loaded, spec, SAMPLES, keep="sums")
    np.testing.assert_allclose(map.layer_scores, pairs(kind).map.layer_scores, rtol=0.2)


@each
def test_a_full_cut_is_the_teacher_and_a_smaller_one_reloads(kind, pairs, tmp_path):
    pair = pairs(kind)
    teacher, student = pair.specs
    whole = choose_consistent(pair.map, teacher, range(teacher.n_layers))
    assert torch.equal(cut_model(pair.teacher, whole)(IDS).logits, pair.teacher(IDS).logits)

    small = cut_model(pair.teacher, choose_consistent(pair.map, student, [0, 2]))
    save_model(small, AutoTokenizer.from_pretrained(pair.folders[0]), tmp_path, "card")
    ref = parse_ref(str(tmp_path))
    assert read_spec(ref) == student
    torch.testing.assert_close(load_model(ref)(IDS).logits, small(IDS).logits, atol=1e-5, rtol=0)


def test_a_cut_keeps_the_roles_rows_together(pairs):
    """Row by row: what the cut's fused module stores is what the teacher stored for those heads."""
    pair = pairs("gpt_neox")
    choice = choose_consistent(pair.map, pair.specs[1], [0, 2])
    small = cut_model(pair.teacher, choice)
    for role in "qkv":
        rows = choice.index("q_heads", 1)
        large = pair.teacher.get_submodule(pair.specs[0].module(role, 2)).weight
        expected = large[torch.from_numpy(rows)][:, torch.from_numpy(choice.resid)]
        assert torch.equal(small.get_submodule(pair.specs[1].module(role, 1)).weight, expected)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_a_width_that_heads_do_not_fill_is_refused(kind, pairs):
    pair = pairs(kind)
    choice = choose_consistent(pair.map, pair.specs[1], [0, 1])
    fewer = type(choice)(**{**vars(choice), "resid": choice.resid[:-3]})
    with pytest.raises(BadInput, match="2 heads of 8 make 16, not 13"):
        cut_model(pair.teacher, fewer)


def test_grouped_heads_become_single_ones_by_whole_groups(pairs, tiny):
    """GQA → MHA: every kept query head keeps the key/value head that it attended with."""
    teacher = pairs("llama")
    student = read_spec(parse_ref(str(tiny("llama", **STUDENT, num_key_value_heads=2))))
    for selector in (WindowSelector(), ConsistentSelector()):
        plan = make_plan(teacher.map, student, ExtractionConfig(matrices=selector), LORA)
        shapes = {item.role: item.shape for item in plan.items}
        assert (shapes["q"], shapes["k"]) == ((16, 16), (16, 16))
    choice = choose_consistent(teacher.map, student, [0, 1])
    for heads, kv_heads in zip(choice.heads, choice.kv_heads, strict=True):
        assert (heads // teacher.specs[0].group).tolist() == kv_heads.tolist()


def test_single_heads_do_not_become_grouped_ones(tiny):
    """MHA → GQA: two query heads would share keys that neither was trained with."""
    teacher = parse_ref(str(tiny("llama", num_key_value_heads=4)))
    student = read_spec(parse_ref(str(tiny("llama", **STUDENT, num_key_value_heads=1))))
    map = compute_sensitivity(load_model(teacher), read_spec(teacher), SAMPLES)
    assert not make_plan(map, student, ExtractionConfig(), LORA).plain, "windows look at no heads"
    whole = make_plan(map, student, ExtractionConfig(matrices=ConsistentSelector()), LORA)
    assert {item.role for item in whole.items} == {"gate", "up", "down"}
    assert {item.role for item in whole.plain} == {"q", "k", "v", "o"}
    assert "2 query heads per key/value head and the teacher only 1" in whole.plain_sentence


def test_models_with_and_without_a_gate_share_the_other_roles(pairs):
    teacher, student = pairs("phi3"), pairs("gpt2")
    plan = make_plan(teacher.map, student.specs[1], ExtractionConfig(), LORA)
    assert {item.role for item in plan.items} == {"q", "k", "v", "o", "up", "down"}
    assert "The student has no gate" in plan.notes[0]
    back = make_plan(student.map, teacher.specs[1], ExtractionConfig(), LORA)
    assert {(item.role, item.reason) for item in back.plain} == {("gate", "the teacher has none")}
    with pytest.raises(BadInput, match="the student has none of these roles"):
        make_plan(teacher.map, student.specs[1], ExtractionConfig(roles=("gate",)), LORA)
    report = align_models(
        teacher.teacher, teacher.specs[0], student.student, student.specs[1],
        {"digits": SAMPLES}, {"digits": SAMPLES},
        {"digits": (teacher.map, compute_sensitivity(student.student, student.specs[1], SAMPLES))},
    )  # fmt: skip
    assert {name: m.shape for name, m in report.matrices.items() if name in ("cka", "profile")} == {
        "cka": (3, 2),
        "profile": (3, 2),
    }
