"""Who answers in tests: no model, no torch. Some prompts kill, hang or fail."""

from __future__ import annotations

import os
import signal
import time

from nuggets.errors import BadInput
from nuggets.playground.mailbox import Answer, State, Token


class Speakers:
    """Says the prompt's words backwards, each with probability .9."""

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
