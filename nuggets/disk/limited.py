"""Work on strangers' files in a child process that may not take more than its share.

A tokenizer's regular expression or a chat template can run for ever inside a library, where nobody
can stop it, or take all memory. The child is given seconds of computing and bytes of memory by the
system, and is gone afterwards whatever it read.
"""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
from typing import Any

from nuggets.errors import Damaged, NuggetsError

MEMORY = 6 * 2**30
"""Bytes; enough for torch and a vocabulary, far below what makes a machine swap."""


def limited(function: str, *given: Any, seconds: int, about: str) -> Any:
    """Calls a function of ours in a child process of its own.

    Args:
        function: `module:name`.
        given: its arguments, as JSON knows them; so is what it returns.
        seconds: of computing, start included; waiting may take three times as long.
        about: what is read, for the sentence when that is not enough.

    Raises:
        NuggetsError: what the function raised, or that it took more than its share.
    """
    words = [sys.executable, "-P", "-m", __name__, function, str(seconds), str(MEMORY)]
    too_much = Damaged(
        f"{about} needs more than {seconds} s or {MEMORY / 2**30:.0f} GiB to be read, far beyond "
        "what is usual, and is not used."
    )
    try:
        child = subprocess.run(  # noqa: S603 - our own interpreter and function
            words, input=json.dumps(given), capture_output=True, text=True, check=False,
            timeout=3 * seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise too_much from None
    if child.returncode:  # killed by the system, or given up by a library
        raise too_much
    answer = json.loads(child.stdout.splitlines()[-1])
    if "fault" in answer:
        raise Damaged(f"{about} cannot be read: {answer['fault']}.")
    if "refused" not in answer:
        return answer["value"]
    names = {cls.__name__: cls for cls in _errors(NuggetsError)}
    raise names.get(answer["kind"], Damaged)(answer["refused"])


def _errors(cls: type[NuggetsError]) -> list[type[NuggetsError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in _errors(child))]


def main() -> None:
    """The child: sets its own limits, calls, and writes one line of JSON."""
    function, seconds, memory = sys.argv[1], *map(int, sys.argv[2:])
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_DATA: memory, resource.RLIMIT_CORE: 0}
    for kind, most in limits.items():
        there = resource.getrlimit(kind)[1]  # of this machine, which nobody may raise
        most = most if there == resource.RLIM_INFINITY else min(most, there)
        resource.setrlimit(kind, (most, most))
    given = json.loads(sys.stdin.read())
    module, _, name = function.partition(":")
    try:
        answer = {"value": getattr(importlib.import_module(module), name)(*given)}
    except NuggetsError as problem:
        answer = {"refused": str(problem), "kind": type(problem).__name__}
    except MemoryError:
        sys.exit(1)
    except Exception as problem:  # whatever a library says of odd bytes
        reason = " ".join(str(problem).split())[:300].rstrip(".")
        answer = {"fault": reason or type(problem).__name__}
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
