"""Samples, the formats they are written in, and response-only label masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from nuggets.errors import BadInput
from nuggets.frozen import Frozen

EMBEDDING_ROWS = "embedding_rows"
"""Attribute of a loaded tokenizer: how many ids its model has an embedding for."""

Format = Literal["paper", "chat"]
"""How a conversation is written: as in the paper's data, or by the tokenizer's own template."""

IGNORED = -100
"""Label of tokens that do not enter the loss (PyTorch's `ignore_index`)."""

TODAY = date(2024, 7, 26)
"""The day on which every chat template believes to be rendered, so that a prompt is the same
tomorrow; it is the one that Llama 3's template falls back to."""
_CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")

Encoded = tuple[list[int], list[int]]
"""Token ids and labels of one sample, of equal length; labels are `IGNORED` on the prompt."""


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sample(Frozen):
    """One example: a conversation that ends with the assistant's answer.

    `choices`, when given, are the answers that compete in choice accuracy; the right one is
    the last message's content, and the one at `right` where several choices have that text.
    """

    id: str
    messages: tuple[Message, ...] = Field(min_length=2)
    choices: tuple[str, ...] = ()
    right: int | None = None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `right` where it says nothing, as samples were written before they had it."""
        return {name: x for name, x in write(self).items() if name != "right" or x is not None}

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

    @property
    def place(self) -> int:
        """The place of the right choice among `choices`."""
        return self.choices.index(self.answer) if self.right is None else self.right


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
    given = {"tokenize": False, "chat_template": _dated(tokenizer.get_chat_template())}
    try:
        whole = tokenizer.apply_chat_template(turns, **given).rstrip()
        prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, **given)
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


def _dated(template: str) -> str:
    """A chat template that reads no clock: `TODAY` stands wherever it asks for the date."""
    dated = _CLOCK.sub(lambda call: repr(TODAY.strftime(call[2])), template)
    if "strftime_now(" in dated:
        raise BadInput(
            "The chat template writes the time of day in a way that cannot be pinned, so that a "
            "prompt would be another one tomorrow. Choose the format paper."
        )
    return dated


def answer_ends(tokenizer: Any, format: Format = "paper") -> tuple[int, ...]:
    """Ids of the tokens that end an answer: the end of sequence, and the template's own.

    That is the token behind an answer if it stands alone or is one of those beside the words: Phi's
    template writes `<|end|>` and the end of sequence, of which a model may write the first alone.
    """
    ends = [int(tokenizer.eos_token_id)]
    if format == "chat":
        whole, prompt = texts(Sample.of("end", "question", "answer"), tokenizer, format)
        tail = whole[len(prompt) :].partition("answer")[2].strip()
        ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        beside = {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}
        ends += [token for token in ids[:1] if len(ids) == 1 or token in beside]
    return tuple(dict.fromkeys(ends))


def tokenize(tokenizer: Any, texts: Sequence[str], format: Format = "paper") -> list[list[int]]:
    """Token ids of texts that may be continued: nothing that the tokenizer appends stands in them.

    Some tokenizers end whatever they read with an end of sequence. After a prompt it would say that
    there is nothing to answer, and after an answer it would stand twice.

    Args:
        tokenizer: a transformers tokenizer.
        texts: what is read.
        format: `paper` has the tokenizer's own special tokens in front, a chat template wrote them.

    Raises:
        BadInput: if a text contains a token that the model has no embedding for.
    """
    special = format == "paper"
    rows = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    appended = _appended(tokenizer) if special else 0
    _refuse_beyond(tokenizer, rows)
    return [list(row[: len(row) - appended]) for row in rows]


def _refuse_beyond(tokenizer: Any, rows: Sequence[Sequence[int]]) -> None:
    """Refuses a text with a token that the model has no row for, such as Gemma 3's image."""
    n = getattr(tokenizer, EMBEDDING_ROWS, None)
    for token in (token for row in rows for token in row if n is not None and token >= n):
        raise BadInput(
            f"A text contains {tokenizer.convert_ids_to_tokens(token)!r}, token {token} of the "
            f"tokenizer, but the embedding has only {n} rows. Remove it from the text."
        )


def _appended(tokenizer: Any) -> int:
    """How many special tokens a tokenizer puts after a text."""
    bare, whole = (tokenizer("a", add_special_tokens=own)["input_ids"] for own in (False, True))
    places = range(len(whole) - len(bare) + 1)
    start = next((i for i in places if whole[i : i + len(bare)] == bare), len(places) - 1)
    return len(whole) - len(bare) - start


def answer_tokens(
    tokenizer: Any, whole: Sequence[int], prompt: Sequence[int], answer: str, name: str
) -> list[int]:
    """The tokens that follow a prompt's in a conversation.

    Where a token reaches across the boundary (a blank that ends the prompt merges with the answer's
    first letter), the answer is read by itself: the model is asked with the prompt's own tokens and
    has to go on from them.

    Args:
        tokenizer: a transformers tokenizer.
        whole: token ids of prompt and answer read together.
        prompt: token ids of the prompt read by itself.
        answer: the text after the prompt.
        name: whose answer it is, for the refusal.

    Raises:
        BadInput: if the answer's own tokens after the prompt's are another text.
    """
    if list(whole[: len(prompt)]) == list(prompt):
        return list(whole[len(prompt) :])
    tokens = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    texts = [tokenizer.decode(ids) for ids in ([*prompt, *tokens], whole)]
    if texts[0] != texts[1]:
        raise BadInput(
            f"The tokenizer reads the prompt of {name} differently when the answer follows it, so "
            "it cannot be seen where the answer begins. Choose another format or tokenizer."
        )
    return tokens


def encode(
    sample: Sample, tokenizer: Any, max_length: int = 2048, format: Format = "paper"
) -> Encoded:
    """Token ids and response-only labels of one sample, as the paper's script makes them.

    The prompt is tokenised alone; its tokens, which are what a model is asked with, are masked.

    Args:
        sample: the conversation.
        tokenizer: a transformers tokenizer with an end-of-sequence token.
        max_length: tokens after which the sample is cut (2,048 in the paper).
        format: how the conversation is written; a chat template brings its own special tokens.

    Returns:
        `(input_ids, labels)` of equal length; labels are `IGNORED` on the prompt.

    Raises:
        BadInput: if no token of the answer is left to learn from, or if it cannot be told where
            the answer begins.
    """
    return encode_all([sample], tokenizer, max_length, format)[0]


def encode_all(
    samples: Sequence[Sample],
    tokenizer: Any,
    max_length: int = 2048,
    format: Format = "paper",
    *,
    whole: bool = False,
) -> list[Encoded]:
    """`encode` of many samples; one call of the tokenizer takes a fraction of many calls' time.

    Args:
        samples: the conversations.
        tokenizer: as for `encode`.
        max_length: as for `encode`.
        format: as for `encode`.
        whole: refuse samples that would be cut inside their answer, since it is to be judged.

    Raises:
        BadInput: as `encode` does, or if answers would be cut.
    """
    if not samples:
        return []
    written = [texts(sample, tokenizer, format) for sample in samples]
    read = [tokenize(tokenizer, part, format) for part in zip(*written, strict=True)]
    found, cut = [], {}
    for sample, (text, asked), ids, prompt in zip(samples, written, *read, strict=True):
        name = f"sample {sample.id!r}"
        answer = answer_tokens(tokenizer, ids, prompt, text[len(asked) :], name)
        if len(prompt) >= max_length or not answer:
            raise BadInput(
                f"S{name[1:]} has no room for an answer token within {max_length} tokens: "
                f"its prompt has {len(prompt)}. Shorten the prompt or raise the length limit."
            )
        if len(prompt) + len(answer) > max_length:
            cut[sample.id] = len(prompt) + len(answer)
        answer = answer[: max_length - len(prompt)]
        found.append(([*prompt, *answer], [IGNORED] * len(prompt) + answer))
    if whole and cut:
        longest = max(cut, key=lambda id: cut[id])
        raise BadInput(
            f"{len(cut)} of the items to be judged would be cut inside their answer after "
            f"{max_length} tokens; the longest, {longest!r}, has {cut[longest]}. Raise the length "
            "limit (max_length) or remove them."
        )
    return found
