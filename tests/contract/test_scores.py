"""What every sensitivity score promises."""

import pytest
import torch

from nuggets.core.scores import Score
from nuggets.frozen import members


@pytest.mark.parametrize("score", members(Score).values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_is_float32_not_negative_and_repeats_itself(score, dtype):
    weight, grad = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = weight.clone()
    found, again = (score().of(weight, grad.clone(), "layer.q") for _ in range(2))
    assert found.shape == weight.shape
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    assert found.any()
    assert torch.equal(found, again)
    assert torch.equal(weight, before)
