import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from nuggets.alignment import measure
from nuggets.alignment.measure import align_models
from nuggets.alignment.similarity import cka_matrix, subspace_matrix
from nuggets.alignment.states import (
    collect_states,
    make_batches,
    record,
    record_states,
    strongest_directions,
)
from nuggets.alignment.stitching import exact_match, fit_maps, stitched_logits, stitching_accuracy
from nuggets.builtin.pairs import model_folder
from nuggets.data.samples import encode
from nuggets.errors import BadInput, Cancelled, NonFinite
from nuggets.models.architecture import LAYER_ROLES, ArchSpec
from nuggets.models.forward import decoder_of, evaluation
from nuggets.models.fused import split_fused
from nuggets.progress import InMemoryProgress
from nuggets.sensitivity.hooks import compute_sensitivity
from tests.architectures import EACH

FIT, TEST = 0, 1


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
    spec = ArchSpec.from_config(json.loads((folder / "config.json").read_text()))
    return split_fused(model, spec), spec


def samples(n=6, seed=FIT):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(3, 40, size=rng.integers(6, 11)).tolist() for _ in range(n)]
    return [(ids, [-100] * 3 + ids[3:]) for ids in rows]


def collect_reads(model, spec, encoded, k, **options):
    directions = strongest_directions(model, spec, k)
    return record(model, spec, encoded, "answer", directions, **options).reads


def stitched(student, teacher, fit, test, positions="answer", rows=None, columns=None, **options):
    """Stitching accuracy by maps that are fitted here."""
    progress = options.pop("progress", None)
    targets, sources = (collect_states(*side, fit, positions)[1:] for side in (teacher, student))
    rows = range(len(targets)) if rows is None else rows
    columns = range(len(sources)) if columns is None else columns
    maps = fit_maps(targets, sources, rows, columns, **options)
    return stitching_accuracy(*student, *teacher, maps, test, progress)


def answered(model, encoded):
    """The same questions with the model's own greedy answers as labels."""
    made = []
    for ids, labels in encoded:
        start = labels.count(-100)
        row = torch.tensor([ids[:start]])
        with torch.no_grad():
            for _ in range(len(ids) - start):
                best = model(input_ids=row).logits[:, -1].argmax(-1, keepdim=True)
                row = torch.cat([row, best], dim=1)
        own = row[0].tolist()
        made.append((own, [-100] * start + own[start:]))
    return made


@pytest.fixture(autouse=True)
def one_thread():
    # Models this small gain nothing from a second thread, and wait for it on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=EACH)
def any_model(request, tiny):
    return load(tiny(request.param, num_hidden_layers=3))


@pytest.fixture
def teacher(tiny):
    return load(tiny("llama", num_hidden_layers=4))


@pytest.fixture
def student(tiny):
    return load(tiny("llama", hidden_size=16, num_hidden_layers=2, head_dim=4, seed=1))


# States


def test_states_are_the_residual_stream_of_every_architecture(any_model):
    model, spec = any_model
    encoded = samples()
    found = collect_states(model, spec, encoded, "all")
    assert found.dtype == np.float32
    expected = []
    for ids, _ in encoded:
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        expected.append(torch.cat(out.hidden_states))  # the last one is after the final norm
    whole = torch.cat(expected, dim=1)
    np.testing.assert_allclose(found[:-1], whole[:-1].numpy(), atol=1e-5)
    with torch.no_grad():
        last = model.get_submodule(spec.architecture.final_norm)(torch.from_numpy(found[-1]))
    np.testing.assert_allclose(last.numpy(), whole[-1].numpy(), atol=1e-4)


def test_answer_positions_are_those_that_predict_an_answer_token(teacher):
    model, spec = teacher
    encoded = samples(3)
    everywhere = collect_states(model, spec, encoded, "all")
    starts = np.cumsum([0] + [len(ids) for ids, _ in encoded])
    places = [
        starts[row] + place
        for row, (ids, labels) in enumerate(encoded)
        for place in range(len(ids) - 1)
        if labels[place + 1] != -100
    ]
    found = collect_states(model, spec, encoded)
    np.testing.assert_array_equal(found, everywhere[:, places])
    assert found.shape == (5, sum(len(ids) - 3 for ids, _ in encoded), 32)


