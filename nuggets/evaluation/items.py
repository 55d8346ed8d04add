"""Benchmark items in the paper's data format: few-shot prompts, targets, choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nuggets.data.samples import Message, Sample
from nuggets.errors import BadInput
from nuggets.evaluation.numbers import declared_number
from nuggets.frozen import Frozen

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GSM8K_HEADER = "Answer the following question."
MMLU_HEADER = "The following are multiple choice questions (with answers)"

_LETTER = re.compile(r"(?P<opening>.*?)\(?(?P<letter>[A-Z])\)?\.?\s*", re.DOTALL)
_OPTION = re.compile(r"^([A-Z])\. ", re.MULTILINE)
_CALCULATOR = re.compile(r"<<.*?>>")


class Item(Frozen):
    """One question of a benchmark, as the model gets it.

    Attributes:
        sample: the conversation, examples included; its last message is the reference answer.
        target: what counts as right.
        choices: continuations that compete; empty where the model writes freely.
        right: place of the right choice; None where there are none.
        opening: the beginning of the answer, given to the model.
    """

    sample: Sample
    target: str
    choices: tuple[str, ...] = ()
    right: int | None = None
    opening: str = ""


def split_header(prompt: str, header: str) -> tuple[str, str]:
    """The instruction above a question, and the question; the first is empty if it is absent."""
    head, gap, body = prompt.partition("\n\n")
    return (head, body) if gap and head.startswith(header) else ("", prompt)


def with_examples(sample: Sample, examples: Sequence[Sample], header: str, joint: str) -> Sample:
    """The same question below solved ones, all in one turn of the user.

    The instruction stands once, on top; `joint` stands between a question and its answer.
    """
    if not examples:
        return sample
    head, body = split_header(sample.prompt, header)
    solved = [split_header(e.prompt, header)[1] + joint + e.answer.strip() for e in examples]
    text = "\n\n".join([*([head] if head else []), *solved, body])
    asked = Message(role="user", content=text)
    messages = (*sample.messages[:-2], asked, sample.messages[-1])
    return sample.model_copy(update={"messages": messages})


def gsm8k_item(sample: Sample, examples: Sequence[Sample]) -> Item:
    """A word problem; the target is the number that its answer gives as its result.

    Raises:
        BadInput: if the answer holds no number.
    """
    target = declared_number(sample.answer)
    if target is None:
        raise BadInput(
            f"The answer of sample {sample.id!r} contains no number, so this is not a GSM8K item."
        )
    return Item(sample=with_examples(sample, examples, GSM8K_HEADER, "\n"), target=target)


def gsm8k_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `openai/gsm8k` in the paper's format: the calculator's notes are taken out."""
    if "messages" in row:
        return row
    rationale, _, number = str(row["answer"]).partition("####")
    steps = " ".join(_CALCULATOR.sub("", rationale).split())
    answer = f"Answer: {steps} So the answer is {number.strip()}."
    return turns(f"{GSM8K_HEADER}\n\nQuestion: {row['question']}", answer)


def lettered(sample: Sample) -> Sample:
    """A question with choices as MMLU writes it: options by letter, the letter as the answer."""
    if not sample.choices:
        return sample
    head, question = split_header(sample.prompt.strip(), MMLU_HEADER)
    options = [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(sample.choices)]
    text = "\n".join([f"{head or f'{MMLU_HEADER}.'}\n\n{question}", *options, "Answer:"])
    letter = LETTERS[sample.place]
    asked = (Message(role="user", content=text), Message(role="assistant", content=letter))
    return Sample(id=sample.id, messages=(*sample.messages[:-2], *asked))


def mmlu_subject(sample: Sample) -> str:
    """The subject that the instruction names; empty if it names none."""
    head, _ = split_header(sample.prompt, MMLU_HEADER)
    return head.removeprefix(MMLU_HEADER).removeprefix(" about ").rstrip(".")


def mmlu_item(sample: Sample, examples: Sequence[Sample]) -> Item:
    """A multiple-choice question; the letters compete.

    Words before the letter in the reference answer ("The answer is: ") are given to the model.

    Raises:
        BadInput: if the question has no lettered options, or the answer is none of them.
    """
    given, sample = len(sample.choices), lettered(sample)
    letters = tuple(LETTERS[:given]) or _letters(split_header(sample.prompt, MMLU_HEADER)[1])
    found = _LETTER.fullmatch(sample.answer.strip())
    if len(letters) < 2 or found is None or found["letter"] not in letters:
        raise BadInput(
            f"Sample {sample.id!r} is not an MMLU item: it needs options such as 'A. …', each on "
            "its own line, and one of their letters as the answer, but the answer is "
            f"{sample.answer[:60]!r}."
        )
    shown = [e.model_copy(update={"messages": (*e.messages[:-1], _only_letter(e))})
             for e in map(lettered, examples)]  # fmt: skip
    opening = found["opening"].rstrip()
    return Item(
        sample=with_examples(sample, shown, MMLU_HEADER, " "),
        target=found["letter"],
        choices=tuple(f" {letter}" if opening else letter for letter in letters),
        right=letters.index(found["letter"]),
        opening=opening,
    )


def _letters(text: str) -> tuple[str, ...]:
    """The letters of the options that end a question: A, B, … in turn, whatever stands above them.

    A statement `I. …` of the question is no option, nor is an `A. …` above the last one.
    """
    found = _OPTION.findall(text)
    start = len(found) - 1 - found[::-1].index("A") if "A" in found else len(found)
    letters = ""
    for letter in found[start:]:
        letters += letter if letter == LETTERS[len(letters)] else ""
    return tuple(letters)


def _only_letter(sample: Sample) -> Message:
    found = _LETTER.fullmatch(sample.answer.strip())
    return Message(role="assistant", content=found["letter"] if found else sample.answer)


def mmlu_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `cais/mmlu`, its subject in the instruction as in the paper's format."""
    if "messages" in row or "subject" not in row:
        return row
    about = str(row["subject"]).replace("_", " ")
    question = f"{MMLU_HEADER} about {about}.\n\n{row['question']}"
    return {"question": question, "choices": row["choices"], "answer": int(row["answer"])}


def super_ni_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of Super-NaturalInstructions: definition, input and the first reference."""
    if "messages" in row:
        return row
    first = {name: value[0] if isinstance(value, list) else value for name, value in row.items()}
    text = f"{first['definition']}\n\nInput: {first['inputs']}\nOutput:"
    return turns(text, str(first["targets"])) | ({"id": row["id"]} if "id" in row else {})


def free_item(sample: Sample) -> Item:
    """A question whose whole reference answer is the target."""
    return Item(sample=sample, target=sample.answer.strip())


def turns(prompt: str, answer: str) -> dict[str, Any]:
    """One question and one answer in the shape of a JSONL line."""
    return {
        "messages": [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
    }
