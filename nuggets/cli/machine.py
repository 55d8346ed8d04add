"""The commands `app` and `engines`: the app on this machine, and where its runs compute."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from nuggets import api
from nuggets.cli import options as o
from nuggets.cli.output import print_json, say, table
from nuggets.demo import SWITCH
from nuggets.disk.carried import carried
from nuggets.errors import BadInput


def app_(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port; by default 8501, or the next free one."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's are open to all.")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option(help="A name by which browsers may ask, beside --host; repeatable."),
    ] = None,
    open: Annotated[bool, typer.Option(help="Open the browser.")] = True,
    home: Annotated[
        Path | None, typer.Option(help="Folder of runs and caches, instead of NUGGETS_HOME.")
    ] = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="For visitors: built-in models, short runs, no uploads, no deletion."
        ),
    ] = False,
) -> None:
    """Open the app; Ctrl-C stops it, and runs in the background go on."""
    if find_spec("streamlit") is None:
        raise BadInput("The app is not installed. Install it with: pip install 'nuggets[app]'")
    if home is not None:
        os.environ["NUGGETS_HOME"] = str(home.absolute())
    if demo:
        os.environ |= {SWITCH: "1", "HF_HUB_OFFLINE": "1"}  # type: ignore[assignment]
    elif not _is_this_machine(host):
        say(f"Everybody who reaches {host} can use this app as you: there is no login.")
    options = {"address": host, "headless": str(demo or not open).lower()}
    options |= {"showEmailPrompt": "false", "fileWatcherType": "none"}
    options |= {} if port is None else {"port": str(port)}
    flags = [f"--server.{option}={value}" for option, value in options.items()]
    names = dict.fromkeys(["localhost", "127.0.0.1", *_named(host), *(name or ())])
    flags += [f"--server.allowedHosts={each}" for each in names]
    if not _named(host):  # else Streamlit asks another server what this machine's address is
        flags += [f"--browser.serverAddress={(name or ['localhost'])[0]}"]
    # The server takes this process's place: Ctrl-C and signals reach it, and nothing is left over.
    # -P: a `streamlit.py` in the folder where somebody happens to be is not the one to run.
    words = [sys.executable, "-P", "-m", "streamlit", "run", str(carried("app.py")), *flags]
    sys.stdout.flush()
    os.execv(words[0], words)  # noqa: S606 - words of our own, and no shell


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _named(host: str) -> list[str]:
    """The address itself as a name, unless it stands for all addresses."""
    return [] if host in ("0.0.0.0", "::") else [host]  # noqa: S104 - refused, not used


def engines(
    use: Annotated[
        str | None,
        typer.Option(help="Start runs through this engine from now on: local, slurm or ray."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of that engine, such as partition=gpu; repeatable."),
    ] = None,
    json: o.AsJson = False,
) -> None:
    """List the engines that start runs, or choose one."""
    if use is not None or changes:
        api.engines.use(use, changes or ())
    chosen, every = api.engines.chosen(), api.engines.every()
    every[chosen.kind] = chosen
    if json:
        return print_json(
            {
                kind: engine.model_dump(mode="json")
                | {"used": kind == chosen.kind, "unavailable": engine.unavailable()}
                for kind, engine in every.items()
            }
        )
    for kind, engine in every.items():
        rows = [
            (name, value, type(engine).model_fields[name].title or "")
            for name, value in api.engines.fields_of(engine).items()
        ]
        table(("field", "value", "meaning"), rows, kind)
        if missing := engine.unavailable():
            say(f"{kind} cannot be used here. {missing}")
    return say(f"{chosen.words()} Change it with: nuggets engines --use ENGINE --set FIELD=VALUE")
