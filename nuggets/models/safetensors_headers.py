"""Safetensors headers, read by hand, and whether they fit the config.

Format: 8 bytes of header length, a JSON object name → dtype, shape, data_offsets, then the data
without gaps. No weight is read, and everything may come from a hostile file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nuggets.disk.untrusted import check_not_lfs, damaged, open_file, parse_json, read_json
from nuggets.errors import Damaged, Unsupported
from nuggets.models.architecture import ArchSpec
from nuggets.models.gguf.headers import read_gguf
from nuggets.models.hub import cached_folder, hub_shapes
from nuggets.models.layout import canonical_name, expected_tensors, is_table, optional_tensors
from nuggets.models.references import INDEX, ModelRef, model_files, refuse_adapter, weight_files

MAX_HEADER_BYTES = 16_000_000
MAX_TENSORS = 50_000
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8,
    "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "C64": 64,
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")


class TensorHeader(NamedTuple):
    """How one tensor is stored: dtype as the file names it, shape in PyTorch's order."""

    dtype: str
    shape: tuple[int, ...]


def tensor_shapes(ref: ModelRef) -> dict[str, TensorHeader]:
    """The dtype and shape of every weight, from headers alone (of a hub model: without a download).

    Raises:
        Damaged: if a file is truncated, overlapping, absurd, or differs from the shard index.
        BadInput: as `model_files` does.
    """
    if ref.format == "gguf":
        assert ref.path is not None, "GGUF files are local"
        return {n: TensorHeader(*t) for n, t in read_gguf(ref.path).shapes().items()}
    if ref.path is None:
        assert ref.hub_id is not None, "a reference names a path or a hub id"
        folder = cached_folder(ref.hub_id, ref.revision)
        if folder is None:
            refuse_adapter(ref)
            shapes = hub_shapes(ref.hub_id, ref.revision)
            return {name: TensorHeader(*tensor) for name, tensor in shapes.items()}
        ref = ref.model_copy(update={"path": folder})
    files = model_files(ref)
    headers = {n: read_header(file) for n, file in files.items() if n.endswith(".safetensors")}
    if INDEX in files:
        _check_index(files[INDEX].parent, headers)
    return {name: tensor for header in headers.values() for name, tensor in header.items()}


def read_header(file: Path) -> dict[str, TensorHeader]:
    """The tensors of one safetensors file.

    Raises:
        Damaged: naming the file and what is wrong with it.
    """
    check_not_lfs(file)
    size = file.stat().st_size
    with open_file(file) as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise damaged(file, f"only {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise damaged(file, f"its header claims {length:,} bytes of {size:,}")
        text = stream.read(length)
    try:
        content = parse_json(text)
        if not isinstance(content, dict):
            raise ValueError("the header is not a JSON object")
        if len(content) > MAX_TENSORS:
            raise ValueError(f"{len(content):,} tensors; at most {MAX_TENSORS:,} are read")
        return _tensors(content, size - 8 - length)
    except ValueError as problem:
        raise damaged(file, str(problem)) from None


def _tensors(content: Mapping[str, Any], available: int) -> dict[str, TensorHeader]:
    """Checks that the tensors cover the data without gap or overlap."""
    tensors, spans = {}, []
    for name, entry in content.items():
        if name == "__metadata__":
            continue
        tensors[name], begin, end = _entry(name, entry)
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            fault = "overlaps another" if begin < position else "leaves a gap before it"
            raise ValueError(f"tensor {name!r} {fault}")
        position = end
    if position != available:
        raise ValueError(f"its tensors need {position:,} bytes and it has {available:,}")
    return tensors


def _entry(name: str, entry: Any) -> tuple[TensorHeader, int, int]:
    """One tensor's header and its byte range."""
    try:
        dtype, shape = entry["dtype"], entry["shape"]
        begin, end = entry["data_offsets"]
        bits = _BITS[dtype]
        if len(shape) > 8 or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"tensor {name!r} has a garbled header") from None
    if (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(f"tensor {name!r} does not fill its {end - begin:,} bytes")
    return TensorHeader(dtype, tuple(shape)), begin, end


def _check_index(folder: Path, headers: Mapping[str, Mapping[str, TensorHeader]]) -> None:
    """Refuses shards whose tensors are not exactly those that the index names for them."""
    listed = read_json(folder / INDEX)["weight_map"]
    for name, file in listed.items():
        if name not in headers[file]:
            raise Damaged(f"File damaged or incomplete: {file} lacks {name}, which {INDEX} lists.")
    for file, header in headers.items():
        for name in header:
            if listed.get(name) != file:
                raise Damaged(
                    f"{file} in {folder} holds {name}, which {INDEX} does not list there."
                )


def count_parameters(spec: ArchSpec, shapes: Mapping[str, TensorHeader]) -> int:
    """Parameters of the model as stored; a tied head counts once."""
    head = f"{spec.module('head')}.weight"
    return sum(
        math.prod(tensor.shape)
        for name, tensor in shapes.items()
        if not (spec.tied and name == head) and not is_table(spec, name)
    )


def check_keys(ref: ModelRef, spec: ArchSpec) -> dict[str, TensorHeader]:
    """Refuses weights that are not exactly those that the config describes.

    Args:
        ref: the model.
        spec: its dimensions, as `read_spec` gives them.

    Returns:
        What `tensor_shapes` gave, under transformers' names, so that headers are read once.

    Raises:
        Damaged: naming what is missing, left over or of another shape.
        Unsupported: if a weight is not stored as floating-point numbers.
    """
    shapes = {canonical_name(spec, name): t for name, t in tensor_shapes(ref).items()}
    expected = dict(expected_tensors(spec))
    allowed = expected | dict(optional_tensors(spec))
    missing = [name for name in expected if name not in shapes]
    extra = [n for n in shapes if n not in allowed and not is_table(spec, n)]
    for what, names in (("lack", missing), ("have, unlike the config,", extra)):
        if names:
            raise Damaged(
                f"The weights of {ref.source} {what} {len(names)} tensor(s): {some(names)}. "
                "Config and weights do not belong together, or a file is missing."
            )
    for name, tensor in shapes.items():
        if name in allowed and tensor.shape != allowed[name]:
            raise Damaged(
                f"{name} of {ref.source} has shape {list(tensor.shape)}, but the config says "
                f"{list(allowed[name])}. Config and weights do not belong together."
            )
        if ref.format != "gguf" and name in allowed and tensor.dtype not in FLOATS:
            raise Unsupported(
                f"{name} of {ref.source} is stored as {tensor.dtype}; sensitivities need "
                f"{', '.join(FLOATS)}. Use the original weights."
            )
    return shapes


def weight_bytes(ref: ModelRef, shapes: Mapping[str, TensorHeader]) -> int:
    """Bytes of the weights on disk, or to be downloaded for a hub model."""
    if ref.path is not None:
        return sum(file.stat().st_size for file in weight_files(ref))
    bits = sum(math.prod(t.shape) * _BITS.get(t.dtype, 32) for t in shapes.values())
    return bits // 8


def some(names: list[str], limit: int = 3) -> str:
    """The first few of many names, for a sentence."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
