import numpy as np
import pytest
import torch

from benchmarks import published
from nuggets.compute.svd import truncated_svd
from nuggets.errors import NonFinite


def matrix(rows=40, cols=30, seed=0, dtype=torch.float32):
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (5, 60)])
def test_exact_factors_equal_the_published_full_svd(shape):
    weight = matrix(*shape)
    b, a = published.factors(weight, 4)
    found = truncated_svd(weight, 4, "exact")
    torch.testing.assert_close(found.product(), b @ a, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.a @ found.a.T, torch.eye(4), atol=1e-5, rtol=0)


def test_by_hand():
    weight = torch.tensor([[3.0, 0.0], [0.0, -2.0], [0.0, 0.0]])
    found = truncated_svd(weight, 1, "exact")
    torch.testing.assert_close(found.product(), torch.tensor([[3.0, 0], [0, 0], [0, 0]]))
    assert found.energy == pytest.approx(9 / 13)
    assert found.singular_values.tolist() == pytest.approx([3.0])


def randomised_svd_energy(weight, rank):
    """What torch's randomised SVD with four power iterations keeps (as many passes)."""
    torch.manual_seed(0)
    _, s, _ = torch.svd_lowrank(weight, q=rank + 16, niter=4)
    return float(s[:rank].double().square().sum() / weight.double().square().sum())


def test_energy_of_a_view_is_measured_to_six_digits():
    # One float32 norm of a whole strided matrix is off by parts in a thousand.
    weight = matrix(1500, 1500)[100:1400, 50:1350]
    found = truncated_svd(weight, 4)
    whole = weight.double().square().sum()
    kept = 1 - (weight - found.product()).double().square().sum() / whole
    assert found.energy == pytest.approx(float(kept), rel=1e-4)


def test_randomised_error_is_measured_and_small():
    # Slowly falling spectrum, as weights have: the hard case for random ranges.
    u, _ = torch.linalg.qr(matrix(300, 200, 1))
    v, _ = torch.linalg.qr(matrix(200, 200, 2))
    spectrum = torch.arange(1, 201).float().pow(-0.3)
    weight = (u * spectrum) @ v.T
    best = truncated_svd(weight, 8, "exact")
    fast = truncated_svd(weight, 8)
    assert fast.energy == pytest.approx(best.energy, rel=1e-3)
    assert fast.energy > randomised_svd_energy(weight, 8)
    error = float((weight - fast.product()).square().sum() / weight.square().sum())
    assert fast.energy == pytest.approx(1 - error, abs=1e-4)


def test_randomised_is_seeded_and_leaves_the_global_generator_alone():
    weight = matrix(200, 150)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again = truncated_svd(weight, 4), truncated_svd(weight, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.product(), again.product())
    assert not torch.equal(first.product(), truncated_svd(weight, 4, seed=1).product())


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.9, 1.0])
def test_energy_keeps_the_smallest_rank_that_reaches_it(energy):
    weight = matrix()
    spectrum = np.linalg.svd(weight.numpy(), compute_uv=False).astype(np.float64) ** 2
    expected = next(
        r for r in range(1, 31) if spectrum[:r].sum() >= (energy - 1e-6) * spectrum.sum()
    )
    found = truncated_svd(weight, 30, "exact", energy=energy)
    assert found.rank == expected
    assert truncated_svd(weight, 3, "exact", energy=0.99).rank == 3


def test_bfloat16_weights_are_factorised_in_float32():
    weight = matrix(dtype=torch.float32).bfloat16()
    found = truncated_svd(weight, 30, "exact")
    assert found.a.dtype == found.b.dtype == torch.float32
    torch.testing.assert_close(found.product(), weight.float(), atol=1e-5, rtol=1e-5)


def test_nan_is_refused(counted):
    weight = matrix()
    weight[3, 3] = float("nan")
    with pytest.raises(NonFinite, match="NaN or infinite"):
        truncated_svd(weight, 4)
    counted("F9", "a matrix for the SVD that is not finite", 1)


def test_zero_matrix_keeps_everything():
    found = truncated_svd(torch.zeros(20, 10), 2)
    assert found.energy == 1.0
    assert float(found.product().abs().max()) == 0.0
