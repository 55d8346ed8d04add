"""`python -m nuggets.playground.worker FOLDER`: holds models and answers questions.

It takes the folder's lock before it imports torch, answers until nobody asked for `IDLE_S`
seconds or somebody asked it to stop, and leaves; its memory is then free. The environment variable
`NUGGETS_SPEAKERS="module:Class"` puts another class in the place of `speakers.Speakers` (tests
use it).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nuggets.disk.commit import atomic_write, sweep_temps
from nuggets.disk.last_frame import is_fault, sentence, trim_log
from nuggets.disk.locks import Lock
from nuggets.errors import BadInput, Cancelled, NuggetsError
from nuggets.playground import mailbox as playground
from nuggets.playground.mailbox import Answer, Question, Reply, Speaker, Token

POLL_S = 0.02
PARTIAL_S = 0.25
"""An unfinished answer is written at most this often."""
KEPT = 100
"""Replies that are kept for reloads and links."""


def main() -> int:
    """Answers until idle; returns the exit code."""
    if len(sys.argv) != 2 or Path(sys.argv[1]).absolute() != playground.folder():
        print("Usage: python -m nuggets.playground.worker HOME/playground", file=sys.stderr)
        return BadInput.exit_code
    lock = Lock(playground.folder() / "lock")
    if not lock.acquire():
        return 0  # another worker is there already
    try:
        _clear_up()
        _serve(_speakers())
        return 0
    finally:
        lock.release()


def _speakers() -> Any:
    # Imported late: the lock is taken within a moment, torch takes seconds.
    name = os.environ.get("NUGGETS_SPEAKERS", "nuggets.playground.loaded_models:Speakers")
    module, _, member = name.partition(":")
    return getattr(importlib.import_module(module), member)()


def _serve(speakers: Any) -> None:
    idle_s = float(os.environ.get("NUGGETS_PLAYGROUND_IDLE_S", playground.IDLE_S))
    last = time.monotonic()
    while True:
        if (path := _next_question()) is not None:
            _answer(path, speakers)
            last = time.monotonic()
            continue
        if _stop().exists() or time.monotonic() - last > idle_s:
            # Under the launch lock no question can arrive between this look and the end.
            with playground.launching():
                if _stop().exists() or _next_question() is None:
                    os._exit(0)  # frees everything at once, the lock included
        time.sleep(POLL_S)


def _next_question() -> Path | None:
    waiting = sorted((playground.folder() / "questions").glob("[0-9]*.json"))
    return waiting[0] if waiting else None


def _stop() -> Path:
    return playground.folder() / "stop"


def _answer(path: Path, speakers: Any) -> None:
    working = playground.folder() / "working" / path.name
    path.rename(working)  # a question that kills the worker is not tried again
    question = Question.model_validate_json(working.read_text())
    reply = Reply(id=path.stem, status="answering", question=question)
    try:
        for speaker in question.speakers:
            answer = speakers.answer(speaker, question, _listener(reply, speaker))
            reply = reply.model_copy(update={"answers": (*reply.answers, answer)})
            playground.write_reply(reply)
            state = speakers.state().model_dump_json()
            atomic_write(playground.folder() / "state.json", state)
        reply = reply.model_copy(update={"status": "done"})
    except BaseException as error:
        if not is_fault(error):
            raise
        if not isinstance(error, NuggetsError):
            traceback.print_exc()
        problem = sentence(error, playground.folder() / "output.log")
        reply = reply.model_copy(update={"status": "failed", "problem": problem})
    playground.write_reply(reply)
    working.unlink()
    trim_log(playground.folder() / "output.log")


def _listener(reply: Reply, speaker: Speaker) -> Callable[[Token], None]:
    """Writes an answer as it grows, and stops it when somebody asked to."""
    tokens: list[Token] = []
    due = time.monotonic() + PARTIAL_S

    def heard(token: Token) -> None:
        nonlocal due
        if _stop().exists():
            raise Cancelled("The playground was asked to unload its models.")
        tokens.append(token)
        if time.monotonic() < due:
            return
        due = time.monotonic() + PARTIAL_S
        growing = Answer(speaker=speaker, tokens=tuple(tokens))
        so_far = {"answers": (*reply.answers, growing)}
        playground.write_reply(reply.model_copy(update=so_far))

    return heard


def _clear_up() -> None:
    """What earlier workers left: the question that one died of, old replies, temporaries."""
    folder = playground.folder()
    for name in ("questions", "working", "replies"):
        sweep_temps(folder / name)
    sweep_temps(folder)
    (folder / "state.json").unlink(missing_ok=True)
    for path in (folder / "working").glob("*.json"):
        with contextlib.suppress(NuggetsError):
            died = playground.reply_of_the_dead(path.stem)
            playground.write_reply(died)
        path.unlink()
    for path in sorted((folder / "replies").glob("*.json"))[:-KEPT]:
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