def test_padding_changes_nothing(any_model):
    model, spec = any_model
    encoded = samples(7)
    for collect in (collect_states, lambda *a, **o: collect_reads(*a, 3, **o)):
        one, many = (collect(model, spec, encoded, batch_size=size) for size in (1, 4))
        np.testing.assert_allclose(one, many, atol=2e-5)


def test_reads_span_what_the_matrix_computes_along_its_strongest_directions(teacher):
    model, spec = teacher
    encoded, k = samples(12), 2
    reads = collect_reads(model, spec, encoded, k)
    module = model.get_submodule(spec.module("gate", 1))
    seen = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output))
    with torch.no_grad():
        for ids, _ in encoded:
            model(input_ids=torch.tensor([ids]))
    handle.remove()
    outputs = torch.cat([y[0, 2:-1] for y in seen]).double().numpy()
    u = np.linalg.svd(module.weight.detach().double().numpy())[0]
    strongest = outputs @ u[:, :k]
    assert reads.shape == (4, len(LAYER_ROLES), len(strongest), k)
    gate = reads[1, LAYER_ROLES.index("gate")]
    similarity = subspace_matrix(gate[None, None], strongest[None, None]).item()
    assert similarity == pytest.approx(1, abs=1e-5)  # the randomised SVD is not quite exact


def test_the_model_is_left_as_it_was(teacher):
    model, spec = teacher
    model.train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    stitched((model, spec), (model, spec), samples(), samples(seed=TEST))
    collect_reads(model, spec, samples(), 2)
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)


def test_bad_samples_and_broken_models_are_refused(teacher):
    model, spec = teacher
    with pytest.raises(BadInput, match="No samples"):
        collect_states(model, spec, [])
    with pytest.raises(BadInput, match="Token 40 is outside the vocabulary of 40"):
        collect_states(model, spec, [([40, 1], [-100, 1])])
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(NonFinite, match="after 2 of 4 blocks"):
        collect_states(model, spec, samples())


# Stitching


def test_giving_a_block_its_own_output_leaves_the_logits_unchanged(any_model):
    model, spec = any_model
    encoded = samples()
    with evaluation(model):
        (batch,) = make_batches(encoded, model)
        with record_states(model, spec) as states:
            decoder_of(model, spec)(input_ids=batch.ids, use_cache=False)
        whole = model(input_ids=batch.ids).logits[batch.answers]
        torch.testing.assert_close(stitched_logits(model, spec, batch), whole)
        for layer in range(spec.n_layers):
            same = stitched_logits(model, spec, batch, layer, states[layer + 1])
            torch.testing.assert_close(same, whole)
            other = stitched_logits(model, spec, batch, layer, states[layer + 1] * 0)
            assert (other - whole).abs().max() > 1e-3


def test_stitching_a_model_with_itself_answers_as_the_model_does(any_model):
    model, spec = any_model
    fit, test = samples(80), answered(model, samples(10, TEST))
    assert exact_match(model, spec, test, collect_states(model, spec, test)[-1]) == 1
    found = stitched((model, spec), (model, spec), fit, test, "all", penalty=1e-9)
    np.testing.assert_array_equal(np.diag(found), 1)
    assert found.min() < 1  # other blocks' states do not quite do


def test_stitching_matches_a_slow_version(teacher):
    model, spec = teacher
    fit, test = samples(30), answered(model, samples(12, TEST))
    found = stitched((model, spec), (model, spec), fit, test, penalty=1e-3)
    i, j = 1, 3
    x = collect_states(model, spec, fit)[j + 1].astype(np.float64)
    y = collect_states(model, spec, fit)[i + 1].astype(np.float64)
    centred = x - x.mean(0)
    scatter = centred.T @ centred
    scatter += 1e-3 * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    weight = np.linalg.solve(scatter, centred.T @ (y - y.mean(0)))
    right = []
    for ids, labels in test:  # one sample at a time, the teacher's block given by a hook
        state = collect_states(model, spec, [(ids, labels)], "all")[j + 1]
        mapped = torch.tensor((state - x.mean(0)) @ weight + y.mean(0), dtype=torch.float32)[None]
        handle = model.model.layers[i].register_forward_hook(lambda *_, mapped=mapped: mapped)
        with torch.no_grad():
            best = model(input_ids=torch.tensor([ids])).logits[0, :-1].argmax(-1).tolist()
        handle.remove()
        right.append(all(b == t for b, t in zip(best, labels[1:], strict=True) if t != -100))
    assert found[i, j] == np.mean(right)
    assert 0 < found[i, j] < 1


