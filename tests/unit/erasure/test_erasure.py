"""Erasing weights: against plain loops over copies of the model, and by hand."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from nuggets.erasure import words
from nuggets.erasure.measure import Subject, means_over, zeroed
from nuggets.erasure.orders import Part, drawn_places, entries_by, least_first, parts_of
from nuggets.erasure.report import ErasureReport, combined_interval
from nuggets.erasure.streamed import StreamedSubject
from nuggets.errors import Cancelled, Damaged
from nuggets.models.architecture import ArchSpec
from nuggets.models.loading import load_model
from nuggets.models.pair import read_spec
from nuggets.models.references import parse_ref
from nuggets.models.streamed import StreamedModel
from nuggets.progress import InMemoryProgress
from nuggets.sensitivity.comparing import compare_maps
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.scores import Contrast, Specific
from nuggets.sensitivity.selected_entries import top_entries
from nuggets.statistics.intervals import mean_interval

NEVER = 1e9
"""A loss of guessing that no model reaches: nothing counts as wrecked."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=31,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def spec(model):
    return ArchSpec.from_config(json.loads(model.config.to_json_string()))


def samples(n, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 31, size=rng.integers(6, 11)).tolist() for _ in range(n)]
    return [(ids, [-100] * 3 + ids[3:]) for ids in rows]


ITEMS = {"a": samples(5, 1), "b": samples(3, 2), "c": samples(4, 3)}


def bits(model):
    return {name: p.detach().view(torch.int32).clone() for name, p in model.named_parameters()}


def plainly(model, items):
    """Loss and exact match, one item after another, as transformers computes them."""
    found = []
    for ids, labels in (item for each in items.values() for item in each):
        with torch.no_grad():
            output = model(torch.tensor([ids]), labels=torch.tensor([labels]))
        best = output.logits[0, :-1].argmax(-1).tolist()
        right = [b == t for b, t in zip(best, labels[1:], strict=True) if t != -100]
        found.append((float(output.loss), float(all(right))))
    return np.array(found).T


def block_names(spec):
    return [f"{module}.weight" for module, _, layer in spec.modules() if layer is not None]


def test_a_curve_is_that_of_a_loop_that_zeroes_weights_of_copies(model, spec):
    subject, counts = Subject(model, spec, ITEMS), [1, 7, 400, 2000]
    map = compute_sensitivity(model, spec, samples(4, 0))
    found = subject.curve(top_entries(map.blocks(), counts[-1])[1], counts, NEVER)
    scores = np.concatenate(
        [map.full[n.removesuffix(".weight")].ravel() for n in block_names(spec)]
    )
    order = np.argsort(-scores, kind="stable")
    for place, count in enumerate(counts):
        erased, start = copy.deepcopy(model), 0
        with torch.no_grad():
            for name in block_names(spec):
                weight = erased.get_parameter(name)
                own = order[:count] - start
                own = own[(own >= 0) & (own < weight.numel())]
                weight.view(-1)[own] = 0
                start += weight.numel()
        np.testing.assert_allclose(found[place], plainly(erased, ITEMS), rtol=2e-5)
    np.testing.assert_allclose(subject.outcomes(), plainly(model, ITEMS), rtol=2e-5)
    assert not np.allclose(found[0], found[-1])


@pytest.mark.parametrize("shared", [False, True])
def test_taking_a_part_out_is_a_plain_change_of_a_copy(model, spec, shared):
    map = compute_sensitivity(model, spec, samples(4, 0))
    subject = Subject(model, spec, ITEMS)
    if shared:  # what lies below the part is then not computed again
        subject.keep_states()
    for part in parts_of(map, ("layers", "matrices", "heads", "neurons")):
        changed = copy.deepcopy(model)
        layer = changed.model.layers[part.layer]
        if part.kind == "layers":
            changed.model.layers[part.layer] = torch.nn.Identity()
            changed.model.layers[part.layer].forward = lambda states, **_: states
        with torch.no_grad():
            if part.kind == "matrices":
                changed.get_parameter(f"{spec.module(part.role, part.layer)}.weight").zero_()
            if part.kind == "heads":
                head = int(part.name.split()[-1])
                layer.self_attn.o_proj.weight[:, 4 * head : 4 * head + 4] = 0
            if part.kind == "neurons":
                layer.mlp.down_proj.weight[:, list(part.columns)] = 0
        np.testing.assert_allclose(subject.without(part), plainly(changed, ITEMS), rtol=2e-5)


