"""Numbers of word problems: what an answer declares, and which two are the same."""

import re

import pytest

from nuggets.evaluation.numbers import NUMBER, declared_number, last_number, same_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So the answer is 10.", "10"),
        ("It costs $1,250 in all.", "1250"),
        ("3.50 and then -7", "-7"),
        ("12.0", "12"),
        ("none", None),
        ("9-3", "3"),
        ("it fell to \u22124", "-4"),
        ("half of it, 3/4", "3/4"),
        ("it takes 1 1/2", "1 1/2"),
        ("of the dollar, .5", ".5"),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("<<1+1=2>>2\n#### 1,234", "1234"),
        ("x\n#### \u22125", "-5"),
        ("x\n#### 12 m2", "12"),
        ("x\n#### 3/4 of 8", "3/4"),
        ("4 #### of 9 and\n#### $7.50", "7.50"),
        ("It is 8. So the answer is 5 km2.", "5"),
        ("The answer is 2. No: the answer is: 3 of 4.", "3"),
        ("It is 8 or 9", "9"),
        ("#### none", None),
        ("There are 6 #### none", "6"),
    ],
)
def test_the_number_that_an_answer_declares(answer, number):
    assert declared_number(answer) == number


@pytest.mark.parametrize(
    ("said", "target", "right"),
    [
        ("1,234", "1234", 1.0),
        ("$3.50", "3.5", 1.0),
        ("1/2", "0.5", 1.0),
        ("1 1/2", "3/2", 1.0),
        ("\u22125", "-5", 1.0),
        ("-1 1/2", "-1.5", 1.0),
        ("5", "-5", 0.0),
        ("[invalid]", "5", 0.0),
        ("1/0", "5", 0.0),
    ],
)
def test_numbers_are_compared_by_value(said, target, right):
    assert same_number({"target": target}, [said]) == {"exact_match": right}


def test_the_pattern_has_one_group_for_lm_eval():
    assert re.compile(NUMBER).groups == 1
    assert re.findall("answer is:? " + NUMBER, "the answer is 4 of 5") == ["4"]
