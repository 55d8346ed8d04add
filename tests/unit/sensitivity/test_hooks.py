import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from benchmarks import published
from nuggets.errors import BadInput, Cancelled, Damaged, NonFinite, NuggetsError
from nuggets.models.architecture import ArchSpec
from nuggets.models.references import parse_ref
from nuggets.progress import InMemoryProgress
from nuggets.sensitivity import hooks
from nuggets.sensitivity.accumulate import Accumulator
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Fisher, Magnitude, RandomScore, ThetaGrad
from nuggets.sensitivity.streaming import stream_sensitivity


def tiny(tied=False, dtype=torch.float32):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=31,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).to(dtype)
    return model, ArchSpec.from_config(json.loads(config.to_json_string()))


def samples(n=4, seed=0):
    generator = np.random.default_rng(seed)
    rows = [generator.integers(0, 31, size=generator.integers(6, 11)).tolist() for _ in range(n)]
    return [(ids, [-100] * 3 + ids[3:]) for ids in rows]


@pytest.mark.parametrize("tied", [False, True])
def test_hooks_equal_the_published_procedure_bit_for_bit(tied):
    model, spec = tiny(tied)
    expected = published.sensitivity(model, samples())
    found = compute_sensitivity(model, spec, samples())
    assert set(found.full) == {
        name.removesuffix(".weight") for name, s in expected.items() if s.ndim == 2
    }
    for module, values in found.full.items():
        np.testing.assert_array_equal(values, expected[f"{module}.weight"].numpy())
    for column, name in enumerate(found.parameters):
        total = float(expected[name].double().sum())
        assert found.totals[:, column].sum() == pytest.approx(total, rel=1e-6)


def test_one_weight_by_hand():
    # With one sample the score is |θ·g|; g by central differences, in large steps because
    # norms work in float32.
    model, spec = tiny(dtype=torch.float64)
    ids, labels = samples(1)[0]
    weight = model.model.layers[1].mlp.up_proj.weight
    found = compute_sensitivity(model, spec, [(ids, labels)])

    def loss():  # transformers computes its own loss in float32: too coarse for a difference
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]))

    with torch.no_grad():
        weight[3, 5] += 1e-2
        above = loss()
        weight[3, 5] -= 2e-2
        below = loss()
        weight[3, 5] += 1e-2
    expected = abs(float(weight[3, 5].detach()) * float(above - below) / 2e-2)
    assert found.full["model.layers.1.mlp.up_proj"][3, 5] == pytest.approx(expected, rel=2e-2)


def test_per_sample_scores_are_summed_not_the_gradient():
    # Two samples whose gradients cancel in part: |a| + |b| exceeds |a + b|.
    model, spec = tiny()
    both = compute_sensitivity(model, spec, samples(2))
    each = [compute_sensitivity(model, spec, [sample]) for sample in samples(2)]
    for module in both.rows:
        summed = each[0].rows[module] + each[1].rows[module]
        np.testing.assert_allclose(both.rows[module], summed, rtol=1e-5)
    np.testing.assert_allclose(both.totals, np.concatenate([e.totals for e in each]), rtol=1e-6)


def test_no_tensor_of_a_sample_outlives_it_on_a_cpu():
    """One per sample keeps what is freed around it apart, so that memory grows with samples."""
    scores = torch.arange(12.0).view(2, 2, 3)
    one, many = Accumulator("a.weight", False), Accumulator("a.weight", False)
    for score in scores:
        one.add(score)
    many.add_all(scores)
    for sums in (one, many):
        assert sums.per_sample == [15.0, 51.0]
        assert {type(number) for number in sums.per_sample} == {float}


def test_only_response_tokens_count():
    model, spec = tiny()
    ids, labels = samples(1)[0]
    changed = [-100] * 3 + [-100] * (len(ids) - 4) + ids[-1:]
    whole = compute_sensitivity(model, spec, [(ids, labels)])
    last = compute_sensitivity(model, spec, [(ids, changed)])
    assert not np.allclose(whole.totals, last.totals)


def test_sums_equal_the_full_map():
    model, spec = tiny()
    full = compute_sensitivity(model, spec, samples())
    sums = compute_sensitivity(model, spec, samples(), keep="sums")
    assert not sums.full
    for module in full.rows:
        np.testing.assert_allclose(sums.rows[module], full.full[module].sum(1), rtol=1e-5)
        np.testing.assert_allclose(sums.cols[module], full.full[module].sum(0), rtol=1e-5)
    np.testing.assert_array_equal(sums.totals, full.totals)
    with pytest.raises(BadInput, match="keep: full"):
        sums.matrix("lm_head")


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotations_that_depend_on_the_length_are_measured_one_by_one(kind):
    """Tables that change in place, and with the length: a short sample keeps its own."""
    torch.manual_seed(0)
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 31,
        "max_position_embeddings": 8,
    }
    if kind == "dynamic":
        config = LlamaConfig(**sizes, rope_parameters=rope)
        model = LlamaForCausalLM(config)
    else:
        rope |= {"short_factor": [1.0, 1.5], "long_factor": [4.0, 9.0]}
        sizes |= {"max_position_embeddings": 32, "original_max_position_embeddings": 8}
        config = Phi3Config(**sizes, rope_parameters=rope, pad_token_id=0)
        model = Phi3ForCausalLM(config)
    spec = ArchSpec.from_config(json.loads(config.to_json_string()))
    lengths = {len(ids) for ids, _ in samples(8)}
    assert min(lengths) <= 8 < max(lengths), "both tables are needed"
    alone = compute_sensitivity(model, spec, samples(8))
    together = compute_sensitivity(model, spec, samples(8), per_pass=8)
    np.testing.assert_array_equal(alone.totals, together.totals)