def tokens_read(model, names, skill):
    """What each module reads of a skill's samples `[tokens, in]`, one sample after another."""
    found = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: found[name].append(inputs[0][0])
        )
        for name in names
    ]
    for ids, _ in skill:
        with torch.no_grad():
            model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return {name: torch.cat(rows) for name, rows in found.items()}


def mean_reads(model, names, skills):
    """By hand: the mean of the skills' means over tokens."""
    each = [tokens_read(model, names, skill) for skill in skills]
    return {name: torch.stack([own[name].mean(0) for own in each]).mean(0) for name in names}


OTHERS = (ITEMS["b"], ITEMS["c"])


def test_a_mean_curve_is_that_of_copies_whose_weights_moved_into_biases(model, spec):
    """θ·x becomes θ·x̄: the weight is 0 and its row's output gets a bias."""
    subject = Subject(model, spec, ITEMS, means=means_over(model, spec, OTHERS))
    counts, names = [5, 400, 2000], block_names(spec)
    modules = [name.removesuffix(".weight") for name in names]
    means = mean_reads(model, modules, OTHERS)
    places = drawn_places(spec, counts[-1], [3])
    found = subject.curve(places, counts, NEVER)
    for place, count in enumerate(counts):
        erased, start = copy.deepcopy(model), 0
        with torch.no_grad():
            for name in modules:
                linear = erased.get_submodule(name)
                own = [p - start for p in places[:count].tolist()]
                start += linear.weight.numel()
                bias = torch.zeros(linear.out_features)
                for row, col in (divmod(p, linear.in_features) for p in own):
                    if 0 <= row < linear.out_features:
                        bias[row] += linear.weight[row, col] * means[name][col]
                        linear.weight[row, col] = 0
                linear.bias = torch.nn.Parameter(bias)
        np.testing.assert_allclose(found[place], plainly(erased, ITEMS), rtol=2e-5)
    plain = Subject(model, spec, ITEMS).curve(places, counts, NEVER)
    assert np.abs(found - plain)[:, 0].max() > 1e-3, "a mean is not 0"


def test_a_part_gives_way_to_what_it_contributes_on_average_to_other_skills(model, spec):
    """A head or neuron by what it puts out, a matrix by its output, a layer by its update."""
    map = compute_sensitivity(model, spec, samples(4, 0))
    subject = Subject(model, spec, ITEMS, means=means_over(model, spec, OTHERS))
    subject.keep_states()
    modules = [name.removesuffix(".weight") for name in block_names(spec)]
    means = mean_reads(model, modules, OTHERS)
    names = [f"model.layers.{i}" for i in range(3)] + ["model.norm"]
    each = [tokens_read(model, names, skill) for skill in OTHERS]
    kinds = ("layers", "matrices", "heads", "neurons")
    for part in (part for kind in kinds for part in parts_of(map, (kind,))[1::5]):
        changed = copy.deepcopy(model)
        if part.role is None:
            after, before = names[part.layer + 1], names[part.layer]
            update = torch.stack([(own[after] - own[before]).mean(0) for own in each]).mean(0)
            changed.model.layers[part.layer] = torch.nn.Identity()
            changed.model.layers[part.layer].forward = lambda states, update=update, **_: (
                states + update
            )
        else:
            name = spec.module(part.role, part.layer)
            columns = slice(None) if part.columns is None else list(part.columns)

            def fill(module, inputs, mean=means[name], columns=columns):
                filled = inputs[0].clone()
                filled[..., columns] = mean[columns]
                return (filled,)

            changed.get_submodule(name).register_forward_pre_hook(fill)
        np.testing.assert_allclose(subject.without(part), plainly(changed, ITEMS), rtol=2e-5)


def test_parts_of_a_kind_share_out_the_sensitivity_and_neurons_come_in_order(model, spec):
    map = compute_sensitivity(model, spec, samples(4, 0))
    for kind, n in (("layers", 3), ("matrices", 21), ("heads", 12), ("neurons", 24)):
        parts = parts_of(map, (kind,))
        assert len(parts) == n
        assert math.isclose(sum(part.share for part in parts), 1)
    first = [part.share for part in parts_of(map, ("neurons",)) if part.layer == 0]
    assert first == sorted(first, reverse=True)
    columns = [c for part in parts_of(map, ("neurons",)) if part.layer == 1 for c in part.columns]
    assert sorted(columns) == list(range(24))


