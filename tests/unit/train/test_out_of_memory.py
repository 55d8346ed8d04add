"""Memory that runs out: recognised, halved once with the same gradient, then one sentence (F8)."""

from __future__ import annotations

import copy

import pytest
import torch

from nuggets.compute.memory import is_out_of_memory, memory_reported
from nuggets.data.samples import encode
from nuggets.errors import BadInput, OutOfMemory
from nuggets.progress import InMemoryProgress
from nuggets.train.checkpoints import trainable
from nuggets.train.config import TrainConfig
from nuggets.train.finetune import finetune
from nuggets.train.losses import DistillationLoss, answer_loss
from tests.unit.train.tiny_lab import letters, load

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB.")
ERRORS = {"cuda": CUDA, "cublas": CUBLAS, "cpu": CPU, "python": MemoryError()}
CONFIG = TrainConfig(steps=3, batch_size=5, lr=1e-2)


@pytest.fixture
def loaded(tiny):
    return load(tiny("llama"))


@pytest.fixture
def encoded(loaded):
    return [encode(sample, loaded.tokenizer) for sample in letters(10, 3)]


def failing(error, after: int, limit: int, loss=answer_loss):
    """A loss that has no memory for more than `limit` samples, from one step on.

    It fails after its own backward pass, so that half a gradient is there already.
    """
    calls = []

    def compute(model, ids, labels):
        calls.append(len(ids))
        value = loss(model, ids, labels)
        if len(calls) > after and len(ids) > limit:
            value.backward()
            raise error
        return value

    return compute, calls


def trained(loaded, encoded, loss=None, progress=None):
    model = copy.deepcopy(loaded.model)
    log = finetune(model, encoded, CONFIG, 0, loss=loss, progress=progress)
    return {name: p.detach() for name, p in trainable(model).items()}, log


@pytest.mark.parametrize("name", ERRORS)
def test_allocators_errors_are_recognised(name):
    assert is_out_of_memory(ERRORS[name])
    wrapped = ValueError("cannot load")
    wrapped.__cause__ = ERRORS[name]
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(12, "x"), KeyError("m")])
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), memory_reported("This", "wait"):
        raise error


def test_a_real_allocation_that_cannot_be_made_is_one_sentence():
    sentence = r"^This ran out of memory \(.*\); wait\.$"
    with pytest.raises(OutOfMemory, match=sentence), memory_reported("This", "wait"):
        torch.empty(2**60, dtype=torch.uint8)


def test_our_own_sentences_pass_unchanged():
    with pytest.raises(BadInput, match="as it was"), memory_reported("This", "wait"):
        raise BadInput("as it was")


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("after", [0, 1])
def test_a_batch_without_memory_is_halved_with_the_same_maths(
    name, after, loaded, encoded, counted
):
    """5 samples become 3 + 2 with different numbers of answer tokens; the mean is over tokens."""
    expected, plain = trained(loaded, encoded)
    loss, calls = failing(ERRORS[name], after, limit=3)
    progress = InMemoryProgress()
    found, log = trained(loaded, encoded, loss, progress)
    assert calls == [5] * (after + 1) + [3, 2] * (3 - after)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=2e-5, rtol=1e-4)
    assert log.losses == pytest.approx(plain.losses, rel=1e-5)
    assert [m for m in progress.messages if "did not fit into memory" in m] == [
        f"5 samples did not fit into memory at once. From step {after + 1} on, 3 are computed at "
        "once, which gives the same gradient."
    ]
    counted("F8", "an allocator's error in a step", 1)


def test_distillation_is_halved_with_the_same_maths(loaded, encoded, tiny):
    loss = DistillationLoss(load(tiny("llama", seed=5)).model)
    expected, _ = trained(loaded, encoded, loss)
    found, _ = trained(loaded, encoded, failing(CUDA, 0, 3, loss)[0])
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=2e-5, rtol=1e-4)


def test_there_is_one_retry_and_then_one_sentence(loaded, encoded):
    loss, calls = failing(CUDA, 0, limit=2)
    with pytest.raises(OutOfMemory, match=r"Half a training batch ran out of memory.*batch_size"):
        trained(loaded, encoded, loss)
    assert calls == [5, 3]


def test_other_errors_are_not_retried(loaded, encoded):
    loss, calls = failing(ValueError("shapes differ"), 0, limit=2)
    with pytest.raises(ValueError, match="shapes differ"):
        trained(loaded, encoded, loss)
    assert calls == [5]
