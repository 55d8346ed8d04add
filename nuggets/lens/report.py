"""What looking into a model on one prompt gave, as numbers and in words."""

from __future__ import annotations

from nuggets.frozen import Frozen


class Lens(Frozen):
    """How one model comes to an answer, layer by layer and token by token.

    Attributes:
        tokens: the answer's tokens as text, its end included: what enters the loss.
        rank: `[layers + 1][tokens]`, the place of the right token among all words, 1 the first
            choice, when the model's own final norm and head read what enters the first layer and
            what leaves each layer.
        probability: likewise, what it is given there.
        best: likewise, which token is the first choice.
        attribution: `[layers][tokens]`, Σ|θ · ∂ℓ/∂θ| over all parameters θ of a layer, norms and
            biases included, where ℓ is the loss of that token alone, in nats.
    """

    tokens: tuple[str, ...]
    rank: tuple[tuple[int, ...], ...]
    probability: tuple[tuple[float, ...], ...]
    best: tuple[tuple[str, ...], ...]
    attribution: tuple[tuple[float, ...], ...]

    @property
    def places(self) -> tuple[str, ...]:
        """Where the lens looks: at the embedding, then behind each layer."""
        return ("embedding", *(f"L{layer}" for layer in range(len(self.attribution))))

    @property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """The attribution as each layer's share of a token's sum over layers; 0 where it is 0.

        Shares can be compared between tokens and models. The sums cannot: ∂ℓ/∂θ vanishes as the
        probability of the right token comes near 1, whatever computed it.
        """
        sums = [sum(column) or 1.0 for column in zip(*self.attribution, strict=True)]
        return tuple(tuple(a / s for a, s in zip(r, sums, strict=True)) for r in self.attribution)

    @property
    def known_from(self) -> tuple[str | None, ...]:
        """Per token, from which place on it is the first choice; None if it is not at the end."""
        columns = ([rank == 1 for rank in column] for column in zip(*self.rank, strict=True))
        return tuple(
            next(name for i, name in enumerate(self.places) if all(column[i:]))
            if column[-1]
            else None
            for column in columns
        )

    def sentence(self, name: str) -> str:
        """When the model of this name knows the answer."""
        known = [place for place in self.known_from if place is not None]
        if not known:
            return f"{name}: no token of the answer is the first choice at the end."
        last = max(known, key=self.places.index)
        missed = [repr(t) for t, at in zip(self.tokens, self.known_from, strict=True) if at is None]
        if not missed:
            return f"{name} knows the whole answer from {last} on."
        return (
            f"{name} knows {len(known)} of {len(self.tokens)} tokens of the answer, from {last} on;"
            f" not {', '.join(missed)}."
        )
