"""Maps of which only sums and chosen windows stay: no whole map in memory, none on disk.

A window needs one matrix and the student's shape, and nothing that comes later. So it is searched
the moment a matrix's scores are complete, and the scores are dropped: by hooks at the end, by
streaming after each block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from nuggets.extraction.window_request import WindowRequest
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.accumulate import MapParts
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.selected_entries import Pick


class ChosenParts(MapParts):
    """Parts of a map that are searched for windows when they are complete, and then dropped.

    Every layer's matrices are searched, since the layers follow from sums that are known last.
    """

    def __init__(self, request: WindowRequest) -> None:
        super().__init__()
        self._request = request
        self._roles: dict[str, str] = {}
        self._picks: dict[str, dict[str, Pick]] = {s.kind: {} for s in request.selectors}

    def begin(self, spec: ArchSpec, names: Sequence[str], n_samples: int) -> None:
        """Learns which role each module has."""
        self._roles = {module: role for module, role, _ in spec.modules()}

    def keep_full(self, module: str, matrix: Float[ndarray, "_ _"]) -> None:
        """Keeps what the selectors choose, and not the matrix."""
        shape = self._request.shapes.get(self._roles.get(module, ""))
        if shape is None or np.any(np.less(matrix.shape, shape)):
            return  # the student has no such matrix, or none that can be cut out of this one
        for selector in self._request.selectors:
            self._picks[selector.kind][module] = selector.choose(matrix, self.rows[module], shape)

    def finish(
        self, spec: ArchSpec, kind: str, names: Sequence[str], meta: Mapping[str, Any]
    ) -> SensitivityMap:
        """The map's sums and its windows."""
        return replace(super().finish(spec, kind, names, meta), picks=self._picks)
