"""Who answers in tests: no model, no torch. Some prompts kill, hang or fail."""

from __future__ import annotations

import os
import signal
import time

from nuggets.errors import BadInput
from nuggets.lens.report import Lens
from nuggets.playground.mailbox import Answer, State, Token


def seen(answer, model):
    """Of two layers, the teacher knows every word behind the second, others none."""
    words = tuple(answer.split())
    last = 1 if model == "teacher" else 7
    rank = tuple((first,) * len(words) for first in (2000, 3, last))
    chance = tuple((p,) * len(words) for p in (0.0, 0.2, 0.9 / last))
    rests = tuple((value,) * len(words) for value in (3.0, 1.0))
    return Lens(tokens=words, rank=rank, probability=chance, best=(words,) * 3, attribution=rests)


class Speakers:
    """Says the prompt's words backwards, each with probability .9; looked into, see `seen`."""

    def __init__(self):
        self._known: dict[str, None] = {}

    def state(self):
        return State(loaded=tuple(self._known), device="cpu", bytes=2**20)

    def answer(self, speaker, question, on_token):
        if "die" in question.prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if "break" in question.prompt:
            raise RuntimeError("a bug")
        self._known[speaker.label] = None
        if question.answer is not None:
            return Answer(speaker=speaker, lens=seen(question.answer, speaker.model))
        tokens = []
        for word in reversed(question.prompt.split()):
            while "hang" in question.prompt:
                on_token(Token(text="…", probability=0.1))
                time.sleep(0.02)
            tokens.append(
                Token(text=word, probability=0.9, alternatives=((word, 0.9), ("x", 0.05)))
            )
            on_token(tokens[-1])
        if "refuse" in question.prompt:
            return Answer(speaker=speaker, problem=str(BadInput("This one refuses.")))
        text = " ".join(token.text for token in tokens)
        read = f"[{question.format}] {question.prompt}"
        found = Answer(speaker=speaker, text=text, tokens=tuple(tokens), read=read)
        return found.model_copy(update={"finished": True})