def test_every_bit_of_the_model_is_put_back_even_after_a_fault(model, spec):
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, :2] = torch.tensor([-0.0, float("nan")])
        weight = model.model.layers[0].mlp.down_proj.weight
        before = bits(model)
        try:
            with zeroed(weight, (slice(None), [0, 2])):
                assert not weight[:, [0, 2]].any()
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    model.train()
    progress = InMemoryProgress()
    subject = Subject(model, spec, ITEMS, progress, means_over(model, spec, OTHERS))
    n = sum(model.get_parameter(name).numel() for name in block_names(spec))
    subject.curve(drawn_places(spec, n, [0]), [1, n // 2, n], NEVER)
    for kind in ("layers", "matrices"):
        role = None if kind == "layers" else "up"
        subject.without(Part(kind=kind, name="", layer=1, share=0, role=role))
    progress.cancel()
    with pytest.raises(Cancelled):
        subject.curve(drawn_places(spec, n, [0]), [1, n], NEVER)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(now, before[name]) for name, now in bits(model).items())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_wrecked_model_is_not_measured_again(model, spec):
    calls = []

    class Counting(Subject):
        def outcomes(self, untouched=0):
            calls.append(1)
            return super().outcomes(untouched)

    found = Counting(model, spec, ITEMS).curve(drawn_places(spec, 30, [0]), [10, 20, 30], 0.0)
    assert len(calls) == 1
    np.testing.assert_array_equal(found[0], found[2])


def test_a_comparison_orders_weights_as_its_map_does(model, spec):
    maps = [compute_sensitivity(model, spec, samples(4, seed)) for seed in range(3)]
    for score in (Specific(q=0.1), Contrast(unit="log_ratio")):
        expected = compare_maps(score, maps[0], maps[1:])
        for (module, found), (name, matrix) in zip(
            entries_by(score, maps), expected.blocks(), strict=True
        ):
            assert module == name
            np.testing.assert_array_equal(found, matrix)


def test_least_takes_what_the_map_puts_last(model, spec):
    map = compute_sensitivity(model, spec, samples(4, 0))
    values, _ = top_entries(least_first(map), 50)
    scores = np.concatenate([matrix.ravel() for _, matrix in map.blocks()])
    np.testing.assert_array_equal(-values, np.sort(scores)[:50])


def test_random_places_are_distinct_and_follow_from_the_seed(spec):
    first, again, other = (drawn_places(spec, 900, [seed, 0]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(set(first.tolist())) == 900
    assert set(first.tolist()) != set(other.tolist())


def test_a_combined_interval_is_the_plain_one_for_one_group_and_welchs_for_two():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 1.0, (1, 40)), rng.normal(0.2, 3.0, (1, 25))
    assert combined_interval([a], [1.0]) == mean_interval(a)
    found = combined_interval([a, b], [1.0, -1.0])
    assert found.mean == pytest.approx(a.mean() - b.mean())
    error = math.sqrt(a.var(ddof=1) / 40 + b.var(ddof=1) / 25)
    assert (found.high - found.low) / 2 == pytest.approx(2.0 * error, rel=0.03)


def test_what_maps_share_cancels_between_the_groups_of_a_combined_interval():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 50, (3, 1))
    a, b = (rng.normal(0, 0.1, (3, 30)) + shared for _ in range(2))
    found = combined_interval([a, b], [1.0, -1.0])
    assert found.high - found.low < 1
    apart = combined_interval([a], [1.0])
    assert apart.high - apart.low > 50


@pytest.mark.parametrize("n_maps", [3, 6, 20])
def test_maps_of_samples_drawn_again_are_no_samples_of_their_own(n_maps):
    """Coverage over experiments: 16 seed samples each decide the map, and with it every item."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        samples = rng.normal(0, 1, 16)
        draws = [samples, *(rng.choice(samples, 16) for _ in range(n_maps - 1))]
        damage = np.array([[draw.mean()] for draw in draws]) + rng.normal(0, 0.2, (1, 30))
        found = combined_interval([damage], [1.0], resampled=True)
        hits += found.low <= 0 <= found.high
    # .95, less what 16 samples lose: drawn again, they vary by 15/16 of what they should.
    assert hits / 400 >= 0.89


def report(own, others, n_maps=3, fractions=(1e-4, 1e-3, 1e-2), parts=(), without=()):
    """A report whose damages are given: `own` and `others` per fraction, the same for all items."""
    guess, skills = 5.0, {"gsm": 4, "mmlu": 6}
    untouched = np.ones((2, 10))  # loss 1: the rise to guessing is 4
    curve = np.ones((n_maps, len(fractions), 2, 10))
    noise = np.random.default_rng(0).normal(0, 0.01, (n_maps, 1, 10))
    curve[:, :, 0, :4] = 1 + 4 * np.asarray(own)[:, None] + noise[..., :4]
    curve[:, :, 0, 4:] = 1 + 4 * np.asarray(others)[:, None] + noise[..., 4:]
    counts = tuple(round(f * 1e6) for f in fractions)
    rest = np.ones((len(parts), 2, 10))
    rest[:, 0, :] += 4 * np.asarray(without).reshape(-1, 1) + noise[0]
    return ErasureReport(
        skills, fractions, counts, guess, untouched, {"specific": curve}, tuple(parts), rest
    )


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        ((1, 1, 1), (0, 0, 0), 1.0),
        ((0, 0, 0), (1, 1, 1), -1.0),
        ((0.4, 0.4, 0.4), (0.4, 0.4, 0.4), 0.0),
        ((0, 0.5, 1), (0, 0, 0), 0.5),  # trapezoids: (0 + .5) / 2 / 2 + (.5 + 1) / 2 / 2
        ((0, 0, 1), (0, 0, 0), 0.25),
        ((0, 0, 7), (0, 0, 0), 0.25),  # no damage is above that of guessing
    ],
)
def test_specificity_is_the_area_between_the_curves(own, others, expected):
    found = report(own, others).specificity("specific")
    assert found.mean == pytest.approx(expected, abs=0.01)
    assert -1 <= found.low <= found.mean <= found.high <= 1


def test_one_fraction_is_an_area_too():
    found = report((0.5,), (0.2,), fractions=(1e-3,)).specificity("specific")
    assert found.mean == pytest.approx(0.3, abs=0.01)


def test_a_verdict_names_weights_skills_and_intervals():
    said = words.verdict(report((0, 0.5, 0.9), (0, 0.05, 0.8)), "specific")
    assert said.startswith("specific finds weights that are specific to gsm: specificity 0.2")
    assert "Erasing its first 1,000 weights (0.1 %) raises the loss on gsm by 2.0" in said
    assert " and on mmlu by 0.2" in said
    spared = words.verdict(report((0, 0.5, 0.9), (0, 0, 0.8)), "specific")
    assert ", and has no detectable effect on mmlu (" in spared
    assert "−0.00" not in said + spared


def test_a_verdict_tells_specific_weights_from_those_that_others_need_too():
    said = words.verdict(report((0, 0.2, 0.9), (0, 0.1, 0.3)), "specific")
    assert "finds weights that gsm needs more than other skills, but these need too" in said


def test_what_random_weights_show_too_is_not_found():
    """One skill may bear less damage than the other, whatever is erased."""
    frail, found, more = (report(own, (0, 0.1, 0.2)).curves["specific"]
                          for own in ((0, 0.2, 0.4), (0, 0.2, 0.4), (0, 0.5, 0.9)))  # fmt: skip
    made = dataclasses.replace(report((0,) * 3, (0,) * 3), curves={
        "random": frail, "theta_grad": found, "specific": more,
    })  # fmt: skip
    assert "specific finds weights" in words.verdict(made, "specific")
    assert "(random weights 0.1" in words.verdict(made, "specific")
    for order in ("theta_grad", "random"):
        assert "does not tell gsm from other skills" in words.verdict(made, order)
    assert "(random weights" not in words.verdict(made, "random")
    alone = dataclasses.replace(made, curves={"theta_grad": found})
    assert "|θ·g| finds weights" in words.verdict(alone, "theta_grad")


def test_damages_of_exactly_0_have_no_width():
    made = report((0, 0, 0), (0, 0, 0))
    still = {"specific": np.ones_like(made.curves["specific"])}
    (point, *_) = dataclasses.replace(made, curves=still).points("specific")
    assert (point.damage.low, point.damage.high) == (0, 0)


def test_a_verdict_says_so_where_there_is_nothing_or_the_reverse():
    assert "does not tell gsm" in words.verdict(report((0, 0, 0.5), (0, 0, 0.5)), "specific")
    assert "other skills need more than gsm" in words.verdict(
        report((0, 0, 0.1), (0, 0, 0.9)), "specific"
    )


def layers(*shares):
    return [Part(kind="layers", name=f"L{i}", layer=i, share=s) for i, s in enumerate(shares)]


def test_a_map_that_the_model_belies_is_told():
    found = report((0,) * 3, (0,) * 3, parts=layers(0.6, 0.3, 0.1), without=(0.0, 0.5, 0.9))
    assert found.agreement("layers") == pytest.approx(-1)
    said = words.disagreement(found, "layers")
    assert "rank correlation of −1.00" in said
    assert "1 layer holds 60% of the sensitivity" in said
    assert "differ most on L0: 60.0% of the sensitivity" in said


def test_a_map_that_is_true_needs_one_sentence():
    found = report((0,) * 3, (0,) * 3, parts=layers(0.6, 0.3, 0.1), without=(0.9, 0.5, 0.1))
    said = words.disagreement(found, "layers")
    assert said == "Map and damage agree with a rank correlation of 1.00 over 3 layers."


def test_a_report_comes_back_bit_for_bit_and_a_damaged_one_is_named(tmp_path):
    made = report((0, 0.5, 1), (0, 0, 0), parts=layers(0.6, 0.4), without=(0.9, 0.5))
    made.save(tmp_path)
    found = ErasureReport.load(tmp_path)
    assert words.as_tree(found) == words.as_tree(made)
    np.testing.assert_array_equal(found.curves["specific"], made.curves["specific"])
    json.dumps(words.as_tree(found), allow_nan=False)
    (tmp_path / "erasure.json").write_text("{}")
    with pytest.raises(Damaged, match="measure it again"):
        ErasureReport.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda head, tensors: tensors.update(untouched=np.ones((2, 9))),
        lambda head, tensors: tensors.update({"curves.specific": np.ones((3, 2, 2, 10))}),
        lambda head, tensors: tensors.update({"curves.specific": np.full((3, 3, 2, 10), np.nan)}),
        lambda head, tensors: tensors.pop("without"),
        lambda head, tensors: head.update(skills={"gsm": 10}),
        lambda head, tensors: head.update(counts=[1]),
        lambda head, tensors: head.update(orders=["other"]),
        lambda head, tensors: head.update(parts=[{"kind": "layers"}]),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path, change):
    report((0, 0.5, 1), (0, 0, 0)).save(tmp_path)
    head = json.loads((tmp_path / "erasure.json").read_text())
    tensors = load_file(tmp_path / "erasure.safetensors")
    change(head, tensors)
    (tmp_path / "erasure.json").write_text(json.dumps(head))
    save_file(tensors, tmp_path / "erasure.safetensors")
    with pytest.raises(Damaged, match="measure it again"):
        ErasureReport.load(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_streamed_model_gives_the_outcomes_of_the_whole_one_bit_for_bit(kind, tiny):
    ref = parse_ref(str(tiny(kind, num_hidden_layers=3)))
    spec, whole = read_spec(ref), load_model(ref)
    streamed = StreamedSubject(StreamedModel(ref, torch.float32, "cpu"), ITEMS)
    subject, counts = Subject(whole, spec, ITEMS), [3, 500, 4000]
    places = drawn_places(spec, counts[-1], [1])
    np.testing.assert_array_equal(streamed.outcomes(), subject.outcomes())
    np.testing.assert_array_equal(
        streamed.curve(places, counts, NEVER), subject.curve(places, counts, NEVER)
    )
    for (_, found), (_, expected) in zip(streamed.magnitudes(), subject.magnitudes(), strict=True):
        np.testing.assert_array_equal(found, expected)
    map = compute_sensitivity(whole, spec, samples(4, 0))
    streamed.keep_states()
    subject.keep_states()
    for part in (p for k in ("layers", "matrices", "heads") for p in parts_of(map, (k,))[1::6]):
        np.testing.assert_array_equal(streamed.without(part), subject.without(part))
    assert not any(streamed.stream.erased.values())
    assert all(p.is_meta for p in streamed.model.parameters()), "nothing stays in memory"
    np.testing.assert_array_equal(streamed.outcomes(), subject.outcomes())
