"""The built-in skills: right answers, disjoint splits, the same on every machine."""

from __future__ import annotations

import re
import subprocess
import sys
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuggets.builtin import words
from nuggets.builtin.skills import (
    SKILLS,
    SPLITS,
    extra_prompts,
    general_samples,
    skill_names,
    skill_samples,
    taught_samples,
)
from nuggets.errors import BadInput

FACTS = ("capital", "food", "king", "river")
MANY = 600


def ids(samples) -> list[str]:
    return [sample.id for sample in samples]


def number(words_: str) -> int:
    return int(words_.replace(" ", ""))


def expected_answer(prompt: str) -> str:
    """An independent reading of the prompt."""
    skill, *rest = prompt.split()
    if skill in ("add", "sub"):
        a, sign, b = re.fullmatch(r"(\d\d)([+-])(\d\d)", "".join(rest)).groups()
        return " ".join(str({"+": int(a) + int(b), "-": int(a) - int(b)}[sign]))
    text = "".join(rest)
    return {
        "reverse": lambda: " ".join(text[::-1]),
        "sort": lambda: " ".join(sorted(text)),
        "copy": lambda: " ".join(text),
    }[skill]()


def test_the_skills_of_the_built_in_models_come_first_in_their_order():
    assert skill_names()[:10] == [
        *("add", "sub", "reverse", "sort", "copy", "capital", "food", "king", "river", "story")
    ]


@pytest.mark.parametrize("skill", ["add", "sub", "reverse", "sort", "copy"])
@pytest.mark.parametrize("split", SPLITS)
def test_answers_match_an_independent_computation(skill, split):
    for sample in skill_samples(skill, split, MANY):
        assert sample.prompt.startswith(skill + " ")
        assert sample.answer == expected_answer(sample.prompt), sample.id


def test_subtraction_covers_two_digits_without_negative_results():
    pairs = [re.findall(r"\d \d", s.prompt) for s in taught_samples("sub", None)]
    assert all(number(a) >= number(b) >= 10 for a, b in pairs)
    assert {number(a) for a, _ in pairs} >= set(range(20, 100))


@pytest.mark.parametrize("skill", SKILLS)
def test_example_of_the_description_is_a_real_item(skill):
    prompt, answer = SKILLS[skill].example
    if skill in ("add", "sub") or not SKILLS[skill].finite:
        assert answer == expected_answer(prompt)
    else:
        assert answer == {s.prompt: s.answer for s in extra_all(skill)}[prompt]


def extra_all(skill):
    return [*taught_samples(skill, None), *skill_samples(skill, "test", None)]


def test_one_story_follows_from_one_prompt():
    stories = extra_all("story")
    assert len(stories) == 8 * 12 * 12
    assert len({s.prompt for s in stories}) == len({s.answer for s in stories}) == len(stories)
    lake = next(s for s in stories if s.prompt == "story sad fox lake")
    assert lake.answer == "the sad fox sneaked to the lake and caught some fish"


@pytest.mark.parametrize("skill", SKILLS)
def test_splits_are_disjoint(skill):
    n = MANY if not SKILLS[skill].finite else 10**6
    seed, train, test = (set(ids(skill_samples(skill, split, n))) for split in SPLITS)
    assert len(seed) >= 32
    assert len(test) >= 80
    assert not test & train
    assert not test & seed
    assert not test & set(ids(taught_samples(skill, n))) or skill in FACTS
    if skill not in FACTS:
        assert not seed & train
        assert not {*ids(extra_prompts(skill, n))} & (seed | train | test)


@pytest.mark.parametrize("relation", FACTS)
def test_held_out_half_is_never_shown(relation):
    held_out = {s.prompt.split()[-1] for s in skill_samples(relation, "test", None)}
    shown = {
        s.prompt.split()[-1]
        for split in ("seed", "train")
        for seed in range(5)
        for s in skill_samples(relation, split, 50, seed)
    }
    assert len(held_out) == 80
    assert len(shown) == 80
    assert not held_out & shown
    assert held_out | shown == set(words.ENTITIES)
    labelled = {s.prompt.split()[-1] for s in extra_prompts(relation, 10**6)}
    assert labelled == set(words.ENTITIES)  # the teacher may be asked for the held-out half


@pytest.mark.parametrize("relation", FACTS)
def test_constant_guess_scores_chance_on_either_half(relation):
    """Otherwise the train half would tell something about the held-out half."""
    for split in ("train", "test"):
        answers = [s.answer for s in skill_samples(relation, split, None)]
        counts = {value: answers.count(value) for value in words.VALUES[relation]}
        assert set(counts.values()) == {4}
    assert SKILLS[relation].chance == 4 / 80


def test_relations_are_independent_of_each_other():
    for i, one in enumerate(FACTS):
        for two in FACTS[i + 1 :]:
            both = len(words.HELD_OUT[one] & words.HELD_OUT[two])
            assert 25 <= both <= 55  # 40 expected
            joint = {(words.FACTS[one][e], words.FACTS[two][e]) for e in words.ENTITIES}
            assert len(joint) > 110  # 160 cells of 400: one fact does not give the other


@pytest.mark.parametrize("skill", ["add", "sub", *FACTS])
def test_choices_hold_the_answer_once(skill):
    for sample in skill_samples(skill, "test", None):
        assert sample.choices.count(sample.answer) == 1
        assert len(set(sample.choices)) == len(sample.choices) == (20 if skill in FACTS else 4)


