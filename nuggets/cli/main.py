"""The entry point: commands by name, errors as sentences, exit codes 0, 1 and 2."""

from __future__ import annotations

import ast
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nuggets import __version__
from nuggets.cli.options import flat
from nuggets.cli.output import print_json, quiet_bars, say, words
from nuggets.disk.last_frame import is_fault, sentence
from nuggets.errors import BadInput, NuggetsError
from nuggets.runs.stopping import own_process, stoppable

UsageError: Any = typer.BadParameter.__base__
"""A wrong option or a missing argument; typer has no public name for it."""

_INTERRUPTED = 130  # what newer typers return after Ctrl-C; older ones raise Abort

_COMMANDS = {
    name: module
    for module, names in (
        ("machine", "app"),
        ("measure", "doctor pairs preflight sensitivity"),
        ("erase", "erase"),
        ("measure", "align probe plan"),
        ("recipes", "power"),
        ("measure", "extract cut convert"),
        ("evaluate", "evaluate prompt"),
        ("recipes", "samples recipes allow"),
        ("transfers", "run start follow cancel resume show list prune export compare track"),
        ("sweeps", "sweep sweeps"),
        ("studies", "paper calibrate"),
        ("transfers", "bundle import"),
        ("ask", "ask lens"),
        ("judge", "judge"),
        ("atlas", "atlas"),
        ("machine", "engines"),
    )
    for name in names.split()
}
"""Name of a command → module beside this one, in the order of the help."""

_PLAIN: Any = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}


class _Commands(TyperGroup):
    """Imports and builds a command when it is asked for: all of them take as long as a short one.

    Click's way to a fast start; typer has none of its own.
    """

    def __init__(self, **given: Any) -> None:
        given["commands"] = dict.fromkeys(_COMMANDS)
        super().__init__(**given)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        if cmd_name not in _COMMANDS:
            return None
        module = vars(import_module(f"nuggets.cli.{_COMMANDS[cmd_name]}"))
        if (group := module.get("app")) is not None:
            return typer.main.get_command(group)
        alone = typer.Typer(**_PLAIN)
        # `list` and `import` are words of Python's own; their functions end in an underscore.
        alone.command(cmd_name)(flat(module.get(cmd_name) or module[f"{cmd_name}_"]))
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every command with its first line, read from the source: nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_line(name)) for name in _COMMANDS])


def _first_line(name: str) -> str:
    module = ast.parse(Path(__file__).with_name(f"{_COMMANDS[name]}.py").read_text("utf-8"))
    commands = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    own = [node for node in commands if node.name.removesuffix("_") == name]
    return (ast.get_docstring(own[0] if own else module) or "").partition("\n")[0]


app = typer.Typer(
    name="nuggets",
    cls=_Commands,
    help="Find where a language model keeps a skill, move it into a smaller one, and prove it.",
    no_args_is_help=True,
    **_PLAIN,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nuggets {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options before a command."""


def main() -> None:
    """Runs a command; a failure is one sentence on stderr and the error's exit code."""
    quiet_bars()
    try:
        with own_process(_leave), stoppable(_interrupt):
            code = app(with_new_names(sys.argv[1:]), standalone_mode=False)
    except NuggetsError as error:
        sys.exit(_refuse(type(error).__name__, str(error), error.exit_code))
    except UsageError as error:  # a wrong option, a missing argument
        if not sys.argv[1:]:
            sys.exit(_refuse("BadInput", error.format_message(), 2))  # the list of commands
        wrong = error.format_message()
        end = "" if wrong.endswith((".", "?")) else "."
        sys.exit(_refuse("BadInput", f"{wrong}{end} See `nuggets --help`.", 2))
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except BrokenPipeError:  # whoever reads, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except BaseException as error:
        if not is_fault(error):
            raise
        sys.exit(_refuse(type(error).__name__, sentence(error), NuggetsError.exit_code))
    sys.exit(_stopped() if code == _INTERRUPTED else code or 0)


def with_new_names(words: list[str]) -> list[str]:
    """`--seed-samples` for `--seeds`, as 0.1.0 called it; the seeds of `power` are run seeds.

    Raises:
        BadInput: if both names are given.
    """
    names = [word.partition("=")[0] for word in words]
    if "--seeds" not in names or words[0] == "power":
        return words
    if "--seed-samples" in names:
        raise BadInput("--seeds is the old name of --seed-samples; give --seed-samples alone.")
    from nuggets.recipe_tree import note_new_name

    note_new_name("--seeds", "--seed-samples")
    return [re.sub("^--seeds(?==|$)", "--seed-samples", word) for word in words]


def _interrupt() -> None:
    raise KeyboardInterrupt


def _stopped() -> int:
    return _refuse("Cancelled", "Stopped on request.", 1)


def _leave() -> None:
    words.show_cursor()  # which a bar may have hidden
    _stopped()


def _refuse(kind: str, words: str, code: int) -> int:
    if "--json" in sys.argv:
        print_json({"error": {"type": kind, "message": words}})
    say(words)
    return code
