"""Answers that need not be asked for again after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nuggets.disk.commit import atomic_write, make_folder


class KeptOnDisk:
    """Answers in a folder, a file each. Keys name requests by content; one folder per model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)

    def get(self, key: str) -> Any | None:
        """What was kept; a damaged file counts as nothing."""
        try:
            return json.loads((self._folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None

    def put(self, key: str, value: Any) -> None:
        """Writes a JSON value to a file, whole or not at all."""
        atomic_write(self._folder / f"{key}.json", json.dumps(value))