def test_layers_left_out_are_nan_and_the_others_unchanged(teacher, student):
    fit, test = samples(20), answered(teacher[0], samples(8, TEST))
    whole = stitched(student, teacher, fit, test)
    part = stitched(student, teacher, fit, test, rows=[1, 3])
    np.testing.assert_array_equal(part[[1, 3]], whole[[1, 3]])
    assert np.isnan(part[[0, 2]]).all()


def test_exact_match_is_what_the_whole_model_answers(any_model):
    model, spec = any_model
    right = answered(model, samples(8, TEST))
    # One of them with another last token, and one that is wrong in the middle.
    (ids, labels), (other, theirs) = right[1], right[4]
    right[1] = (ids, [*labels[:-1], (labels[-1] + 1) % 40])
    right[4] = (other, [*theirs[:3], (theirs[3] + 1) % 40, *theirs[4:]])
    with evaluation(model):
        (batch,) = make_batches(right, model)
        hits = stitched_logits(model, spec, batch).argmax(-1) == batch.targets
    expected = np.mean([bool(own.all()) for own in hits.split(batch.counts)])
    assert exact_match(model, spec, right, collect_states(model, spec, right)[-1]) == expected
    assert expected == 6 / 8


# The whole


def test_a_model_is_aligned_with_itself(teacher):
    model, spec = teacher
    test = answered(model, samples(8, TEST))
    fit = {"a": samples(80), "b": samples(60, seed=5)}
    maps = {skill: (compute_sensitivity(model, spec, fit[skill][:3], keep="sums"),) * 2
            for skill in fit}  # fmt: skip
    report = align_models(model, spec, model, spec, fit, {"a": test, "b": test}, maps)
    for name in ("cka", "subspace", "profile", "cka.a"):
        np.testing.assert_allclose(np.diag(report.matrices[name]), 1, err_msg=name)
        assert report.matrices[name].shape == (4, 4)
    assert (np.diag(report.matrices["r2.b"]) > 0.98).all()
    assert set(report.stitching) == {"a", "b"}
    assert report.meta["scores"]["a"] == {"teacher": 1.0, "student": 1.0}
    n = collect_states(model, spec, fit["a"] + fit["b"]).shape[1]
    assert report.n_tokens == n
    assert report.meta["baselines"]["subspace"] == pytest.approx(report.meta["k"] / (n - 1))
    assert report.meta["baselines"]["cka"] < 0.15


def test_alignment_compares_what_leaves_the_blocks(teacher, student):
    fit, test = {"a": samples(20)}, {"a": samples(5, TEST)}
    report = align_models(*teacher, *student, fit, test)
    x = collect_states(*teacher, fit["a"])
    y = collect_states(*student, fit["a"])
    assert report.matrices["cka"].shape == (4, 2)
    assert report.matrices["cka"][2, 1] == pytest.approx(cka_matrix(x[3:4], y[2:3]).item())
    assert report.matrices["cka.a"][0, 0] == pytest.approx(cka_matrix(x[1:2], y[1:2]).item())


def test_tokens_are_compared_in_the_given_order_whatever_order_is_computed(
    teacher, student, monkeypatch
):
    monkeypatch.setattr(measure, "MAX_TOKENS", 17)  # every third token, which depends on the order
    fit, test = {"a": samples(12), "b": samples(9, 3)}, {"a": samples(5, TEST), "b": samples(4, 7)}
    report = align_models(*teacher, *student, fit, test, stitch=False)
    x, y = ({s: collect_states(*side, fit[s])[1:] for s in "ab"} for side in (teacher, student))
    both = [np.concatenate(list(side.values()), axis=1) for side in (x, y)]
    few = np.linspace(0, both[0].shape[1] - 1, 17).round().astype(int)
    assert report.n_tokens == 17 < both[0].shape[1] // 2
    for name, sides in (("cka", both), ("cka.b", (x["b"], y["b"]))):
        few = np.linspace(0, sides[0].shape[1] - 1, 17).round().astype(int)
        expected = cka_matrix(*(side[:, few] for side in sides))
        np.testing.assert_allclose(report.matrices[name], expected, atol=1e-5)


