"""A sensitivity map that is written to disk as it grows."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.accumulate import MapParts
from nuggets.sensitivity.maps import TENSORS, SensitivityMap, write_head

_CODES = {"<f4": "F32", "<f8": "F64"}


class MapWriter(MapParts):
    """Parts of a full map that go to disk one by one, so that none stays in memory.

    The file is the one that `SensitivityMap.save` writes: names and shapes are known beforehand,
    so its header is written first and every matrix into its place when it is finished.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._places: dict[str, tuple[int, str, tuple[int, ...]]] = {}
        self._left: set[str] = set()

    def begin(self, spec: ArchSpec, names: Sequence[str], n_samples: int) -> None:
        """Writes the header and makes room for everything."""
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        modules = [(module, spec.shape(role)) for module, role, _ in spec.modules()]
        if spec.architecture.positions:
            modules.append(
                (spec.architecture.positions, (spec.size("positions"), spec.hidden_size))
            )
        for module, (rows, cols) in modules:
            shapes[f"full.{module}"] = ("<f4", (rows, cols))
            shapes[f"rows.{module}"] = ("<f8", (rows,))
            shapes[f"cols.{module}"] = ("<f8", (cols,))
        shapes["totals"] = ("<f8", (n_samples, len(names)))
        self._places = self._write_header(shapes)
        self._left = set(shapes)

    def _write_header(
        self, shapes: Mapping[str, tuple[str, tuple[int, ...]]]
    ) -> dict[str, tuple[int, str, tuple[int, ...]]]:
        """Writes the header and an empty body; returns each tensor's place in the file."""
        header, places, offset = {}, {}, 0
        # Eight-byte numbers first, as safetensors itself orders them: everything stays aligned.
        for name, (code, shape) in sorted(shapes.items(), key=lambda item: item[1][0] != "<f8"):
            size = math.prod(shape) * int(code[2:])
            header[name] = {
                "dtype": _CODES[code],
                "shape": list(shape),
                "data_offsets": [offset, offset + size],
            }
            places[name] = (offset, code, shape)
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (self._folder / TENSORS).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + offset)
        return {n: (8 + len(text) + at, code, shape) for n, (at, code, shape) in places.items()}

    def keep_full(self, module: str, matrix: Float[ndarray, "_ _"]) -> None:
        """Writes one full map into its place."""
        self._write(f"full.{module}", matrix)

    def _write(self, name: str, values: ndarray) -> None:
        at, code, shape = self._places[name]
        assert values.shape == shape, (name, values.shape, shape)
        with (self._folder / TENSORS).open("r+b") as file:
            file.seek(at)
            np.ascontiguousarray(values, dtype=code).tofile(file)
        self._left.discard(name)

    def finish(
        self, spec: ArchSpec, kind: str, names: Sequence[str], meta: Mapping[str, Any]
    ) -> SensitivityMap:
        """Writes what is left, and opens the map; full matrices stay on disk."""
        map = super().finish(spec, kind, names, meta)
        for module in map.rows:
            self._write(f"rows.{module}", map.rows[module])
            self._write(f"cols.{module}", map.cols[module])
        self._write("totals", map.totals)
        assert not self._left, f"never written: {sorted(self._left)[:3]}"
        write_head(map, self._folder, full=list(map.rows))
        return SensitivityMap.load(self._folder)
