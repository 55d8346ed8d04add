"""The command line: parse, call the façade, print. Nothing is computed here."""

from nuggets.cli.main import main

__all__ = ["main"]
