"""What an `adapter_config.json` may say: plain LoRA, of the ranks that the weights have."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from nuggets.disk.untrusted import read_json
from nuggets.errors import BadInput, Unsupported

_MODULE = re.compile(r"[\w.]{1,200}")
"""PEFT reads the keys of its patterns as regular expressions; ours are names."""
_READ = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern",
    "modules_to_save", "fan_in_fan_out",
}  # fmt: skip
_TOLD = {"base_model_name_or_path", "peft_version", "revision", "task_type", "inference_mode"}
_FIXED = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False)}
_OFF: tuple[Any, ...] = (None, False, [], {}, "none", "")


def check_options(file: Path, ranks: Collection[int], whole: Iterable[str]) -> None:
    """Refuses a configuration that makes PEFT do anything but load plain LoRA.

    Args:
        file: an `adapter_config.json`.
        ranks: those of the stored matrices.
        whole: names of modules that the file of weights holds whole.

    Raises:
        Unsupported: naming an option that is not plain LoRA.
        BadInput: naming a value that no adapter has.
    """
    config = read_json(file)
    for name, value in config.items():
        fixed = _FIXED.get(name)
        if (fixed is not None and value not in fixed) or (
            fixed is None and name not in _READ | _TOLD and value not in _OFF
            and not _is_idle(name, value)
        ):  # fmt: skip
            raise Unsupported(
                f"{file} sets {name[:60]} to {str(value)[:60]!r}; only plain LoRA can be loaded."
            )
    _check_ranks(file, config, ranks)
    named = [config.get("target_modules"), config.get("modules_to_save") or []]
    for names in named:
        if not isinstance(names, list) or not all(map(_is_module, names)):
            raise BadInput(f"{file} does not list its modules by their names.")
    if strange := set(named[1]) - set(whole):
        raise BadInput(f"{file} keeps {min(strange)} whole, but the weights do not contain it.")


def _is_idle(name: str, value: Any) -> bool:
    """Settings of methods that are switched off, which PEFT writes all the same."""
    return name in ("megatron_core", "qalora_group_size") and value in ("megatron.core", 16)


def _check_ranks(file: Path, config: Mapping[str, Any], ranks: Collection[int]) -> None:
    patterns = [config.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    if not all(isinstance(p, dict) and all(map(_is_module, p)) for p in patterns):
        raise BadInput(f"{file} names modules that none can have in its patterns.")
    common = config.get("r")
    if set(config.get("target_modules") or ()) <= set(patterns[0]) and type(common) is int:
        common = min(ranks, default=0)  # every module has a rank of its own
    for rank in (common, *patterns[0].values()):
        if type(rank) is not int or rank not in ranks:
            raise BadInput(f"{file} gives a rank of {str(rank)[:30]}, which no stored matrix has.")
    scales = [config.get("lora_alpha"), *patterns[1].values(), config.get("lora_dropout", 0.0)]
    if not all(type(x) in (int, float) and abs(x) <= 1e6 for x in scales):
        raise BadInput(f"{file} has a lora_alpha or lora_dropout that is no usual number.")


def _is_module(name: Any) -> bool:
    return isinstance(name, str) and _MODULE.fullmatch(name) is not None
