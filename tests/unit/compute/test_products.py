"""The faster matrix products, forced onto every processor that has them and onto small shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear

from nuggets.compute import products
from nuggets.compute.products import fast_products, has_faster, product, stored_whole
from nuggets.compute.svd import truncated_svd
from nuggets.compute.threads import SMALL, threads_for

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch was built without oneDNN"
)


@pytest.fixture(autouse=True, scope="module")
def forced():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "has_faster", lambda: True)
        patch.setattr(products, "WORTH", 1)
        yield


@pytest.fixture
def asked(monkeypatch):
    """Shapes of the products that oneDNN is asked for."""
    shapes = []
    real = products._onednn

    def counted(a, b, bias):
        shapes.append((tuple(a.shape), tuple(b.shape)))
        return real(a, b, bias)

    monkeypatch.setattr(products, "_onednn", counted)
    return shapes


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LAYOUTS = {
    "by rows": lambda m: m,
    "by columns": lambda m: m.T.contiguous().T,
    "window": lambda m: torch.nn.functional.pad(m, (2, 3, 1, 1))[1:-1, 2:-3],
    "repeated": lambda m: m[:1].expand(m.shape),
}
sizes = st.integers(1, 40)


@given(sizes, sizes, sizes, st.sampled_from(list(LAYOUTS)), st.sampled_from(list(LAYOUTS)))
def test_product_is_that_of_float64_whatever_the_shape_and_the_layout(m, n, k, of_a, of_b):
    a, b = LAYOUTS[of_a](random(m, k)), LAYOUTS[of_b](random(n, k, seed=1))
    expected = a.double() @ b.double().T
    torch.testing.assert_close(product(a, b).double(), expected, atol=1e-4, rtol=1e-5)


def test_a_window_of_a_larger_matrix_does_not_go_to_onednn_before_it_is_copied(asked):
    window = random(30, 30)[2:20, 3:28]
    product(window, random(4, 25))
    assert asked == []
    copied = stored_whole(window)
    torch.testing.assert_close(copied, window, atol=0, rtol=0)
    product(copied, random(4, 25))
    product(random(4, 25), copied)
    product(random(4, 18), copied.T)
    assert asked == [((18, 25), (4, 25)), ((18, 25), (4, 25)), ((4, 18), (25, 18))]
    assert stored_whole(copied) is copied
    assert stored_whole(copied.T).data_ptr() == copied.data_ptr()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (1, 1, 12)])
def test_linear_and_its_gradients_are_those_of_float64(shape, bias, asked):
    given = [random(*shape), random(9, 12, seed=1), *([random(9, seed=2)] if bias else [])]
    weights = random(*shape[:-1], 9, seed=3)
    found, expected = [], []
    for dtype, results in ((torch.float64, expected), (torch.float32, found)):
        tensors = [each.to(dtype).requires_grad_() for each in given]
        with fast_products(True):
            out = linear(*tensors)
        (out * weights.to(dtype)).sum().backward()
        results += [out, *(each.grad for each in tensors)]
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact.double(), atol=1e-5, rtol=1e-5)
    assert len(asked) == 3  # forward, and the gradients of states and weight; float64 is not asked


def test_a_gradient_without_memory_of_its_own_is_understood():
    # The gradient of a sum is one number, repeated; that of a transpose is stored by columns.
    for end in (lambda out: out.sum(), lambda out: (out.mT.contiguous() ** 2).sum()):
        grads = []
        for on in (True, False):
            states, weight = random(6, 5).requires_grad_(), random(8, 5, seed=1).requires_grad_()
            with fast_products(on):
                end(linear(states, weight)).backward()
            grads.append((states.grad, weight.grad))
        torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


def test_only_the_gradients_that_are_asked_for_are_computed(asked):
    weight, states = random(8, 5), random(6, 5).requires_grad_()
    with fast_products(True):
        linear(states, weight).sum().backward()
    assert weight.grad is None
    assert asked == [((6, 5), (8, 5)), ((6, 8), (5, 8))]


@pytest.mark.parametrize(
    ("states", "weight"),
    [
        (random(6, 5).bfloat16(), random(8, 5).bfloat16()),
        (random(6, 5).double(), random(8, 5).double()),
        (random(6, 5).to("meta"), random(8, 5).to("meta")),
        (random(5, 6).T, random(8, 5)),
        (random(5), random(8, 5)),
        (random(6, 5), random(5)),
    ],
)
def test_what_onednn_is_not_for_is_left_to_pytorch(states, weight, asked):
    expected = linear(states, weight)
    with fast_products(True):
        found = linear(states, weight)
    assert asked == []
    assert (found.dtype, found.device, found.shape) == (
        expected.dtype, expected.device, expected.shape,
    )  # fmt: skip


def test_small_products_autocast_and_what_is_outside_are_left_to_pytorch(asked, monkeypatch):
    states, weight = random(6, 5), random(8, 5)
    linear(states, weight)
    with fast_products(True):
        with fast_products(False):
            linear(states, weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(states, weight).dtype == torch.bfloat16
        monkeypatch.setattr(products, "WORTH", 6 * 5 * 8 + 1)
        linear(states, weight)
        assert asked == []
        monkeypatch.setattr(products, "WORTH", 6 * 5 * 8)
        linear(states, weight)
        assert len(asked) == 1
    linear(states, weight)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("parameters", "device", "faster"),
    [(SMALL, "cpu", 1), (SMALL - 1, "cpu", 0), (SMALL, "cuda:0", 0)],
)
def test_large_models_on_a_cpu_compute_by_the_faster_products(parameters, device, faster, asked):
    with threads_for(parameters, device):
        linear(random(6, 5), random(8, 5))
    assert len(asked) == faster


def test_randomised_factors_of_windows_and_transposes_stay_what_they_were(monkeypatch):
    for weight in (random(300, 200), random(320, 230)[5:305, 9:209], random(200, 300).T):
        found = truncated_svd(weight, 8)
        with monkeypatch.context() as patch:
            patch.setattr(products, "has_faster", lambda: False)
            expected = truncated_svd(weight, 8)
        torch.testing.assert_close(found.product(), expected.product(), atol=1e-3, rtol=0)
        assert found.energy == pytest.approx(expected.energy, rel=1e-5)
        np.testing.assert_allclose(found.a @ found.a.T, np.eye(8), atol=1e-5)


@pytest.mark.parametrize(
    ("capability", "processor", "expected"),
    [
        ("AVX512", "vendor_id : AuthenticAMD", True),
        ("AVX512", "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", True),
        ("AVX512", "vendor_id : GenuineIntel", False),
        ("AVX2", "vendor_id : AuthenticAMD", False),
        ("DEFAULT", "", False),
    ],
)
def test_processors_that_mkl_holds_back(capability, processor, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(products, "_processor", lambda: processor)
    assert has_faster.__wrapped__() is expected