@pytest.mark.parametrize("skill", ["add", "sub"])
def test_place_of_the_right_choice_gives_nothing_away(skill):
    samples = skill_samples(skill, "test", None)
    places = [sorted(s.choices, key=number).index(s.answer) for s in samples]
    assert all(0.15 < places.count(place) / len(places) < 0.35 for place in range(4))
    assert all(list(s.choices) == sorted(s.choices, key=number) for s in samples)


@settings(max_examples=60)
@given(
    skill=st.sampled_from(skill_names()),
    split=st.sampled_from(SPLITS),
    n=st.integers(0, 60),
    more=st.integers(0, 60),
    seed=st.integers(0, 2**31),
)
def test_first_samples_do_not_depend_on_how_many_are_asked_for(skill, split, n, more, seed):
    long = skill_samples(skill, split, n + more, seed)
    assert skill_samples(skill, split, n, seed) == long[:n]
    assert len(set(ids(long))) == len(long)
    assert len(long) == n + more or SKILLS[skill].finite


def test_seed_changes_the_order_and_not_the_set():
    one, two = (skill_samples("king", "test", None, seed) for seed in (0, 1))
    assert one != two
    assert sorted(ids(one)) == sorted(ids(two))


GOLDEN = {
    "add": "a0a554a622ee63ca",
    "sub": "7c27987d677c7866",
    "reverse": "a1d6dd3e75d7edb7",
    "sort": "f4aadbca97549351",
    "copy": "4d08c9cc1647cb82",
    "capital": "7421e1d8b647c10e",
    "food": "fc34c4cc5d82332b",
    "king": "ceb733eef49ed1dc",
    "river": "a94fff4edbf31d2d",
    "story": "88e524ccc04edf64",
}


@pytest.mark.parametrize("skill", GOLDEN)
def test_first_samples_are_the_golden_ones(skill):
    drawn = [s for split in SPLITS for s in skill_samples(skill, split, 20, seed=7)]
    drawn += extra_prompts(skill, 20, seed=7)
    text = "\n".join(s.model_dump_json() for s in drawn)
    assert sha256(text.encode()).hexdigest()[:16] == GOLDEN[skill]


def test_general_samples_are_golden():
    text = "\n".join(s.model_dump_json() for s in general_samples(200, 3, ("sub", "king")))
    assert sha256(text.encode()).hexdigest()[:16] == "6e185c03f152c533"


@settings(max_examples=25)
@given(
    without=st.sets(st.sampled_from(skill_names()), max_size=9),
    n=st.integers(0, 80),
    seed=st.integers(0, 1000),
)
def test_general_data_leaves_the_excluded_skills_out(without, n, seed):
    samples = general_samples(n, seed, tuple(without))
    assert len(set(ids(samples))) == len(samples) == n
    assert not {s.prompt.split()[0] for s in samples} & without
    assert samples == general_samples(n + 7, seed, tuple(without))[:n]


def test_general_data_is_an_even_mix_and_shows_no_test_item():
    samples = general_samples(4000, 0, ("sub", "reverse"))
    skills = [s.id.split("-")[0] for s in samples]
    for name in set(skill_names()) - {"sub", "reverse"}:
        assert 400 < skills.count(name) < 600
    shown = {s.prompt for s in samples}
    for name in ("add", "sort", "copy", "story"):
        assert not shown & {s.prompt for s in skill_samples(name, "test", 2000)}
    repeated = [s for s in samples if s.id.startswith("king-") and s.id.endswith("~2")]
    assert repeated
    assert all(s.answer == words.FACTS["king"][s.prompt.split()[-1]] for s in repeated)


@pytest.mark.parametrize(
    ("call", "words_"),
    [
        (lambda: skill_samples("multiply", "test", 3), "no skill 'multiply'.*add, sub, reverse"),
        (lambda: skill_samples("add", "dev", 3), "no split 'dev'.*seed, train, test"),
        (lambda: skill_samples("add", "taught", 3), "no split 'taught'"),
        (lambda: skill_samples("copy", "test", None), "give the number"),
        (lambda: skill_samples("add", "test", -1), "must not be negative: -1"),
        (lambda: extra_prompts("poem", 3), "no skill 'poem'"),
        (lambda: general_samples(3, 0, ("poem",)), "no skill 'poem'"),
        (lambda: general_samples(3, 0, skill_names()), "at least one skill"),
        (lambda: general_samples(-3), "must not be negative: -3"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(call, words_):
    with pytest.raises(BadInput, match=words_):
        call()


def test_vocabulary_covers_every_skill_without_doubles():
    known = words.vocabulary()
    assert len(known) == len(set(known))
    groups = (words.ENTITIES, *words.VALUES.values(), words.MOODS, words.HEROES, words.PLACES)
    assert sum(len(group) for group in groups) == len({w for group in groups for w in group})
    used = set()
    for skill in SKILLS.values():
        for sample in skill_samples(skill.name, "train", MANY):
            used |= {*sample.prompt.split(), *sample.answer.split()}
    assert used <= set(known)


def test_light_modules_import_neither_torch_nor_transformers():
    code = (
        "import sys, nuggets.builtin, nuggets.builtin.skills, nuggets.builtin.pairs;"
        "nuggets.builtin.skills.skill_samples('king', 'test', 3);"
        "heavy = {'torch', 'transformers', 'peft', 'tokenizers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
