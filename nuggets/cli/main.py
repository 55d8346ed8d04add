"""The entry point: commands by name, errors as sentences, exit codes 0, 1 and 2."""

from __future__ import annotations

import sys

import typer

from nuggets.cli import measure, transfers
from nuggets.cli.output import print_json, say
from nuggets.errors import NuggetsError

app = typer.Typer(
    name="nuggets",
    help="Find where a language model keeps a skill, move it into a smaller one, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_COMMANDS = (
    measure.doctor,
    measure.pairs,
    measure.preflight,
    measure.sensitivity,
    measure.align,
    measure.plan,
    measure.extract,
    measure.cut,
    transfers.run,
    transfers.start,
    transfers.follow,
    transfers.cancel,
    transfers.resume,
    transfers.show,
    transfers.list_,
    transfers.export,
    transfers.compare,
)
for command in _COMMANDS:
    app.command(command.__name__.rstrip("_"))(command)


def main() -> None:
    """Runs a command; a failure is one sentence on stderr and the error's exit code."""
    try:
        app()
    except NuggetsError as error:
        if "--json" in sys.argv:
            print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        say(str(error))
        sys.exit(error.exit_code)
