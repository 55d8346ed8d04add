"""Block streaming gives what hooks give, for every architecture of the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nuggets.amounts import size
from nuggets.compute import products
from nuggets.extraction.plan import ExtractionConfig, LoraConfig, make_plan
from nuggets.extraction.selectors import NeuronsSelector, WindowSelector
from nuggets.extraction.window_request import WindowRequest
from nuggets.extraction.windows_while_measuring import ChosenParts
from nuggets.models.architecture import ARCHITECTURES, LAYER_ROLES
from nuggets.models.forward import blocks_of
from nuggets.models.loading import load_model
from nuggets.models.pair import read_spec
from nuggets.models.piecewise.boundaries import InMemory
from nuggets.models.references import parse_ref
from nuggets.progress import InMemoryProgress
from nuggets.sensitivity import streaming
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.map_writer import MapWriter
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.several_devices import measure_on
from nuggets.sensitivity.streaming import stream_sensitivity
from tests.architectures import spared

SAMPLES = [
    ([3, 5, 7, 9, 11, 2], [-100, -100, -100, 9, 11, 2]),
    ([4, 6, 8, 10, 2], [-100, -100, -100, 10, 2]),
    (list(range(3, 24)), [-100] * 9 + list(range(12, 24))),
]


def both(folder, **options):
    ref = parse_ref(str(folder))
    dtype = options.get("dtype", torch.float32)
    model = load_model(ref, str(dtype).removeprefix("torch."))
    keep = options.get("keep", "full")
    hooks = compute_sensitivity(model, read_spec(ref), SAMPLES, options.get("score"), keep)
    return hooks, stream_sensitivity(ref, SAMPLES, **options)


def assert_equal_maps(found, expected):
    assert found.parameters == expected.parameters
    assert list(found.rows) == list(expected.rows)
    np.testing.assert_array_equal(found.totals, expected.totals)
    for module in expected.rows:
        np.testing.assert_array_equal(found.rows[module], expected.rows[module])
        np.testing.assert_array_equal(found.cols[module], expected.cols[module])
    assert list(found.full) == list(expected.full)
    for module in expected.full:
        np.testing.assert_array_equal(found.full[module], expected.full[module])


ALL_FOUR = ("llama", "gpt2", "gemma2")
"""Kinds on which tied words and what is kept are tried in every combination, not only in pairs."""
COMBINED = [
    pytest.param(kind, tied, keep, marks=spared(kind))
    for kind in ARCHITECTURES
    for tied, keep in ((False, "full"), (True, "sums"), (True, "full"), (False, "sums"))
    if tied == (keep == "sums") or kind in ALL_FOUR
]


@pytest.mark.parametrize(("kind", "tied", "keep"), COMBINED)
def test_streaming_equals_hooks_bit_for_bit(kind, tied, keep, tiny):
    folder = tiny(kind, num_hidden_layers=3, tie_word_embeddings=tied, shard_size="20KB")
    hooks, streamed = both(folder, keep=keep)
    assert_equal_maps(streamed, hooks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2", "gemma2"])
def test_states_on_disk_change_no_bit_and_none_stays_in_memory(
    kind, tied, dtype, tiny, tmp_path, monkeypatch
):
    ref = parse_ref(str(tiny(kind, num_hidden_layers=3, tie_word_embeddings=tied)))
    expected = stream_sensitivity(ref, SAMPLES, dtype=dtype)
    monkeypatch.setattr(streaming, "free_memory", lambda device: 1)
    monkeypatch.setattr(InMemory, "put", None)
    progress = InMemoryProgress()
    found = stream_sensitivity(ref, SAMPLES, dtype=dtype, spill=tmp_path, progress=progress)
    assert_equal_maps(found, expected)
    assert list(tmp_path.iterdir()) == []
    states = sum(len(ids) for ids, _ in SAMPLES) * read_spec(ref).hidden_size * 5 * dtype.itemsize
    told = f"States between blocks are kept on disk: {size(states, digits=3)}."
    assert progress.messages[0] == told


@pytest.mark.parametrize(
    ("kind", "tied", "keep"),
    [
        pytest.param(kind, *((False, "full"), (True, "sums"))[n % 2], marks=spared(kind))
        for n, kind in enumerate(ARCHITECTURES)
    ],
)
def test_the_faster_products_change_rounding_and_streaming_follows(
    kind, tied, keep, tiny, monkeypatch
):
    folder = tiny(kind, num_hidden_layers=3, tie_word_embeddings=tied, shard_size="20KB")
    ref = parse_ref(str(folder))
    plain = compute_sensitivity(load_model(ref), read_spec(ref), SAMPLES, keep=keep)
    monkeypatch.setattr(products, "has_faster", lambda: True)
    monkeypatch.setattr(products, "WORTH", 1)
    with products.fast_products(True):
        hooks, streamed = both(folder, keep=keep)
    assert_equal_maps(streamed, hooks)
    np.testing.assert_allclose(hooks.totals, plain.totals, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_a_map_written_as_it_grows_is_the_map_that_is_saved_at_the_end(kind, tiny, tmp_path):
    ref = parse_ref(str(tiny(kind)))
    whole = stream_sensitivity(ref, SAMPLES, meta={"label": "x"})
    (tmp_path / "saved").mkdir()
    whole.save(tmp_path / "saved")
    (tmp_path / "grown").mkdir()
    writer = MapWriter(tmp_path / "grown")
    grown = stream_sensitivity(ref, SAMPLES, parts=writer, meta={"label": "x"})
    assert not writer.full
    assert_equal_maps(grown, SensitivityMap.load(tmp_path / "saved"))
    assert (tmp_path / "grown/map.json").read_text() == (tmp_path / "saved/map.json").read_text()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2"])
def test_windows_searched_on_the_fly_are_those_of_the_full_map_bit_for_bit(
    kind, tied, tiny, tmp_path
):
    ref = parse_ref(str(tiny(kind, num_hidden_layers=3, tie_word_embeddings=tied)))
    student = read_spec(parse_ref(str(tiny(kind, hidden_size=16, num_hidden_layers=2))))
    selectors = (WindowSelector(), NeuronsSelector())
    request = WindowRequest.of(student, selectors)
    full = stream_sensitivity(ref, SAMPLES)
    parts = [ChosenParts(request), ChosenParts(request)]
    streamed = stream_sensitivity(ref, SAMPLES, parts=parts[0])
    hooks = compute_sensitivity(load_model(ref), read_spec(ref), SAMPLES, parts=parts[1])
    assert not any(part.full for part in parts)
    streamed.save(tmp_path)
    read = SensitivityMap.load(tmp_path)
    for selector in selectors:
        config = ExtractionConfig(matrices=selector, roles=("embed", *LAYER_ROLES, "head"))
        expected, *found = (
            make_plan(map, student, config, LoraConfig(r=2))
            for map in (full, streamed, hooks, read)
        )
        assert found == [expected] * 3


def test_checkpointing_changes_no_bit_and_leaves_the_model_as_it_was(tiny):
    ref = parse_ref(str(tiny()))
    model, spec = load_model(ref), read_spec(ref)
    plain = compute_sensitivity(model, spec, SAMPLES)
    assert_equal_maps(compute_sensitivity(model, spec, SAMPLES, checkpoint=True), plain)
    assert all("forward" not in vars(block) for block in blocks_of(model, spec))


@pytest.mark.slow
def test_two_processes_add_up_to_the_map_of_one(tiny, tmp_path):
    """Not the gradient of both halves: |a + b| would be smaller than |a| + |b|."""
    ref = parse_ref(str(tiny()))
    alone = compute_sensitivity(load_model(ref), read_spec(ref), SAMPLES)
    measure_on(["cpu", "cpu"], ref, SAMPLES, tmp_path, meta={"label": "both"})
    both = SensitivityMap.load(tmp_path)
    assert both.meta == {"label": "both"}
    np.testing.assert_allclose(both.totals, alone.totals, rtol=1e-6)
    for module in alone.rows:
        np.testing.assert_allclose(both.rows[module], alone.rows[module], rtol=1e-5)
        np.testing.assert_allclose(both.cols[module], alone.cols[module], rtol=1e-5)
    for module in alone.full:
        noise = 1e-6 * float(alone.full[module].max())  # the processes have fewer threads each
        np.testing.assert_allclose(both.full[module], alone.full[module], rtol=1e-5, atol=noise)
