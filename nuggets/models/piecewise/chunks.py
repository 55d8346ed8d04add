"""How many positions reach the head at once, so that their logits take little memory."""

from __future__ import annotations

_LOGIT_BYTES = {"cuda": 2**28}
"""Float32 logits of one chunk. A GPU multiplies many rows faster than few; a processor does not."""
_ELSEWHERE = 2**25
COPIES = 4
"""Of a chunk's logits: theirs, log-probabilities, and the gradients of both."""


def positions_at_once(vocab_size: int, device: str) -> int:
    """Positions whose logits are computed together, on a device such as `cpu` or `cuda:0`."""
    return max(16, _LOGIT_BYTES.get(device.partition(":")[0], _ELSEWHERE) // (4 * vocab_size))
