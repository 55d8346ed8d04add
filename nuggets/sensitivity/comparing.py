"""One map out of several of the same model: what one skill has and others have not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nuggets.sensitivity.accumulate import MapParts
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Compared, Contrast, Specific


def compare_maps(
    score: Compared,
    own: SensitivityMap,
    others: Sequence[SensitivityMap],
    parts: MapParts | None = None,
    meta: Mapping[str, Any] | None = None,
) -> SensitivityMap:
    """What a score of comparison makes of finished maps, one matrix of each in memory at a time.

    A comparison is no sum over samples. Each sample's share of a matrix is taken from the own
    map, so that intervals tell how far the samples of the skill agree, with the reference set
    fixed. Vectors (norms and biases) have no entries in a map and count as 0.

    Args:
        score: which comparison.
        own: |θ · g| of the skill, entry by entry.
        others: the same of each skill of the reference set.
        parts: what becomes of finished matrices; they stay in memory when not given.
        meta: stored with the map.

    Raises:
        BadInput: if a map of the reference set was not kept in full.
    """
    assert isinstance(score, Specific | Contrast)
    maps, parts = [own, *others], MapParts() if parts is None else parts
    scales = [score.scale(map) for map in maps]
    parts.begin(own.spec, own.parameters, own.n_samples)
    for column, name in enumerate(own.parameters):
        module, samples = name.removesuffix(".weight"), own.totals[:, column]
        if module not in own.full:
            parts.totals[name] = np.zeros(own.n_samples)
            continue
        first, *rest = (map.matrix(module) for map in maps)
        matrix = score.compare(first, rest, scales)
        parts.take_matrix(module, matrix)
        parts.totals[name] = samples * (parts.rows[module].sum() / (samples.sum() or 1.0))
    return parts.finish(own.spec, score.kind, own.parameters, meta or {})
