"""The command `ask`: one question to models and arms of a run, with probabilities."""

from __future__ import annotations

from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import bars, print_json, say, table
from nuggets.errors import BadInput


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
    if prompt:
        _ask(prompt, model or [], run, arm or [], seed, scale, tokens, format, device, json)
    elif not free:
        raise BadInput("Give a question, or only --free to unload the models.")
    if free:
        api.playground.free()


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
    elif arms:
        raise BadInput("--arm needs --run, the transfer that the arm belongs to.")
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
