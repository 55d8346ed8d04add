"""Extraction and its controls: what each keeps of the teacher and what it destroys."""

from __future__ import annotations

import pytest
import torch

from nuggets.data.samples import IGNORED
from nuggets.extraction.adapter import read_factors
from nuggets.extraction.factors import extract_factors
from nuggets.extraction.plan import ExtractionConfig, LoraConfig
from nuggets.extraction.selectors import WeightsSelector
from nuggets.models.forward import pad_right
from nuggets.train.arms.aligned import Hints, Regressed
from nuggets.train.builders.aligned import _hint_loss
from nuggets.train.builders.controls import (
    gaussian_factors,
    permute_factors,
    shuffle_factors,
    states_of_another,
)
from tests.unit.train.tiny_lab import letters, make_lab


@pytest.fixture(scope="module")
def lab(tiny):
    roles = ("embed", "q", "v", "o", "down", "head")
    return make_lab(tiny, LoraConfig(r=4), ExtractionConfig(roles=roles))


def spectrum(matrix):
    return torch.linalg.svdvals(matrix.double())


def test_full_rank_factors_rebuild_the_teachers_window(lab):
    ranks = {item.student_module: min(item.shape) for item in lab.plan().items}
    factors = extract_factors(lab.weight, lab.plan(), lab.map, ranks=ranks)
    for item in lab.plan().items:
        stored = lab.teacher.state_dict()[f"{item.teacher_module}.weight"]
        row, col = item.rows[0], item.cols[0]
        window = stored[row : row + item.shape[0], col : col + item.shape[1]]
        wanted = window.T if item.role == "embed" else window
        torch.testing.assert_close(factors[item.student_module].product(), wanted)


def test_rank_r_factors_are_the_best_rank_r_approximation(lab):
    factors = lab.factors()
    for name, matrix in lab.matrices():
        error = torch.linalg.norm(matrix - factors[name].product()).item()
        rest = spectrum(matrix)[4:].square().sum().sqrt().item()  # Eckart & Young
        assert error == pytest.approx(rest, rel=2e-2)


def test_single_entries_are_read_row_by_row(tiny):
    extraction = ExtractionConfig(matrices=WeightsSelector(), roles=("q",))
    lab = make_lab(tiny, LoraConfig(r=4), extraction)
    item, (_, matrix) = lab.plan().items[0], next(lab.matrices())
    scores = lab.map.full[item.teacher_module].reshape(-1)
    chosen = sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: 16 * 16])
    wanted = lab.weight(item.teacher_module).reshape(-1)[chosen].reshape(16, 16)
    assert torch.equal(matrix, wanted)


def test_permuting_keeps_spectrum_and_entries_but_not_their_places(lab):
    factors = lab.factors()
    permuted = permute_factors(factors, seed=3)
    for name, factor in factors.items():
        ours, theirs = permuted[name].product(), factor.product()
        torch.testing.assert_close(spectrum(ours), spectrum(theirs), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.flatten().sort()[0], theirs.flatten().sort()[0])
        assert not torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("make", ["shuffled", "gaussian"])
def test_noise_reaches_the_student_with_the_extractions_norm(lab, make):
    factors = lab.factors()
    if make == "shuffled":
        noise = shuffle_factors(lab.matrices(), factors, seed=3)
    else:
        noise = gaussian_factors(factors, seed=3)
    for name, factor in factors.items():
        assert noise[name].rank == factor.rank
        norms = [torch.linalg.norm(f.product()).item() for f in (noise[name], factor)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
        cosine = (noise[name].product() * factor.product()).sum() / (norms[0] * norms[1])
        assert abs(cosine) < 0.5


def test_shuffling_uses_the_teachers_entries(lab):
    factors = {n: f for n, f in lab.factors().items() if n.endswith("layers.0.self_attn.q_proj")}
    (name,) = factors
    matrix = dict(lab.matrices())[name]
    shuffled = shuffle_factors([(name, torch.full_like(matrix, 2.0))], factors, 0)
    product = shuffled[name].product()  # a constant matrix stays one, scaled to the norm
    torch.testing.assert_close(product, torch.full_like(product, product[0, 0].item()))


def test_controls_follow_from_their_seed(lab):
    factors = lab.factors()
    name = next(iter(factors))

    def draw(seed):
        return [
            permute_factors(factors, seed)[name].b,
            shuffle_factors(lab.matrices(), factors, seed)[name].b,
            gaussian_factors(factors, seed)[name].b,
        ]

    for first, again, other in zip(draw(1), draw(1), draw(2), strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_permuting_moves_rows_and_columns_each_by_itself(lab):
    factors = lab.factors()
    for name, permuted in permute_factors(factors, seed=3).items():
        for mine, theirs, axis in (
            (permuted.b, factors[name].b, 0),
            (permuted.a, factors[name].a, 1),
        ):
            assert not torch.equal(mine, theirs), name
            places = [{tuple(v.tolist()) for v in x.unbind(axis)} for x in (mine, theirs)]
            assert places[0] == places[1], "the same rows (columns), in other places"


def test_no_two_matrices_are_permuted_shuffled_or_drawn_alike(lab):
    name, factor = next((n, f) for n, f in lab.factors().items() if "q_proj" in n)
    matrix = dict(lab.matrices())[name]
    twice = {"one": factor, "two": factor}
    for made in (
        permute_factors(twice, 3),
        shuffle_factors([(each, matrix) for each in twice], twice, 3),
        gaussian_factors(twice, 3),
    ):
        one, two = (made[each].product() for each in twice)
        assert not torch.allclose(one, two, atol=1e-3)


def test_the_control_of_a_regression_is_as_large_as_what_it_controls(lab):
    """On another token's states a regression finds little: unscaled, its change was a third."""
    own, control = (
        read_factors(Regressed(n_general=8, control=control).build(lab, 0).model)
        for control in (False, True)
    )
    modules = [name for name in own if name.endswith("down_proj")]
    assert modules
    for name in modules:
        products = [b @ a for a, b in (own[name], control[name])]
        assert products[0].norm().item() == pytest.approx(products[1].norm().item(), rel=1e-4)
        assert not torch.allclose(*products, rtol=0.1)


@pytest.mark.parametrize("lengths", [[3, 3, 4, 4, 4], [2, 3, 5, 7], [3, 3, 3, 6], [1, 8, 8, 2]])
def test_no_sample_keeps_its_own_states_whatever_the_lengths(lengths):
    encoded = [([1] * length, []) for length in lengths]
    targets = [torch.full((2, n, 4), float(i)) for i, n in enumerate(lengths)]
    found = states_of_another(encoded, targets, 0)
    assert [each.shape for each in found] == [each.shape for each in targets]
    assert not any((each == i).any() for i, each in enumerate(found))


def test_learned_states_do_not_depend_on_padding(lab):
    """Where samples differ in length, a third and more of a batch is padding."""
    model = lab.fresh_student()
    sizes = lab.student_spec.hidden_size, lab.teacher_spec.hidden_size
    model.hint_maps = torch.nn.ModuleList(
        torch.nn.Linear(*sizes) for _ in lab.plan().alignment.pairs
    )
    loss = _hint_loss(lab, Hints())
    ids, labels = pad_right(lab.encode(letters(4)), "cpu")
    more = torch.nn.functional.pad
    wider = loss(model, more(ids, (0, 6)), more(labels, (0, 6), value=IGNORED))
    torch.testing.assert_close(loss(model, ids, labels), wider)
