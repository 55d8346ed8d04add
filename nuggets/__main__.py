"""The entry of `nuggets` and `python -m nuggets`."""

import sys

from nuggets import __version__


def main() -> None:
    """Runs the command line; `--version` alone needs none of it."""
    if sys.argv[1:] == ["--version"]:
        print(f"nuggets {__version__}")
        return
    try:
        from nuggets.cli import main as command_line
    except KeyboardInterrupt:
        sys.exit("Stopped on request.")
    command_line()


if __name__ == "__main__":
    main()
