"""`python -m nuggets.models.unpickle_worker IN OUT`: one pickle as safetensors, in a child.

The pickle is read with `weights_only`, which builds tensors and plain containers and calls nothing
else. The process is thrown away afterwards, whatever the file did to it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WRAPPERS = ("state_dict", "model", "module")
"""Keys under which training scripts put the weights."""


def main() -> int:
    """Converts one file; on failure the last line of stderr says why. Returns the exit code."""
    import torch
    from safetensors.torch import save_file

    source, target = map(Path, sys.argv[1:])
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
        tensors = _own_memory(_tensors_in(content))
        save_file(tensors, target, metadata={"format": "pt"})
    except BaseException as problem:
        print(" ".join(str(problem).split())[:300] or type(problem).__name__, file=sys.stderr)
        return 1
    return 0


def _tensors_in(content: Any) -> dict[str, Any]:
    """The named tensors of a checkpoint, from under the wrapper that scripts put around them."""
    import torch

    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise ValueError("it holds no named tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name!r} is a {type(tensor).__name__}, not a named tensor")
    return dict(content)


def _own_memory(tensors: dict[str, Any]) -> dict[str, Any]:
    """Gives views and tied tensors memory of their own; safetensors stores no sharing."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        shared = place in seen or not whole
        seen.add(place)
        owned[name] = tensor.clone().contiguous() if shared else tensor.contiguous()
    return owned


if __name__ == "__main__":
    sys.exit(main())
