"""The commands `ask` and `lens`: what models answer, and when they know the right answer."""

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


def ask(
    prompt: Annotated[str, typer.Argument(help="The question.")] = "",
    model: Annotated[
        list[str] | None, typer.Option(help="A model that answers; repeatable.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="A transfer whose arms also answer.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="An arm of --run; repeatable.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the arms; by default the first.")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Scale of the adapters: 0 student, 1 as trained.")
    ] = 1.0,
    tokens: Annotated[int, typer.Option(help="Max new tokens of an answer.")] = 24,
    format: o.Format = "paper",
    free: Annotated[bool, typer.Option(help="Unload the models afterwards.")] = False,
    device: o.Device = "auto",
    json: o.AsJson = False,
) -> None:
    """Ask models and arms a question; they stay loaded."""
    if not prompt and not free:
        raise BadInput("Give a question, or only --free to unload the models.")
    try:
        if prompt:
            _ask(prompt, model or [], run, arm or [], seed, scale, tokens, format, device, json)
    finally:
        if free:
            api.playground.free()
    if json and not prompt:
        print_json({"unloaded": True})


def _ask(
    prompt: str,
    models: list[str],
    run: str | None,
    arms: list[str],
    seed: int | None,
    scale: float,
    tokens: int,
    format: str,
    device: str,
    json: bool,
) -> None:
    speakers = [api.playground.Speaker(model=o.absolute(name)) for name in models]
    if run is not None:
        speakers += _arms(api.open_run(run), arms, seed)
    elif arms or seed is not None:
        what = "arm" if arms else "seed"
        raise BadInput(f"--{what} needs --run, the transfer that the arm belongs to.")
    if not speakers:
        speakers = [api.playground.Speaker(model=name) for name in ("teacher", "independent")]
    with bars():
        reply = api.playground.ask(
            api.playground.question(
                speakers=speakers,
                prompt=prompt,
                scale=scale,
                max_new_tokens=tokens,
                format=format,
                device=device,
            )
        )
    if all(each.problem for each in reply.answers):
        raise _problems(reply.answers)
    if json:
        return print_json(reply)
    rows = [
        (a.speaker.label, a.text or a.problem, " ".join(f"{t.probability:.2f}" for t in a.tokens))
        for a in reply.answers
    ]
    table(("who", "answer", "probability per token"), rows)
    for each in reply.answers:
        if each.note:
            say(f"{each.speaker.label}: {each.note}")
    return None


def _problems(answers: Iterable[api.playground.Answer]) -> BadInput:
    """What went wrong with each model that said nothing."""
    return BadInput(" ".join(f"{each.speaker.label}: {each.problem}" for each in answers))


def _arms(run: api.Run, arms: list[str], seed: int | None) -> list[api.playground.Speaker]:
    """The arms asked for, or all of a run, each with the seed given or its first."""
    known = api.playground.speakers_of(run)
    wanted = arms or list(dict.fromkeys(str(each.arm) for each in known))
    found = [
        next((s for s in known if s.arm == arm and seed in (None, s.seed)), None) for arm in wanted
    ]
    for arm, speaker in zip(wanted, found, strict=True):
        if speaker is None:
            names = ", ".join(dict.fromkeys(str(s.arm) for s in known)) or "none"
            raise BadInput(f"Run {run.id} has no finished arm {arm!r} (seed {seed}): {names}.")
    return [speaker for speaker in found if speaker is not None]


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
    if failed := [each for each in reply.answers if each.lens is None]:
        raise _problems(failed)
    if json:
        return print_json(reply)
    for each in reply.answers:
        assert each.lens is not None
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
