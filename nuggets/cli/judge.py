"""Allow benchmark judges: addresses that answers may be sent to, and their keys."""

from __future__ import annotations

from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import print_json, say, table

app = typer.Typer(
    help="Allow or forget judges; benchmarks send nothing to any other.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Url = Annotated[str, typer.Argument(help="Base URL, such as https://host/v1, as recipes name it.")]


@app.command()
def allow(
    url: Url,
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key; none is sent without it.")
    ] = None,
    json: o.AsJson = False,
) -> None:
    """Let benchmarks send questions and answers to an address."""
    kept = api.permits.allow(url, key_env)
    if json:
        return print_json({"url": kept, "key_env": key_env})
    with_key = f"with the key in {key_env}" if key_env else "without a key"
    return say(f"Benchmarks may now send questions and answers to {kept}, {with_key}.")


@app.command(name="list")
def list_(json: o.AsJson = False) -> None:
    """List the allowed addresses."""
    known = api.permits.allowed()
    if json:
        return print_json(known)
    return table(("address", "key in"), [(url, key or "–") for url, key in known.items()])


@app.command()
def forget(url: Url, json: o.AsJson = False) -> None:
    """Stop allowing an address."""
    api.permits.forget(url)
    return print_json({"forgotten": url}) if json else say(f"{url} is not allowed any more.")
