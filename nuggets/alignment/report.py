"""The alignment of two models: the layer map along the greatest similarity, and the report.

Rows are the teacher's layers, columns the student's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nuggets.errors import BadInput, Damaged

TENSORS = "alignment.safetensors"
META = "alignment.json"
SCHEMA = 1


def monotone_path(similarity: Float[ndarray, "teacher_layers student_layers"]) -> list[int]:
    """The strictly increasing layer map of greatest total similarity, by dynamic programming.

    Returns:
        For each student layer its teacher layer; among equal totals the lowest indices.

    Raises:
        BadInput: if the student has more layers than the teacher, or an entry is not finite.
    """
    n_teacher, n_student = similarity.shape
    if n_student > n_teacher or not np.isfinite(similarity).all():
        raise BadInput(
            f"There is no layer map for {n_teacher} teacher and {n_student} student layers: the "
            "teacher needs at least as many layers as the student, and every similarity must be "
            "finite."
        )
    # values[j][i]: best total of student layers j, j+1, … if layer j takes teacher layer i.
    values: list[ndarray] = []
    best_after = np.zeros(n_teacher + 1)
    for column in similarity.T.astype(np.float64)[::-1]:
        values.insert(0, column + best_after[1:])
        best_after = np.append(np.maximum.accumulate(values[0][::-1])[::-1], -np.inf)
    path: list[int] = []
    for totals in values:
        start = path[-1] + 1 if path else 0
        path.append(start + int(np.argmax(totals[start:])))
    return path


@dataclass(frozen=True, eq=False)
class AlignmentReport:
    """What was measured between the layers of a teacher and a student.

    Cell (i, j) compares the states after teacher block i with those after student block j.

    Attributes:
        matrices: float64. `cka`, `subspace` and `r2` over all skills' answer tokens, `profile`
            if sensitivity maps were given, and per skill `cka.<skill>`, `r2.<skill>` and
            `stitching.<skill>`. NaN marks a stitching cell left out because the models are deep.
        n_tokens: answer tokens behind `cka` and `subspace`.
        skills: whose samples were used.
        meta: JSON facts, such as `baselines` (what unrelated layers would give), `scores`
            (skill → exact match of teacher and student on the stitching samples), `words` (skill →
            `Readability` of single words, where answers come again) and settings.
    """

    matrices: Mapping[str, Float[ndarray, "_ _"]]
    n_tokens: int
    skills: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def by_skill(self, measure: str) -> dict[str, Float[ndarray, "_ _"]]:
        """Skill → matrix of `cka`, `r2` or `stitching`, where it was measured."""
        names = {skill: f"{measure}.{skill}" for skill in self.skills}
        return {s: self.matrices[name] for s, name in names.items() if name in self.matrices}

    @property
    def stitching(self) -> dict[str, Float[ndarray, "_ _"]]:
        """Skill → stitching accuracy."""
        return self.by_skill("stitching")

    def tables(self) -> dict[str, list[list[float | None]]]:
        """All matrices as JSON values; cells that were left out are None."""
        return {
            name: [[None if np.isnan(x) else float(x) for x in row] for row in matrix]
            for name, matrix in self.matrices.items()
        }

    def save(self, folder: Path) -> None:
        """Writes `alignment.safetensors` and `alignment.json` into an existing folder."""
        # safetensors writes a transposed view's bytes in the wrong order without a word.
        tensors = {
            name: np.ascontiguousarray(matrix, dtype=np.float64)
            for name, matrix in self.matrices.items()
        }
        save_file(tensors, folder / TENSORS)
        head = {
            "schema": SCHEMA,
            "matrices": list(self.matrices),
            "n_tokens": self.n_tokens,
            "skills": list(self.skills),
            "meta": dict(self.meta),
        }
        (folder / META).write_text(json.dumps(head, indent=1, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> AlignmentReport:
        """Reads a saved report.

        Raises:
            Damaged: if the folder does not hold a complete report.
        """
        try:
            head = json.loads((folder / META).read_text(encoding="utf-8"))
            if head["schema"] != SCHEMA:
                raise ValueError(f"schema {head['schema']}, not {SCHEMA}")
            tensors = load_file(folder / TENSORS)
            matrices = {name: tensors[name] for name in head["matrices"]}
            return cls(matrices, int(head["n_tokens"]), tuple(head["skills"]), head["meta"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
            raise Damaged(
                f"The alignment in {folder} is damaged or incomplete ({problem}). Delete the "
                "folder and measure it again."
            ) from None