def test_accumulators_are_float32_when_the_model_is_bfloat16():
    model, spec = tiny(dtype=torch.bfloat16)
    found = compute_sensitivity(model, spec, samples(8))
    exact = published.sensitivity(model.float(), samples(8))
    for module, values in found.full.items():
        assert values.dtype == np.float32
        reference = exact[f"{module}.weight"].numpy()
        assert np.abs(values - reference).sum() < 0.1 * reference.sum()
    # Sums of bfloat16 terms need more than bfloat16's 8 bits.
    many = found.full["lm_head"]
    assert (torch.from_numpy(many).bfloat16().float().numpy() != many).any()


def test_other_scores():
    model, spec = tiny()
    module = "model.layers.0.self_attn.q_proj"
    weight = model.get_submodule(module).weight.detach().numpy()
    magnitude = compute_sensitivity(model, spec, samples(2), Magnitude())
    np.testing.assert_allclose(magnitude.full[module], 2 * np.abs(weight), rtol=1e-6)
    fisher = compute_sensitivity(model, spec, samples(1), Fisher())
    theta = compute_sensitivity(model, spec, samples(1), ThetaGrad())
    np.testing.assert_allclose(
        np.abs(weight) * np.sqrt(fisher.full[module]), theta.full[module], rtol=1e-5
    )
    noise = [compute_sensitivity(model, spec, samples(1), RandomScore(seed=s)) for s in (1, 1, 2)]
    np.testing.assert_array_equal(noise[0].full[module], noise[1].full[module])
    assert (noise[0].full[module] != noise[2].full[module]).any()


def test_weights_gradients_and_mode_are_left_as_they_were():
    model, spec = tiny()
    model.train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    compute_sensitivity(model, spec, samples())
    assert model.training
    assert not model.lm_head.weight.requires_grad
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_layer_scores_contain_the_norms():
    model, spec = tiny()
    found = compute_sensitivity(model, spec, samples())
    expected = published.sensitivity(model, samples())
    by_hand = sum(
        float(values.double().sum()) for name, values in expected.items() if ".layers.1." in name
    )
    assert found.layer_scores[1] == pytest.approx(by_hand, rel=1e-6)
    assert any("layernorm" in name for name in found.parameters)


def test_a_silent_hook_fails_loudly():
    model, spec = tiny()
    layer = model.model.layers[1].mlp
    layer.forward = lambda hidden: hidden.detach() * 0  # its weights never see a gradient
    with pytest.raises(NuggetsError, match=r"parameters received no gradient for seed sample 0"):
        compute_sensitivity(model, spec, samples())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_naming_the_sample(value, counted):
    model, spec = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = value
    with pytest.raises(NonFinite, match="loss of seed sample 0 is nan"):
        compute_sensitivity(model, spec, samples())
    counted("F9", "sensitivity that is not finite", 1)


def test_no_samples_is_one_sentence():
    model, spec = tiny()
    with pytest.raises(BadInput, match="No seed samples"):
        compute_sensitivity(model, spec, [])


def test_cancel_leaves_no_hooks_behind():
    model, spec = tiny()
    progress = InMemoryProgress()
    progress.cancel()
    with pytest.raises(Cancelled):
        compute_sensitivity(model, spec, samples(), progress=progress)
    assert not model.lm_head.weight._post_accumulate_grad_hooks


def test_map_survives_disk(tmp_path):
    model, spec = tiny()
    found = compute_sensitivity(model, spec, samples(), meta={"label": "toy"})
    found.save(tmp_path)
    read = SensitivityMap.load(tmp_path)
    assert (read.spec, read.score, read.parameters) == (spec, "theta_grad", found.parameters)
    assert read.meta == {"label": "toy"}
    np.testing.assert_array_equal(read.totals, found.totals)
    assert list(read.full) == list(found.full)
    for module in found.full:
        np.testing.assert_array_equal(read.full[module], found.full[module])
        np.testing.assert_array_equal(read.rows[module], found.rows[module])


@pytest.mark.parametrize("name", ["map.json", "map.safetensors"])
def test_a_truncated_map_is_called_damaged(tmp_path, name):
    model, spec = tiny()
    compute_sensitivity(model, spec, samples(1)).save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Damaged, match="compute it again"):
        SensitivityMap.load(tmp_path)


class Told(InMemoryProgress):
    """Keeps every step that is reported."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def progress(self, done, total, message="", **data):
        self.steps.append((done, total))


@pytest.mark.parametrize(("n", "per_pass"), [(5, 2), (4, 2), (3, 8)])
def test_every_pass_reports_the_samples_that_are_done(n, per_pass):
    told = Told()
    passes = [list(each) for each in hooks._passes(range(n), per_pass, told)]
    assert [i for each in passes for i in each] == list(range(n))
    ends = [min(per_pass * (i + 1), n) for i in range(len(passes))]
    assert told.steps == [(end, n) for end in ends]


def test_a_streamed_measurement_reports_each_of_its_steps_once(tmp_path):
    model, _ = tiny()
    model.save_pretrained(tmp_path)
    told = Told()
    stream_sensitivity(parse_ref(str(tmp_path)), samples(), progress=told)
    total = told.steps[0][1]
    assert total > 2 * 3  # every block forward and back, and more
    assert told.steps == [(done, total) for done in range(1, total + 1)]
