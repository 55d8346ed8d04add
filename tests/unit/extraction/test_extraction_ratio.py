"""The extraction ratio takes the most sensitive entries of a choice and nothing else."""

import numpy as np
import pytest
import torch

from nuggets.errors import BadInput
from nuggets.extraction.factors import cut_matrix, extract_factors
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan, picks_of
from nuggets.models.architecture import LAYER_ROLES
from nuggets.sensitivity.selected_entries import Pick, keep_share
from tests.unit.extraction.test_selectors import MATRIX_KINDS, STUDENT, TEACHER, make_map

LORA = LoraConfig(r=2)


def test_kept_entries_of_a_hand_made_choice():
    scores = np.array([[9, 1, 5], [0, 7, 2], [3, 8, 4]], dtype=np.float32)
    pick = Pick(np.array([0, 2]), np.array([0, 1]), mass=21.0, total=39.0)  # [[9, 1], [3, 8]]
    half = keep_share(pick, scores, 0.5)
    assert half.kept is not None
    assert half.kept.tolist() == [0, 3]
    assert half.mass == 17
    assert keep_share(pick, scores, 0.01).mass == 9  # at least one entry
    assert keep_share(pick, scores, 1.0) is pick


@pytest.mark.parametrize("kind", MATRIX_KINDS)
def test_cut_matrix_is_the_whole_choice_with_the_others_zero(kind):
    map = make_map()
    config = ExtractionConfig(matrices=kind(), roles=("embed", *LAYER_ROLES))
    whole = make_plan(map, STUDENT, config, LORA)
    thin = make_plan(map, STUDENT, config.model_copy(update={"ratio": 0.3}), LORA)
    picks, kept = picks_of(whole, map), picks_of(thin, map)
    for all_of, item in zip(whole.items, thin.items, strict=True):
        # The sensitivity itself stands in for the weight, so that the cut shows what it keeps.
        scores = torch.from_numpy(map.full[item.teacher_module])
        full = cut_matrix(scores, all_of, picks[item.student_module])
        part = cut_matrix(scores, item, kept[item.student_module])
        taken = part != 0
        n = int(np.ceil(0.3 * full.numel()))
        assert taken.sum() == n
        assert torch.equal(part[taken], full[taken])
        assert part[taken].min() >= full[~taken].max()
        total = map.total(item.teacher_module)
        assert item.kept_mass == pytest.approx(float(part.double().sum()) / total, rel=1e-5)
        assert item.area == pytest.approx(n / scores.numel())
        assert all_of.area == pytest.approx(full.numel() / scores.numel())


def test_without_the_map_a_ratio_cannot_be_extracted():
    plan = make_plan(make_map(), STUDENT, ExtractionConfig(ratio=0.5), LORA)
    with pytest.raises(BadInput, match=r"ratio of 0\.5 needs the map"):
        picks_of(plan)


def test_sums_alone_are_refused_with_a_ratio():
    config = ExtractionConfig.model_validate({"matrices": {"kind": "rows_cols"}, "ratio": 0.5})
    with pytest.raises(BadInput, match="has only row and column sums"):
        make_plan(make_map(keep=False), STUDENT, config, LORA)


def test_factors_of_a_ratio_are_those_of_the_thinned_matrix():
    map = make_map()
    generator = torch.Generator().manual_seed(0)
    weights = {
        module: torch.randn(TEACHER.shape(role), generator=generator)
        for module, role, _ in TEACHER.modules()
    }
    rank = min(STUDENT.shape("k"))
    config = ExtractionConfig(roles=("k",), ratio=0.4)
    plan = make_plan(map, STUDENT, config, LoraConfig(r=rank, svd="exact"))
    factors = extract_factors(weights.__getitem__, plan, map)
    for item in plan.items:
        pick = picks_of(plan, map)[item.student_module]
        cut = cut_matrix(weights[item.teacher_module], item, pick)
        assert torch.allclose(factors[item.student_module].product(), cut, atol=1e-5)
