"""Layer selectors: which teacher layers map onto the student's. One class and one line each."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pydantic import Field

from nuggets.alignment.report import monotone_path
from nuggets.errors import BadInput
from nuggets.frozen import Frozen

Scores = Float[ndarray, " n_teacher"]
Similarity = Float[ndarray, "n_teacher n_student"]


class LayerChoice(Frozen):
    """What all layer selectors share."""

    needs_cka: ClassVar[bool] = False
    """Whether it looks at the similarity of the pair's layers, which has to be measured."""
    kind: Any  # a literal in every selector

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        """Picks the teacher layers of `n` student layers.

        Args:
            scores: the sensitivity of every teacher layer.
            n: how many.
            cka: similarity of the pair's layers, where `needs_cka`.

        Raises:
            BadInput: if the pair cannot be served, in one sentence.
        """
        raise NotImplementedError

    def pairs(
        self, scores: Scores, n: int, cka: Similarity | None = None
    ) -> tuple[tuple[int, int], ...]:
        """Which teacher layer each student layer receives: `(student, teacher)`, ascending.

        A student deeper than its teacher receives every teacher layer once, at the same relative
        depth; its other layers receive none.

        Raises:
            BadInput: as `select` does.
        """
        if n <= len(scores):
            return tuple(enumerate(self.select(scores, n, cka)))
        places = np.linspace(0, n - 1, len(scores)).round().astype(int)
        return tuple((int(student), teacher) for teacher, student in enumerate(places))


class TopLayers(LayerChoice):
    """The most sensitive layers, in their order (the paper)."""

    kind: Literal["sensitivity"] = "sensitivity"

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        """Picks `n` teacher layers, ascending; ties go to the lowest index."""
        return sorted(int(layer) for layer in np.argsort(-scores, kind="stable")[:n])


class FirstLayers(LayerChoice):
    """The first layers."""

    kind: Literal["first"] = "first"

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        """Picks `n` teacher layers, ascending."""
        return list(range(n))


class LastLayers(LayerChoice):
    """The last layers."""

    kind: Literal["last"] = "last"

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        """Picks `n` teacher layers, ascending."""
        return list(range(len(scores) - n, len(scores)))


class UniformLayers(LayerChoice):
    """Layers at equal distances, first and last included."""

    kind: Literal["uniform"] = "uniform"

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        """Picks `n` teacher layers, ascending."""
        return [int(layer) for layer in np.linspace(0, len(scores) - 1, n).round()]


class RandomLayers(LayerChoice):
    """Layers chosen at random (a control)."""

    kind: Literal["random"] = "random"
    seed: int = Field(default=0, title="Draw", description="Seed of the random choice.")

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        """Picks `n` teacher layers, ascending, the same for the same seed."""
        chosen = np.random.default_rng(self.seed).choice(len(scores), n, replace=False)
        return sorted(int(layer) for layer in chosen)


class CkaPath(LayerChoice):
    """The ascending map onto the student's layers with the greatest total CKA."""

    needs_cka = True
    kind: Literal["cka"] = "cka"

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        """Picks `n` teacher layers, ascending.

        Raises:
            BadInput: if the pair's CKA was not measured.
        """
        if cka is None:
            raise BadInput(
                "The layer selector `cka` needs the alignment of the two models; run "
                "`nuggets align`."
            )
        return monotone_path(cka)

    def pairs(
        self, scores: Scores, n: int, cka: Similarity | None = None
    ) -> tuple[tuple[int, int], ...]:
        """Where the student is deeper, the path runs over its layers."""
        if n <= len(scores) or cka is None:
            return tuple(enumerate(self.select(scores, n, cka)))
        return tuple((student, teacher) for teacher, student in enumerate(monotone_path(cka.T)))


class RelativeDepth(UniformLayers):
    """The teacher layer at the same relative depth; shared where the student is deeper."""

    kind: Literal["relative"] = "relative"  # type: ignore[assignment]

    def pairs(
        self, scores: Scores, n: int, cka: Similarity | None = None
    ) -> tuple[tuple[int, int], ...]:
        """Every student layer receives one."""
        return tuple(enumerate(self.select(scores, n, cka)))


class LayersByHand(LayerChoice):
    """The layers named, in any order the user wants: entry i goes to student layer i."""

    kind: Literal["by_hand"] = "by_hand"
    layers: tuple[int, ...] = Field(
        title="Teacher layer per student layer",
        description="One number for each student layer, counted from 0 and separated by commas.",
        examples=[(0, 1, 2, 3)],
    )

    def select(self, scores: Scores, n: int, cka: Similarity | None = None) -> list[int]:
        """Returns the layers named.

        Raises:
            BadInput: if their number or an index does not fit the pair.
        """
        if len(self.layers) != n or not all(0 <= x < len(scores) for x in self.layers):
            raise BadInput(
                f"The layer map {list(self.layers)} is not valid: give {n} teacher layers, one "
                f"for each student layer, each from 0 to {len(scores) - 1}."
            )
        return list(self.layers)

    def pairs(
        self, scores: Scores, n: int, cka: Similarity | None = None
    ) -> tuple[tuple[int, int], ...]:
        """Every student layer receives the one that was named for it."""
        return tuple(enumerate(self.select(scores, n, cka)))


LayerSelector = Annotated[
    TopLayers
    | FirstLayers
    | LastLayers
    | UniformLayers
    | RelativeDepth
    | RandomLayers
    | CkaPath
    | LayersByHand,
    Field(discriminator="kind"),
]
"""The layer selectors, chosen by `kind`."""
