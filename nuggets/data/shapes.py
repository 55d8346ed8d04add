"""The shapes in which people write samples, each read as one conversation.

    {"messages": [{"role": "user", "content": "…"}, …]}        content may be a list of texts
    {"conversations": [{"from": "human", "value": "…"}, …]}    ShareGPT
    {"prompt": "…", "completion": "…"}                         or two lists of messages
    {"instruction": "…", "input": "…", "output": "…"}          input may be left out
    {"question": "…", "choices": ["…", "…"], "answer": 0}      index, letter or the choice itself
    {"question": "…", "answer": "…"}

Each may have a `system` text beside it. What a model would not read although it says something,
such as tools or a reasoning column, is refused by name. A fault is a ValueError with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nuggets.data.samples import Message

SHAPES = (
    "messages, conversations, prompt + completion, instruction + output, question + answer, or "
    "question + choices + answer"
)
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_UNREAD = (
    *("input", "context", "passage", "documents", "history", "tools", "functions"),
    *_THOUGHTS,
    *_MEDIA,
)
_UNREAD_IN_TURN = ("tool_calls", "function_call", *_THOUGHTS, *_MEDIA)
_SPEAKERS = {"human": "user", "gpt": "assistant"}


class Conversation(NamedTuple):
    """What a record says; `right` is the place of the right choice where its text is repeated."""

    messages: tuple[Message, ...]
    choices: tuple[str, ...] = ()
    right: int | None = None


def read_conversation(record: Mapping[str, Any]) -> Conversation:
    """The conversation of one record, and the choices that compete.

    Raises:
        ValueError: The record is none, or holds a column that would not be read.
    """
    found = _read(record)
    read_input = "instruction" in record and "prompt" not in record
    for name in _UNREAD:
        if record.get(name) and not (name == "input" and read_input):
            raise ValueError(
                f"the column {name} would not be read; write what it says into the prompt, or "
                "remove it"
            )
    if not record.get("system"):
        return found
    if found.messages[0].role == "system":
        raise ValueError("it has both a system column and a system message; remove one of them")
    system = Message(role="system", content=text_of(record, "system"))
    return found._replace(messages=(system, *found.messages))


def _read(record: Mapping[str, Any]) -> Conversation:
    if "messages" in record:
        return Conversation(_turns(record["messages"], "messages"))
    if "conversations" in record:
        turns = record["conversations"]
        listed = isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
        named = [_spoken(turn) for turn in turns] if listed else turns
        return Conversation(_turns(named, "conversations"))
    if "prompt" in record and "completion" in record:
        prompt, completion = record["prompt"], record["completion"]
        if record.get("label") is False:
            raise ValueError("its label is false, so its completion is no example to learn from")
        if isinstance(prompt, list) and isinstance(completion, list):
            return Conversation(_turns([*prompt, *completion], "prompt + completion"))
        return _asked(text_of(record, "prompt"), text_of(record, "completion"))
    if "instruction" in record and "output" in record:
        parts = [text_of(record, name) for name in ("instruction", "input") if record.get(name)]
        return _asked("\n\n".join(parts or [text_of(record, "instruction")]),
                      text_of(record, "output"))  # fmt: skip
    if "question" in record and "choices" in record and "answer" in record:
        choices = _choices(record["choices"])
        right = _answer_index(record["answer"], choices)
        asked = _asked(text_of(record, "question"), choices[right])
        return Conversation(
            asked.messages, choices, right if choices.count(choices[right]) > 1 else None
        )
    if "question" in record and "answer" in record:
        return _asked(text_of(record, "question"), text_of(record, "answer"))
    raise ValueError(f"no sample found; a sample needs {SHAPES}")


def _spoken(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn of ShareGPT as one of messages."""
    if "from" not in turn:
        return dict(turn)
    role = turn["from"]
    role = _SPEAKERS.get(role, role) if isinstance(role, str) else role
    return {"role": role, "content": turn.get("value")}


def _turns(turns: Any, what: str) -> tuple[Message, ...]:
    """User and assistant in turn, an optional system message first, the assistant last."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{what} is not a list of objects with role and content")
    roles = [turn.get("role") for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * (len(spoken) // 2)
    if not spoken or spoken != expected:
        heard = json.dumps(roles, ensure_ascii=False)[:200]
        raise ValueError(
            "roles must alternate between user and assistant, ending with assistant (a system "
            f"message may come first), but are {heard}"
        )
    if turns[-1].get("weight") == 0:
        raise ValueError("its last message has the weight 0, but is what would be learned")
    return tuple(_message(turn, number) for number, turn in enumerate(turns, start=1))


def _message(turn: Mapping[str, Any], number: int) -> Message:
    for name in _UNREAD_IN_TURN:
        if turn.get(name):
            raise ValueError(
                f"message {number} has {name}, which would not be read; write what it says into "
                "content, or remove it"
            )
    content = turn.get("content")
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else part for part in content]
        if any(kind != "text" for kind in kinds):
            raise ValueError(f"message {number} has parts that are not text: {kinds}"[:200])
        turn = {**turn, "content": "".join(text_of(part, "text") for part in content)}
    return Message(role=turn["role"], content=text_of(turn, "content"))


def _asked(prompt: str, answer: str) -> Conversation:
    turns = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Conversation(turns)


def text_of(record: Mapping[str, Any], key: str) -> str:
    """The text under a key; it is not blank.

    Raises:
        ValueError: There is no such text.
    """
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        read = f" but {value!r}"[:60] if value is not None and not isinstance(value, str) else ""
        raise ValueError(f"{key} is missing, empty or not text{read}")
    return encodable(value, key)


def encodable(text: str, key: str) -> str:
    """The text; JSON can spell half a character (a lone surrogate), which no tokenizer can read.

    Raises:
        ValueError: It holds half a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key} contains half a character (a lone surrogate)") from None
    return text


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= 26:
        raise ValueError("choices is not a list of 2 to 26 strings")
    choices = tuple(text_of({"a choice": choice}, "a choice") for choice in value)
    if len(set(choices)) == 1:
        raise ValueError("all choices have the same text")
    return choices


def _answer_index(answer: Any, choices: Sequence[str]) -> int:
    """Which choice is right: given by index from 0, by letter, or by its text."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(choices):
            return answer
        raise ValueError(
            f"answer is {answer}, but the choices are numbered 0 to {len(choices) - 1}"
        )
    meant: set[int] = set()
    if isinstance(answer, str):
        letter = answer.strip().upper()
        place = ord(letter) - ord("A") if len(letter) == 1 else -1
        meant |= {place} if 0 <= place < len(choices) else set()
        meant |= {i for i, choice in enumerate(choices) if choice == answer}
    if len(meant) != 1:
        fault = "matches two of the choices" if meant else "matches none of the choices"
        raise ValueError(f"answer {str(answer)[:80]!r} {fault}; give its index, from 0")
    return meant.pop()
