"""Samples, the formats they are written in, and response-only label masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from nuggets.errors import BadInput
from nuggets.frozen import Frozen

Format = Literal["paper", "chat"]
"""How a conversation is written: as in the paper's data, or by the tokenizer's own template."""

IGNORED = -100
"""Label of tokens that do not enter the loss (PyTorch's `ignore_index`)."""

Encoded = tuple[list[int], list[int]]
"""Token ids and labels of one sample, of equal length; labels are `IGNORED` on the prompt."""


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sample(Frozen):
    """One example: a conversation that ends with the assistant's answer.

    `choices`, when given, are the answers that compete in choice accuracy; the right one is
    the last message's content.
    """

    id: str
    messages: tuple[Message, ...] = Field(min_length=2)
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, id: str, prompt: str, answer: str, choices: Sequence[str] = ()) -> Sample:
        """Builds the common case: one question, one answer."""
        turns = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
        return cls(id=id, messages=turns, choices=tuple(choices))

    @property
    def prompt(self) -> str:
        """The last question, as text."""
        return self.messages[-2].content

    @property
    def answer(self) -> str:
        """What the assistant should say."""
        return self.messages[-1].content


def render(messages: Sequence[Message], eos: str) -> str:
    r"""Writes a conversation in the paper's format (the authors' `get_content`).

    `<|user|>\n{content}\n\n<|assistant|>\n{content}{eos}`, contents stripped.
    """
    head = {"system": "<|system|>\n", "user": "<|user|>\n", "assistant": "<|assistant|>\n"}
    tail = {"system": "\n\n", "user": "\n\n", "assistant": eos}
    return "".join(head[m.role] + m.content.strip() + tail[m.role] for m in messages)


def render_prompt(sample: Sample, eos: str) -> str:
    r"""The text the model continues: everything up to and including `<|assistant|>\n`."""
    return render(sample.messages[:-1], eos) + "<|assistant|>\n"


def texts(sample: Sample, tokenizer: Any, format: Format = "paper") -> tuple[str, str]:
    """What a model reads: the whole conversation, and the part of it before the answer.

    Args:
        sample: the conversation.
        tokenizer: a transformers tokenizer with an end-of-sequence token.
        format: `paper`, or `chat` for the tokenizer's template.

    Returns:
        `(whole, prompt)`; whole begins with prompt and ends where the answer's turn ends.

    Raises:
        BadInput: if the tokenizer has no end-of-sequence token or no usable chat template.
    """
    if tokenizer.eos_token is None:
        raise BadInput("The tokenizer has no end-of-sequence token; set eos_token and save it.")
    if format == "paper":
        eos = str(tokenizer.eos_token)
        return render(sample.messages, eos), render_prompt(sample, eos)
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput("The tokenizer has no chat template. Choose the format paper.")
    from jinja2 import TemplateError

    turns = [{"role": m.role, "content": m.content.strip()} for m in sample.messages]
    try:
        whole = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
        prompt = tokenizer.apply_chat_template(
            turns[:-1], tokenize=False, add_generation_prompt=True
        )
    except TemplateError as problem:
        raise BadInput(
            f"The chat template refuses sample {sample.id!r}: {problem}. Choose the format paper."
        ) from None
    if not whole.startswith(prompt):
        raise BadInput(
            "The chat template formats a conversation with an answer differently from the prompt "
            "alone, so the answer cannot be separated from the question. Choose the format paper."
        )
    return whole, prompt


def answer_ends(tokenizer: Any, format: Format = "paper") -> tuple[int, ...]:
    """Ids of the tokens that end an answer: the end of sequence, and the template's own."""
    ends = [int(tokenizer.eos_token_id)]
    if format == "chat":
        whole, prompt = texts(Sample.of("end", "question", "answer"), tokenizer, format)
        tail = whole[len(prompt) :].partition("answer")[2].strip()
        ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        ends += ids if len(ids) == 1 else []
    return tuple(dict.fromkeys(ends))


def encode(
    sample: Sample, tokenizer: Any, max_length: int = 2048, format: Format = "paper"
) -> Encoded:
    """Token ids and response-only labels of one sample, as the paper's script makes them.

    The prompt is tokenised alone and its length masks the labels of the whole conversation.

    Args:
        sample: the conversation.
        tokenizer: a transformers tokenizer with an end-of-sequence token.
        max_length: tokens after which the sample is cut (2,048 in the paper).
        format: how the conversation is written; a chat template brings its own special tokens.

    Returns:
        `(input_ids, labels)` of equal length; labels are `IGNORED` on the prompt.

    Raises:
        BadInput: if no token of the answer is left to learn from.
    """
    return encode_all([sample], tokenizer, max_length, format)[0]


def encode_all(
    samples: Sequence[Sample], tokenizer: Any, max_length: int = 2048, format: Format = "paper"
) -> list[Encoded]:
    """`encode` of many samples; one call of the tokenizer takes a fraction of many calls' time."""
    if not samples:
        return []
    written = [texts(sample, tokenizer, format) for sample in samples]
    options = {"truncation": True, "max_length": max_length}
    options |= {} if format == "paper" else {"add_special_tokens": False}
    wholes, prompts = (
        tokenizer(list(part), **options)["input_ids"] for part in zip(*written, strict=True)
    )
    return [_masked(*each, max_length) for each in zip(samples, wholes, prompts, strict=True)]


def _masked(sample: Sample, whole: list[int], prompt: list[int], max_length: int) -> Encoded:
    masked = min(len(prompt), len(whole))
    if masked == len(whole):
        raise BadInput(
            f"Sample {sample.id!r} has no room for an answer token within {max_length} tokens: "
            f"its prompt has {len(prompt)}. Shorten the prompt or raise the length limit."
        )
    return list(whole), [IGNORED] * masked + list(whole[masked:])
