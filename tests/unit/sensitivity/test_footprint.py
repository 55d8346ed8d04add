"""Memory of measuring, counted by hand on a model small enough for it."""

from __future__ import annotations

import pytest

from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.footprint import (
    CPU_ROOM,
    activation_bytes,
    head_bytes,
    hooks_bytes,
    row_bytes,
    rows_at_once,
    spills,
    state_bytes,
    streaming_bytes,
)
from nuggets.sensitivity.several_samples import samples_per_pass

SPEC = ArchSpec(
    model_type="llama", n_layers=3, hidden_size=8, intermediate_size=12, n_heads=4, n_kv_heads=1,
    head_dim=2, vocab_size=10, tied=False,
)  # fmt: skip
WIDE = SPEC.model_copy(update={"vocab_size": 1000})
# q and o have 8 · 8 weights, k and v 2 · 8, the three of the FFN 12 · 8: a block has 448, and the
# embedding 80 (of the wide one 8,000). Per token a block keeps 8 · 8 + 3 · 8 + 3 · 2 + 4 · 12 = 142
# numbers; logits take 10 · (2 + 8) = 100 bytes (10,000) beside numbers of 2 bytes.


def test_activations_are_those_of_every_block_and_of_the_logits():
    assert activation_bytes(SPEC, 5, 2) == 5 * (3 * 142 * 2 + 100)
    assert activation_bytes(WIDE, 5, 2) == 5 * (3 * 142 * 2 + 10_000)


def test_a_trained_sample_keeps_its_blocks_or_what_enters_them_and_one_block():
    assert row_bytes(SPEC, 5, 2) == 5 * 3 * 142 * 2
    assert row_bytes(SPEC, 5, 2, checkpointed=True) == 5 * (3 * 8 + 142) * 2


def test_logits_are_those_of_one_chunk_whatever_the_batch():
    large = SPEC.model_copy(update={"vocab_size": 2**17})
    chunk = 64 * 2**17 * 4  # 2^25 bytes of float32 logits are 64 positions
    assert head_bytes(large, 10**6, "cpu") == head_bytes(large, 64, "cpu") == 4 * chunk
    assert head_bytes(large, 10**6, "cuda:1") == 8 * 4 * chunk
    assert head_bytes(SPEC, 3, "cpu") == 4 * 3 * 10 * 4


def test_half_of_a_gpus_free_memory_is_planned_for_and_on_a_processor_always_the_same():
    assert rows_at_once(100, 1000, "cuda:0") == 5
    assert rows_at_once(10**6, 1000, "cuda:0") == rows_at_once(2**60, 1000, "cpu") == 1
    for free in (0, 1000, 2**60):
        assert rows_at_once(2**20, free, "cpu") == CPU_ROOM // 2**20
    assert rows_at_once(2**20, 2**40, "cuda:0") == 2**19


def test_hooks_keep_the_model_the_activations_and_the_largest_gradient_with_its_score():
    expected = 1000 * 2 + 5 * 952 + 96 * (2 + 8)
    assert hooks_bytes(SPEC, 1000, 5, 2, full=False) == expected
    assert hooks_bytes(SPEC, 1000, 5, 2, full=True) == expected + 4000


@pytest.mark.parametrize(
    ("spec", "part", "score", "longest"),
    [(SPEC, 448, 448 // 3, 5 * 142 * 2), (WIDE, 8000, 8000, 5 * 10_000)],
)
def test_streaming_keeps_one_part_its_scores_and_the_longest_sample(spec, part, score, longest):
    assert streaming_bytes(spec, [3, 5], 2) == part * (2 + 4) + score * 2 * 4 + longest


def test_states_between_blocks_stay_in_memory_where_half_of_what_is_free_holds_them():
    states = (3 + 5) * 8 * (3 + 2) * 2
    assert state_bytes(SPEC, [3, 5], 2) == states
    assert not spills(states, 2 * states)
    assert spills(states, 2 * states - 1)


def test_samples_of_a_pass_are_as_many_as_fit_with_their_attention():
    # A sample of 200 tokens: 5,000,000 gradients, 2 · 3 · 4 · 200² = 960,000 numbers of attention
    # and 200 · (3 · 142 · 4 + 10 · 12) bytes of activations: 24,204,800 bytes in all.
    assert samples_per_pass(SPEC, 5_000_000, [200, 7] * 20) == 2**28 // 24_204_800 == 11
