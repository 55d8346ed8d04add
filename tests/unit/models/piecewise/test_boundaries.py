"""States between blocks: what is put is what is taken, and the file does not grow without need."""

from __future__ import annotations

import errno
import os
from contextlib import closing

import pytest
import torch

from nuggets.errors import NuggetsError
from nuggets.models.piecewise.boundaries import InMemory, OnDisk

CPU = torch.device("cpu")


@pytest.fixture
def on_disk(tmp_path):
    with closing(OnDisk(tmp_path)) as kept:
        yield kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_put_is_what_is_taken_bit_for_bit(dtype, on_disk):
    draw = torch.Generator().manual_seed(0)
    tensors = {(i, "x"): torch.randn(2, 3 + i, 4, generator=draw).to(dtype) for i in range(5)}
    for kept in (InMemory(), on_disk):
        for key, tensor in tensors.items():
            kept.put(key, tensor.transpose(0, 1))  # not contiguous
        for key in reversed(tensors):
            found = kept.take(key, CPU)
            assert torch.equal(found, tensors[key].transpose(0, 1))
            assert found.dtype == dtype
            assert found.is_leaf
        kept.drop((1, "x"))
        with pytest.raises(KeyError):
            kept.take((1, "x"), CPU)


def test_what_is_taken_asks_for_a_gradient_only_where_its_user_does(on_disk):
    for kept in (InMemory(), on_disk):
        kept.put("a", torch.ones(2))
        assert kept.take("a", CPU).requires_grad_().requires_grad
        assert not kept.take("a", CPU).requires_grad


def test_places_are_used_again_and_the_file_has_no_name(on_disk, tmp_path):
    kept = on_disk
    for step in range(6):
        kept.put("gradient", torch.full((8,), float(step)))
        kept.put(step, torch.full((8,), -float(step)))
        kept.drop(step - 1)
    assert torch.equal(kept.take("gradient", CPU), torch.full((8,), 5.0))
    assert torch.equal(kept.take(5, CPU), torch.full((8,), -5.0))
    kept._file.flush()
    assert os.fstat(kept._file.fileno()).st_size <= 3 * 32
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["write", "readinto", "seek"])
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, name):
    kept = OnDisk(tmp_path)
    kept.put("a", torch.ones(4))

    class Full:
        def __getattr__(self, asked):
            return fail if asked in (name, "close") else lambda *_: 0

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept._file.close()
    monkeypatch.setattr(kept, "_file", Full())
    ask = (lambda: kept.take("a", CPU)) if name != "write" else lambda: kept.put("b", torch.ones(4))
    with pytest.raises(NuggetsError, match="disk") as told:
        ask()
    assert str(tmp_path) in str(told.value)
    kept.close()
