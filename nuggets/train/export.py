"""Writing a whole trained model, for arms whose result is not an adapter of the student."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers.utils import logging

from nuggets.extraction.adapter import is_wrapped
from nuggets.models.architecture import ArchSpec
from nuggets.models.fused import stored_layout


def save_model(model: Any, tokenizer: Any, folder: Path, card: str) -> None:
    """Writes a whole model, a LoRA merged into a copy of it."""
    whole: Any = copy.deepcopy(model).merge_and_unload() if is_wrapped(model) else model
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with stored_layout(whole, ArchSpec.from_config(whole.config.to_dict())):
            whole.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    (folder / "README.md").write_text(card)
