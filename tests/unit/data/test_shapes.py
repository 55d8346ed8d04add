"""Every shape of a sample is read as one conversation, and nothing that it says is dropped."""

import pytest

from nuggets.data.shapes import read_conversation

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
PARTS = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
SAID = [("user", "hi"), ("assistant", "yo")]


def said(record):
    return [(message.role, message.content) for message in read_conversation(record).messages]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": TURNS},
        {"messages": [{"role": "user", "content": PARTS}, TURNS[1]]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
        {"conversations": TURNS},
        {"prompt": "hi", "completion": "yo"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"instruction": "hi", "output": "yo"},
        {"instruction": "hi", "input": "", "output": "yo"},
        {"question": "hi", "answer": "yo"},
    ],
)
def test_shapes_of_one_question_and_one_answer(record):
    assert said(record) == SAID
    assert said(record | {"tools": [], "context": None, "n": 3}) == SAID


def test_an_input_stands_below_its_instruction():
    record = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert said(record) == [("user", "Add.\n\n1 2"), ("assistant", "3")]


@pytest.mark.parametrize("record", [{"messages": TURNS}, {"prompt": "hi", "completion": "yo"}])
def test_a_system_column_is_the_system_message(record):
    assert said(record | {"system": "Be brief."}) == [("system", "Be brief."), *SAID]
    assert said(record | {"system": ""}) == SAID


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"prompt": "a", "input": "b", "completion": "c"}, "the column input would not be read"),
        ({"messages": TURNS, "tools": [{"name": "f"}]}, "the column tools would not be read"),
        ({"messages": TURNS, "images": ["x.png"]}, "the column images would not be read"),
        (
            {"instruction": "and?", "output": "3", "history": [["one?", "1"]]},
            "the column history would not be read",
        ),
        ({"prompt": "a", "completion": "bad", "label": False}, "its label is false"),
        ({"messages": [TURNS[0], TURNS[1] | {"weight": 0}]}, "its last message has the weight 0"),
        (
            {"messages": [TURNS[0], TURNS[1] | {"reasoning_content": "so"}]},
            "message 2 has reasoning_content, which would not be read",
        ),
        (
            {"messages": [TURNS[0], TURNS[1] | {"tool_calls": [{"id": 1}]}]},
            "message 2 has tool_calls",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, TURNS[1]]},
            "message 1 has parts that are not text: .'image'",
        ),
        (
            {"messages": [{"role": "system", "content": "x"}, *TURNS], "system": "y"},
            "both a system",
        ),
        ({"messages": TURNS, "system": 3}, "system is missing, empty or not text but 3"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "roles must alternate"),
        ({"conversations": "x"}, "conversations is not a list"),
        ({"prompt": "a", "completion": 4}, "completion is missing, empty or not text but 4"),
    ],
)
def test_what_would_be_dropped_or_misread_is_refused_by_name(record, fault):
    with pytest.raises(ValueError, match=fault):
        read_conversation(record)


def test_a_repeated_choice_is_right_at_its_place():
    record = {"question": "q", "choices": ["x", "y", "x"], "answer": 2}
    assert read_conversation(record)[1:] == (("x", "y", "x"), 2)
    assert read_conversation(record | {"answer": 1})[1:] == (("x", "y", "x"), None)
    with pytest.raises(ValueError, match="'x' matches two of the choices"):
        read_conversation(record | {"answer": "x"})
