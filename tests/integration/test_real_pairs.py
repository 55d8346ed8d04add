"""Pairs that people own, rebuilt from their published dimensions: nothing is refused but memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pairs import HEADS, PAIRS, look, row

DOCUMENT = Path(__file__).parents[2] / "docs" / "pairs.md"
SAID = HEADS.index("sensitivity, whole")
"""Columns before it are facts of the two models; memory is an estimate, which may be refined."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return {pair: look(*pair, root) for pair in PAIRS}


def test_the_document_says_of_every_pair_what_is_cut_and_what_starts_plain(published):
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    written = {tuple(line[2:-2].split(" | "))[:SAID] for line in lines[1:]}
    assert written == {row(*pair, found)[:SAID] for pair, found in published.items()}
    assert len(written) >= 30


@pytest.mark.parametrize("pair", PAIRS, ids=" to ".join)
def test_a_pair_is_refused_for_memory_alone(published, pair):
    found = published[pair]
    assert all(problem.startswith("Stage ") for problem in found.problems), found.problems


def test_parameters_are_those_that_the_names_say(published):
    """Embeddings counted once; names round, and Gemma's count without the embedding."""
    found = {f.source.rpartition("/")[2]: f.parameters / 1e9
             for p in published.values() for f in (p.teacher, p.student) if f}  # fmt: skip
    for name, billions in {
        "Llama-3.1-8B": 8.03, "Llama-3.2-1B": 1.24, "Qwen2.5-7B": 7.61, "Qwen3-0.6B": 0.596,
        "Gemma-2-2B": 2.61, "Gemma-3-1B": 1.0, "SmolLM2-135M": 0.135, "SmolLM3-3B": 3.08,
        "OLMo-2-7B": 7.30, "Granite-3.1-2B": 2.53, "Phi-3-mini": 3.82, "Pythia-1.4B": 1.41,
        "GPT-2": 0.124, "StarCoder2-3B": 3.03, "Aya-Expanse-8B": 8.03, "GLM-4-9B": 9.40,
    }.items():  # fmt: skip
        assert found[name] == pytest.approx(billions, rel=0.01), name
