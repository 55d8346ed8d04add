"""The entry point: commands by name, errors as sentences, exit codes 0, 1 and 2."""

from __future__ import annotations

import sys
from typing import Any

import typer

from nuggets.cli import ask, evaluate, judge, measure, recipes, studies, transfers
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

UsageError: Any = typer.BadParameter.__base__
"""A wrong option or a missing argument; typer has no public name for it."""

_INTERRUPTED = 130  # what newer typers return after Ctrl-C; older ones raise Abort

_COMMANDS = (
    measure.doctor,
    measure.pairs,
    measure.preflight,
    measure.sensitivity,
    measure.align,
    measure.plan,
    measure.power,
    measure.extract,
    measure.cut,
    measure.convert,
    evaluate.evaluate,
    evaluate.prompt,
    recipes.recipes,
    transfers.run,
    transfers.start,
    transfers.follow,
    transfers.cancel,
    transfers.resume,
    transfers.show,
    transfers.list_,
    transfers.export,
    transfers.compare,
    studies.paper,
    studies.calibrate,
    transfers.bundle,
    transfers.import_,
    ask.ask,
)
for command in _COMMANDS:
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(judge.app, name="judge")


def main() -> None:
    """Runs a command; a failure is one sentence on stderr and the error's exit code."""
    try:
        code = app(standalone_mode=False)
    except NuggetsError as error:
        sys.exit(_refuse(type(error).__name__, str(error), error.exit_code))
    except UsageError as error:  # a wrong option, a missing argument
        if not sys.argv[1:]:
            sys.exit(_refuse("BadInput", error.format_message(), 2))  # the list of commands
        sentence = f"{error.format_message().rstrip('.')}. See `nuggets --help`."
        sys.exit(_refuse("BadInput", sentence, 2))
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    sys.exit(_refuse("Cancelled", "Stopped on request.", 1) if code == _INTERRUPTED else code or 0)


def _refuse(kind: str, sentence: str, code: int) -> int:
    if "--json" in sys.argv:
        print_json({"error": {"type": kind, "message": sentence}})
    say(sentence)
    return code
