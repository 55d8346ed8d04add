"""The command `lens`: when models know an answer, and on which layers its loss rests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import bars, print_json, say, table
from nuggets.errors import BadInput
from nuggets.lens.report import Lens

MOST_LAYERS = 3
"""Layers that are named for a token."""


def lens(
    prompt: Annotated[str, typer.Argument(help="The question.")],
    answer: Annotated[str, typer.Argument(help="The right answer.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to look into; repeatable. By default the built-in pair."),
    ] = None,
    format: o.Format = "paper",
    free: Annotated[bool, typer.Option(help="Unload the models afterwards.")] = False,
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Look into models on one prompt: when they know the answer.

    The logit lens has each model's own final norm and head read the states behind every layer;
    the attribution is the sum of |θ · gradient| over each layer's parameters for each token of
    the answer. Models stay loaded, as for `nuggets ask`.
    """
    names = [o.absolute(name) for name in model or ()] or ["teacher", "independent"]
    with bars():
        reply = api.playground.ask(
            api.playground.question(
                speakers=[api.playground.Speaker(model=name) for name in names],
                prompt=prompt,
                answer=answer,
                format=format,
                device=device,
            )
        )
    if free:
        api.playground.free()
    if json:
        return print_json(reply)
    for each in reply.answers:
        if each.lens is None:
            raise BadInput(f"{each.speaker.label}: {each.problem}")
        say(f"{each.lens.sentence(each.speaker.label)} {each.note}".rstrip())
        table(("token", "known from", "probability", "rank by layer", "rests on"), _rows(each.lens))
    return None


def _rows(found: Lens) -> Iterable[tuple[str, ...]]:
    """Per token: from where it is known, ranks from the embedding up, layers of the largest share.

    Ranks beyond 999 are told as such: how far behind the right token is no longer matters there.
    """
    for at, token in enumerate(found.tokens):
        ranks = [row[at] for row in found.rank]
        shares = {f"L{i}": row[at] for i, row in enumerate(found.shares)}
        most = sorted(shares, key=lambda name: -shares[name])[:MOST_LAYERS]
        yield (
            repr(token),
            found.known_from[at] or "never",
            f"{found.probability[-1][at]:.2f}",
            " ".join(str(rank) if rank < 1000 else ">999" for rank in ranks),
            ", ".join(f"{name} {shares[name]:.0%}" for name in most),
        )
