"""Real pairs, rebuilt from their published dimensions: what is cut, what starts plain, the needs.

`python -m benchmarks.pairs` writes header-only checkpoints (a config and an empty file of the right
size), looks at each pair as `nuggets preflight` does, and prints the table of `docs/pairs.md`. No
weight is read or downloaded.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nuggets.models.architecture import ArchSpec
from nuggets.models.kinds.wrappers import outer_name
from nuggets.models.layout import expected_tensors
from nuggets.models.pair import Model, ModelPair
from nuggets.models.references import parse_ref
from nuggets.preflight.headers import Preflight, preflight
from nuggets.preflight.resources import Machine, Work

_KEYS = (
    "model_type", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings",
)  # fmt: skip
_GPT2 = {"num_hidden_layers": "n_layer", "hidden_size": "n_embd", "num_attention_heads": "n_head"}

# Name: tokenizer, then `_KEYS`. A head_dim of None is the width over the heads.
MODELS: dict[str, tuple[Any, ...]] = {
    "Llama-2-7B": ("llama2", "llama", 32, 4096, 11008, 32, 32, None, 32000, False),
    "Llama-2-13B": ("llama2", "llama", 40, 5120, 13824, 40, 40, None, 32000, False),
    "Llama-2-70B": ("llama2", "llama", 80, 8192, 28672, 64, 8, None, 32000, False),
    "TinyLlama-1.1B": ("llama2", "llama", 22, 2048, 5632, 32, 4, None, 32000, False),
    "Llama-3.1-8B": ("llama3", "llama", 32, 4096, 14336, 32, 8, None, 128256, False),
    "Llama-3.1-70B": ("llama3", "llama", 80, 8192, 28672, 64, 8, None, 128256, False),
    "Llama-3.2-1B": ("llama3", "llama", 16, 2048, 8192, 32, 8, 64, 128256, True),
    "Llama-3.2-3B": ("llama3", "llama", 28, 3072, 8192, 24, 8, 128, 128256, True),
    "Mistral-7B-v0.3": ("mistral", "mistral", 32, 4096, 14336, 32, 8, None, 32768, False),
    "Ministral-8B": ("tekken", "mistral", 36, 4096, 12288, 32, 8, 128, 131072, False),
    "Mistral-Nemo-12B": ("tekken", "mistral", 40, 5120, 14336, 32, 8, 128, 131072, False),
    "Mistral-Small-24B": ("tekken", "mistral", 40, 5120, 32768, 32, 8, 128, 131072, False),
    "Qwen2.5-0.5B": ("qwen2", "qwen2", 24, 896, 4864, 14, 2, None, 151936, True),
    "Qwen2.5-1.5B": ("qwen2", "qwen2", 28, 1536, 8960, 12, 2, None, 151936, True),
    "Qwen2.5-3B": ("qwen2", "qwen2", 36, 2048, 11008, 16, 2, None, 151936, True),
    "Qwen2.5-7B": ("qwen2", "qwen2", 28, 3584, 18944, 28, 4, None, 152064, False),
    "Qwen2.5-14B": ("qwen2", "qwen2", 48, 5120, 13824, 40, 8, None, 152064, False),
    "Qwen2.5-32B": ("qwen2", "qwen2", 64, 5120, 27648, 40, 8, None, 152064, False),
    "Qwen2.5-72B": ("qwen2", "qwen2", 80, 8192, 29568, 64, 8, None, 152064, False),
    "Qwen3-0.6B": ("qwen3", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, True),
    "Qwen3-1.7B": ("qwen3", "qwen3", 28, 2048, 6144, 16, 8, 128, 151936, True),
    "Qwen3-4B": ("qwen3", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, True),
    "Qwen3-8B": ("qwen3", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, False),
    "Qwen3-14B": ("qwen3", "qwen3", 40, 5120, 17408, 40, 8, 128, 151936, False),
    "Qwen3-32B": ("qwen3", "qwen3", 64, 5120, 25600, 64, 8, 128, 151936, False),
    "Gemma-2B": ("gemma", "gemma", 18, 2048, 16384, 8, 1, 256, 256000, True),
    "Gemma-7B": ("gemma", "gemma", 28, 3072, 24576, 16, 16, 256, 256000, True),
    "Gemma-2-2B": ("gemma", "gemma2", 26, 2304, 9216, 8, 4, 256, 256000, True),
    "Gemma-2-9B": ("gemma", "gemma2", 42, 3584, 14336, 16, 8, 256, 256000, True),
    "Gemma-2-27B": ("gemma", "gemma2", 46, 4608, 36864, 32, 16, 128, 256000, True),
    "Gemma-3-270M": ("gemma3", "gemma3_text", 18, 640, 2048, 4, 1, 256, 262144, True),
    "Gemma-3-1B": ("gemma3", "gemma3_text", 26, 1152, 6912, 4, 1, 256, 262144, True),
    "Gemma-3-4B": ("gemma3", "gemma3", 34, 2560, 10240, 8, 4, 256, 262208, True),
    "Gemma-3-12B": ("gemma3", "gemma3", 48, 3840, 15360, 16, 8, 256, 262208, True),
    "Gemma-3-27B": ("gemma3", "gemma3", 62, 5376, 21504, 32, 16, 128, 262208, True),
    "Qwen2.5-VL-7B": ("qwen2", "qwen2_5_vl", 28, 3584, 18944, 28, 4, None, 152064, False),
    "SmolLM2-135M": ("smol", "llama", 30, 576, 1536, 9, 3, None, 49152, True),
    "SmolLM2-360M": ("smol", "llama", 32, 960, 2560, 15, 5, None, 49152, True),
    "SmolLM2-1.7B": ("smol", "llama", 24, 2048, 8192, 32, 32, None, 49152, True),
    "SmolLM3-3B": ("smol3", "smollm3", 36, 2048, 11008, 16, 4, None, 128256, True),
    "OLMo-2-1B": ("olmo", "olmo2", 16, 2048, 8192, 16, 16, None, 100352, False),
    "OLMo-2-7B": ("olmo", "olmo2", 32, 4096, 11008, 32, 32, None, 100352, False),
    "OLMo-2-13B": ("olmo", "olmo2", 40, 5120, 13824, 40, 40, None, 100352, False),
    "OLMo-2-32B": ("olmo", "olmo2", 64, 5120, 27648, 40, 8, None, 100352, False),
    "Olmo-3-7B": ("olmo", "olmo3", 32, 4096, 11008, 32, 32, None, 100278, False),
    "Olmo-3-32B": ("olmo", "olmo3", 64, 5120, 27648, 40, 8, None, 100278, False),
    "Granite-3.1-2B": ("granite", "granite", 40, 2048, 8192, 32, 8, None, 49155, True),
    "Granite-3.1-8B": ("granite", "granite", 40, 4096, 12800, 32, 8, None, 49155, True),
    "Phi-1.5": ("phi", "phi", 24, 2048, 8192, 32, 32, None, 51200, False),
    "Phi-2": ("phi", "phi", 32, 2560, 10240, 32, 32, None, 51200, False),
    "Phi-3-mini": ("llama2-phi", "phi3", 32, 3072, 8192, 32, 32, None, 32064, False),
    "Phi-3-medium": ("llama2-phi", "phi3", 40, 5120, 17920, 40, 10, None, 32064, False),
    "Pythia-410M": ("neox", "gpt_neox", 24, 1024, 4096, 16, 16, None, 50304, False),
    "Pythia-1.4B": ("neox", "gpt_neox", 24, 2048, 8192, 16, 16, None, 50304, False),
    "Pythia-2.8B": ("neox", "gpt_neox", 32, 2560, 10240, 32, 32, None, 50304, False),
    "Pythia-6.9B": ("neox", "gpt_neox", 32, 4096, 16384, 32, 32, None, 50432, False),
    "GPT-2": ("gpt2", "gpt2", 12, 768, None, 12, None, None, 50257, True),
    "GPT-2-XL": ("gpt2", "gpt2", 48, 1600, None, 25, None, None, 50257, True),
    "StarCoder2-3B": ("starcoder", "starcoder2", 30, 3072, 12288, 24, 2, None, 49152, True),
    "StarCoder2-7B": ("starcoder", "starcoder2", 32, 4608, 18432, 36, 4, None, 49152, True),
    "Aya-Expanse-8B": ("cohere", "cohere", 32, 4096, 14336, 32, 8, None, 256000, True),
    "Aya-Expanse-32B": ("cohere", "cohere", 40, 8192, 24576, 64, 8, None, 256000, True),
    "EXAONE-4.0-1.2B": ("exaone", "exaone4", 30, 2048, 4096, 32, 8, 64, 102400, True),
    "EXAONE-4.0-32B": ("exaone", "exaone4", 64, 5120, 27392, 40, 8, 128, 102400, False),
    "GLM-4-9B": ("glm", "glm", 40, 4096, 13696, 32, 2, 128, 151552, False),
}

PAIRS = (
    ("Llama-2-13B", "Llama-2-7B"), ("Llama-2-70B", "Llama-2-13B"),
    ("Llama-2-7B", "TinyLlama-1.1B"), ("Llama-3.1-70B", "Llama-3.1-8B"),
    ("Llama-3.1-8B", "Llama-3.2-3B"), ("Llama-3.1-8B", "Llama-3.2-1B"),
    ("Llama-3.2-3B", "Llama-3.2-1B"), ("Llama-3.1-8B", "SmolLM3-3B"),
    ("Llama-3.1-8B", "Qwen2.5-1.5B"), ("Mistral-Small-24B", "Ministral-8B"),
    ("Mistral-Nemo-12B", "Mistral-7B-v0.3"), ("Qwen2.5-72B", "Qwen2.5-7B"),
    ("Qwen2.5-32B", "Qwen2.5-7B"), ("Qwen2.5-14B", "Qwen2.5-7B"), ("Qwen2.5-7B", "Qwen2.5-3B"),
    ("Qwen2.5-7B", "Qwen2.5-1.5B"), ("Qwen2.5-7B", "Qwen2.5-0.5B"),
    ("Qwen2.5-3B", "Qwen2.5-0.5B"), ("Qwen3-32B", "Qwen3-8B"), ("Qwen3-14B", "Qwen3-8B"),
    ("Qwen3-8B", "Qwen3-4B"), ("Qwen3-8B", "Qwen3-1.7B"), ("Qwen3-8B", "Qwen3-0.6B"),
    ("Qwen3-4B", "Qwen3-0.6B"), ("Gemma-7B", "Gemma-2B"), ("Gemma-2-27B", "Gemma-2-9B"),
    ("Gemma-2-9B", "Gemma-2-2B"), ("Gemma-3-1B", "Gemma-3-270M"),
    ("Gemma-3-4B", "Gemma-3-1B"), ("Gemma-3-12B", "Gemma-3-4B"), ("Gemma-3-27B", "Gemma-3-12B"),
    ("Qwen2.5-VL-7B", "Qwen2.5-1.5B"),
    ("SmolLM2-1.7B", "SmolLM2-360M"), ("SmolLM2-1.7B", "SmolLM2-135M"),
    ("SmolLM2-360M", "SmolLM2-135M"), ("OLMo-2-32B", "OLMo-2-13B"), ("OLMo-2-13B", "OLMo-2-7B"),
    ("OLMo-2-7B", "OLMo-2-1B"), ("Olmo-3-32B", "Olmo-3-7B"),
    ("Granite-3.1-8B", "Granite-3.1-2B"), ("Phi-3-medium", "Phi-3-mini"), ("Phi-2", "Phi-1.5"),
    ("Pythia-6.9B", "Pythia-1.4B"), ("Pythia-2.8B", "Pythia-410M"), ("GPT-2-XL", "GPT-2"),
    ("StarCoder2-7B", "StarCoder2-3B"), ("Aya-Expanse-32B", "Aya-Expanse-8B"),
    ("EXAONE-4.0-32B", "EXAONE-4.0-1.2B"), ("GLM-4-9B", "Llama-3.2-3B"),
)  # fmt: skip

WRAPPERS = ("gemma3", "qwen2_5_vl")
"""Types of models that also see; of them the text decoder is looked at."""
MACHINE = Machine(
    device="cuda:0", memory_free=24 * 10**9, ram_free=64 * 10**9, disk_free=2 * 10**12
)
WORK = Work(dtype="bfloat16", train_dtype="bfloat16", keeps_map=False)
STAGES = ("sensitivity (sums)", "sensitivity (streaming)", "training")


def write_model(name: str, root: Path) -> Path:
    """A folder with a model's config, its tensors' headers, and a tokenizer of one word."""
    folder = root / name
    if folder.exists():
        return folder
    folder.mkdir()
    words, *values = MODELS[name]
    config = {key: x for key, x in zip(_KEYS, values, strict=True) if x is not None}
    renamed = _GPT2 if config["model_type"] == "gpt2" else {}
    config = {renamed.get(key, key): value for key, value in config.items()}
    if config["model_type"] in WRAPPERS:
        config = {"model_type": config["model_type"], "text_config": config}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {words: 0}}}))
    header, end, spec = {}, 0, ArchSpec.from_config(config)
    for tensor, shape in expected_tensors(spec):
        begin, end = end, end + 2 * math.prod(shape)
        stored = outer_name(tensor) if spec.wrapped else tensor
        header[stored] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)  # a hole: nothing is written, and nothing is read
    return folder


def look(teacher: str, student: str, root: Path) -> Preflight:
    """The preflight of one pair."""
    models = (Model(parse_ref(str(write_model(name, root)))) for name in (teacher, student))
    return preflight(ModelPair(*models), work=WORK, machine=MACHINE)


def row(teacher: str, student: str, found: Preflight) -> tuple[str, ...]:
    """What the table says of a pair."""
    assert found.student is not None
    spec = found.student.spec
    whole = spec.n_layers * len(spec.architecture.roles)
    plain = next((note for note in found.notes if "start as plain LoRA, the" in note), "")
    n_plain = int(plain.partition(" of ")[0]) if plain else 0
    why = plain.partition("(")[2].removesuffix(").") or "–"
    needs = {stage.stage: f"{stage.bytes_needed / 1e9:.1f}" for stage in found.stages}
    return (
        teacher,
        student,
        f"{whole - n_plain} of {whole}",
        why,
        found.vocabularies,
        *(needs[stage] for stage in STAGES),
        _fits(found),
    )


def _fits(found: Preflight) -> str:
    short = [stage.stage for stage in found.stages if not stage.fits]
    if found.problems:
        return "no: " + ", ".join(stage for stage in STAGES if stage in short)
    return "all but training" if "training" in short else "yes"


HEADS = ("teacher", "student", "cut", "plain LoRA", "tokenizers", "sensitivity, whole",
         "by blocks", "training", "on 24 GB")  # fmt: skip


def table(root: Path) -> Iterator[str]:
    """The table in Markdown, line by line."""
    yield f"| {' | '.join(HEADS)} |"
    yield "|" + "---|" * len(HEADS)
    for teacher, student in PAIRS:
        yield f"| {' | '.join(row(teacher, student, look(teacher, student, root)))} |"


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        print("\n".join(table(Path(folder))))
