"""The sensitivity map: what was measured, and how it is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nuggets.errors import BadInput, Damaged
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.selected_entries import Picks, pick_head, pick_tensors, read_picks

TENSORS = "map.safetensors"
META = "map.json"
SCHEMA = 1


class StoredMatrices(Mapping[str, ndarray]):
    """Full maps read one at a time from a safetensors file; nothing is held in memory."""

    def __init__(self, path: Path, modules: tuple[str, ...]):
        self._path = path
        self._modules = modules

    def __getitem__(self, module: str) -> ndarray:
        with safe_open(self._path, framework="np") as file:
            return file.get_tensor(f"full.{module}")

    def __contains__(self, module: object) -> bool:
        return module in self._modules  # a mapping's own test would read the matrix

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


@dataclass(frozen=True, eq=False)
class SensitivityMap:
    """Sensitivity of every parameter of one model for one set of samples.

    `S(θ) = Σ_x |θ · ∂L(x)/∂θ|` (eq. 2 of the paper), or another score from
    `nuggets.sensitivity.scores`.

    Attributes:
        spec: dimensions of the model.
        score: kind of the score, such as `theta_grad`.
        rows: module → sums over the columns, float64 `[out]`.
        cols: module → sums over the rows, float64 `[in]`.
        full: module → float32 `[out, in]`; empty when only sums were kept.
        parameters: names of all parameters, norms and biases included.
        totals: float64 `[n_samples, n_parameters]`, each sample's sum per parameter.
        meta: where it came from: model and sample digests, dtype, label.
        picks: windows that were chosen while it was measured, where the full map was not kept.
    """

    spec: ArchSpec
    score: str
    rows: Mapping[str, Float[ndarray, " _"]]
    cols: Mapping[str, Float[ndarray, " _"]]
    full: Mapping[str, Float[ndarray, "_ _"]]
    parameters: tuple[str, ...]
    totals: Float[ndarray, "n_samples n_parameters"]
    meta: Mapping[str, Any] = field(default_factory=dict)
    picks: Picks = field(default_factory=dict)

    @property
    def n_samples(self) -> int:
        """Seed samples that went in."""
        return int(self.totals.shape[0])

    @cached_property
    def layer_samples(self) -> Float[ndarray, "n_samples n_layers"]:
        """Each sample's sum over all parameters of a layer, norms and biases included."""
        sums = np.zeros((self.n_samples, self.spec.n_layers))
        for column, name in enumerate(self.parameters):
            layer = self.spec.layer_of(name)
            if layer is not None:
                sums[:, layer] += self.totals[:, column]
        return sums

    @property
    def layer_scores(self) -> Float[ndarray, " n_layers"]:
        """The paper's layer score: summed over samples and over all parameters of the layer."""
        return self.layer_samples.sum(axis=0)

    def total(self, module: str) -> float:
        """The summed sensitivity of one matrix."""
        return float(self.rows[module].sum())

    def matrix(self, module: str) -> Float[ndarray, "_ _"]:
        """The full map of one matrix.

        Raises:
            BadInput: if it was not kept.
        """
        if module not in self.full:
            beside = " and the windows of one student" if self.picks else ""
            raise BadInput(
                f"This map has only row and column sums{beside}, but every entry of {module} is "
                "needed. Measure again with keep: full, or choose the selector rows_cols or "
                "consistent."
            )
        return self.full[module]

    def blocks(self) -> Iterator[tuple[str, Float[ndarray, "_ _"]]]:
        """Every matrix of the layers with its module, in the model's order, one at a time.

        Raises:
            BadInput: if they were not kept.
        """
        for module, _, layer in self.spec.modules():
            if layer is not None:
                yield module, self.matrix(module)

    def sums(self) -> dict[str, ndarray]:
        """The sums by the names that they are saved under: all that `of` needs beside the head."""
        sums = {"totals": self.totals}
        sums |= {f"rows.{name}": values for name, values in self.rows.items()}
        return sums | {f"cols.{name}": values for name, values in self.cols.items()}

    def save(self, folder: Path) -> None:
        """Writes `map.safetensors` and `map.json` into an existing folder."""
        tensors = self.sums() | pick_tensors(self.picks)
        tensors |= {f"full.{name}": values for name, values in self.full.items()}
        # safetensors writes a transposed view's bytes in the wrong order without a word.
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / TENSORS)
        write_head(self, folder, list(self.full))

    @classmethod
    def load(cls, folder: Path) -> SensitivityMap:
        """Opens a saved map; full matrices stay on disk until asked for.

        Raises:
            Damaged: if the folder does not hold a complete map.
        """
        try:
            head = json.loads((folder / META).read_text())
            if head["schema"] != SCHEMA:
                raise Damaged(f"The map in {folder} has schema {head['schema']}, not {SCHEMA}.")
            with safe_open(folder / TENSORS, framework="np") as file:
                full = StoredMatrices(folder / TENSORS, tuple(head["full"]))
                picks = read_picks(head.get("picks", {}), file.get_tensor)
                return cls.of(head, file.get_tensor, full, picks)
        except (OSError, ValueError, KeyError, SafetensorError) as problem:
            raise Damaged(
                f"The sensitivity map in {folder} is damaged or incomplete ({problem}). Delete "
                "the folder and compute it again."
            ) from None

    @classmethod
    def of(
        cls,
        head: Mapping[str, Any],
        read: Callable[[str], ndarray],
        full: Mapping[str, ndarray] | None = None,
        picks: Picks | None = None,
    ) -> SensitivityMap:
        """A map from its head and its sums, which `read` gives by the names of `sums`."""
        return cls(
            spec=ArchSpec(**head["spec"]),
            score=head["score"],
            rows={name: read(f"rows.{name}") for name in head["modules"]},
            cols={name: read(f"cols.{name}") for name in head["modules"]},
            full={} if full is None else full,
            parameters=tuple(head["parameters"]),
            totals=read("totals"),
            meta=head["meta"],
            picks=picks or {},
        )


def write_head(map: SensitivityMap, folder: Path, full: Sequence[str]) -> None:
    """Writes `map.json`: all but the numbers, and for which modules the full map is kept."""
    (folder / META).write_text(json.dumps(head_of(map, full), indent=1))


def head_of(map: SensitivityMap, full: Sequence[str] = ()) -> dict[str, Any]:
    """All of a map but its numbers, as JSON."""
    head = {
        "schema": SCHEMA,
        "spec": map.spec.model_dump(),
        "score": map.score,
        "parameters": list(map.parameters),
        "modules": list(map.rows),
        "full": list(full),
        "meta": dict(map.meta),
    }
    if map.picks:
        head["picks"] = pick_head(map.picks)
    return head