def test_states_of_a_skill_are_computed_once(teacher, student, monkeypatch):
    monkeypatch.setitem(measure.STITCH_FLOPS, "cpu", 0.0)  # two layers of each: four cells
    fit, test = {"a": samples(6)}, {"a": samples(5, TEST)}
    passes = []
    for model, _ in (teacher, student):
        model.model.embed_tokens.register_forward_hook(lambda m, *_: passes.append(m))
    monkeypatch.setattr(measure, "readability", lambda *_: None)
    align_models(*teacher, *student, fit, test)
    counts = [passes.count(side[0].model.embed_tokens) for side in (teacher, student)]
    # The teacher: samples to fit, samples to test, and its upper part in every cell.
    assert counts == [1 + 1 + 4, 1 + 1 + 1]


def test_deep_models_are_stitched_at_evenly_spread_layers(teacher, student, monkeypatch):
    monkeypatch.setattr(measure, "MAX_STITCHED_LAYERS", 2)
    report = align_models(*teacher, *student, {"a": samples(20)}, {"a": samples(5, TEST)})
    measured = np.isfinite(report.stitching["a"])
    np.testing.assert_array_equal(measured, [[True] * 2, [False] * 2, [False] * 2, [True] * 2])
    assert report.tables()["stitching.a"][1] == [None, None]


def test_stitching_stays_within_its_budget_and_says_how_many_layers_it_looked_at(
    teacher, student, monkeypatch
):
    fit, test = {"a": samples(20)}, {"a": samples(5, TEST)}
    per_cell = sum(p.numel() for p in teacher[0].parameters()) * sum(len(i) for i, _ in test["a"])
    for cells, layers in ((9.5, 3), (4, 2), (0.1, 2)):
        monkeypatch.setitem(measure.STITCH_FLOPS, "cpu", cells * per_cell)
        report = align_models(*teacher, *student, fit, test)
        assert report.meta["stitched_layers"] == layers
        assert np.isfinite(report.stitching["a"]).sum() == layers * 2
    without = align_models(*teacher, *student, fit, test, stitch=False)
    assert without.stitching == {}
    assert "scores" not in without.meta
    np.testing.assert_array_equal(without.matrices["cka"], report.matrices["cka"])


def test_alignment_can_be_cancelled_and_tells_how_far_it_is(teacher, student):
    fit, test = {"a": samples(), "b": samples()}, {"a": samples(), "b": samples()}
    told = InMemoryProgress()
    align_models(*teacher, *student, fit, test, progress=told)
    assert told.fraction == 1
    assert told.messages == ["comparing states", "stitching a", "stitching b", "aligned"]
    told.cancel()
    with pytest.raises(Cancelled):
        stitched(student, teacher, fit["a"], test["a"], progress=told)
    with pytest.raises(BadInput, match="same skills"):
        align_models(*teacher, *student, fit, {"a": samples()})


# The built-in pair


@pytest.fixture
def built_in_pair():
    try:
        return load(model_folder("teacher")), load(model_folder("independent"))
    except BadInput as problem:
        pytest.skip(str(problem))


def test_what_the_student_knows_stitches_and_what_it_lacks_does_not(built_in_pair):
    from nuggets.builtin.skills import skill_samples
    from nuggets.builtin.tokenizer import build_tokenizer

    teacher, student = built_in_pair
    tokenizer = build_tokenizer()

    def encoded(split, n):
        skills = ("add", "capital", "sub", "king")
        return {s: [encode(x, tokenizer) for x in skill_samples(s, split, n)] for s in skills}

    report = align_models(*teacher, *student, encoded("train", 64), encoded("test", 32))
    late = {skill: accuracy[-1, -1] for skill, accuracy in report.stitching.items()}
    assert late["add"] > 0.9
    assert late["capital"] > 0.9
    assert late["sub"] < 0.25
    assert late["king"] < 0.25
    explained = {skill: r2[-1, -1] for skill, r2 in report.by_skill("r2").items()}
    assert min(explained["add"], explained["capital"]) > 2 * explained["king"]
