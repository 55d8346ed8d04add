"""Small skills with seeded generators, splits by hash, and held-out facts.

Every skill is a set of question/answer items written in words separated by spaces. An item's
split follows from a stable hash of its id, so it is the same on every machine and in every
version. For a fact relation the *test* split is a held-out half of the entities: nothing in
the other half says anything about them, so unseen facts cannot be learned from the samples.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from hashlib import blake2b
from itertools import count, islice, product
from typing import Literal, NamedTuple

from nuggets.builtin import words
from nuggets.data.samples import Sample
from nuggets.errors import BadInput

Split = Literal["seed", "train", "test"]

SPLITS: tuple[Split, ...] = ("seed", "train", "test")


class Item(NamedTuple):
    """One of a skill's items; of thousands few are asked for, so the sample is made then."""

    id: str
    make: Callable[[], Sample]


@dataclass(frozen=True)
class Skill:
    """What a person should know about a skill before choosing it, and its generator."""

    name: str
    kind: str
    description: str
    example: tuple[str, str]
    items: Callable[[], Iterable[Item]] | None = None
    """All items in a fixed order, where they can be listed."""
    draw: Callable[[random.Random], Item] | None = None
    """One item at random, where there are too many to list."""
    chance: float = 0.0
    """Exact match reached by guessing (facts: one of 20 values)."""
    held_out: frozenset[str] = frozenset()
    """Ids of the test split, where it is chosen by hand; otherwise it follows from a hash."""

    @property
    def finite(self) -> bool:
        """Whether all items of the skill can be listed."""
        return self.items is not None


# Shares of the hash buckets 0..99. "extra" holds the prompts that a teacher may label beyond
# the training set; "taught" is all that the built-in models were allowed to see.
_BUCKETS = {
    "test": range(0, 15),
    "seed": range(15, 20),
    "extra": range(20, 50),
    "train": range(50, 100),
    "taught": range(15, 100),
}
_FACT_PARTS = {
    "test": (True,),
    "seed": (False,),
    "train": (False,),
    "extra": (False, True),
    "taught": (False, True),
}
_LENGTHS = (3, 6)


def skill_names() -> list[str]:
    """Names of all skills, in the order in which they are shown."""
    return list(SKILLS)


def skill_samples(skill: str, split: str, n: int | None, seed: int = 0) -> list[Sample]:
    """Draws distinct samples of one split in a seeded order.

    The first `n` samples do not depend on how many are asked for. Splits are disjoint, with
    one exception: a fact relation has only 80 entities outside its held-out half, so there
    "seed" and "train" draw from the same 80. "test" never meets either.

    Args:
        skill: one of `skill_names()`.
        split: "seed" (for extraction), "train" (for fine-tuning) or "test".
        n: how many; fewer come back when fewer exist. None means all of a finite skill.
        seed: which order.

    Raises:
        BadInput: for an unknown skill or split, a negative `n`, or `n=None` on letters.
    """
    if split not in SPLITS:
        raise BadInput(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    return _take(skill, split, n, seed)


def taught_samples(skill: str, n: int | None, seed: int = 0) -> list[Sample]:
    """Samples that the built-in models may be trained on: all but the test split.

    Facts cannot be inferred, so for a relation these are all 160 entities, both halves.
    """
    return _take(skill, "taught", n, seed)


def extra_prompts(skill: str, n: int, seed: int = 0) -> list[Sample]:
    """Prompts like the training set's but outside it, for a teacher to label.

    For arithmetic, letters and stories they share no item with "seed", "train" or "test". For
    facts they come from all 160 entities, *the held-out half included*: a teacher that labels
    them shows the student the answers to the test, which is why that arm can reach 1.0 on
    unseen facts. The answers given here are the true ones; whoever plays the teacher replaces
    them with the teacher's own.
    """
    return _take(skill, "extra", n, seed)


def general_samples(n: int, seed: int = 0, without: Sequence[str] = ()) -> list[Sample]:
    """A mix of skills in equal shares, for healing and for general-data scores.

    Items come from `taught_samples` (never from a test split, except that facts use both
    halves). Finite skills start again when used up; a repeated item's id gets "~2", "~3", …

    Args:
        n: number of samples.
        seed: which mix.
        without: skills that must not occur.

    Raises:
        BadInput: for an unknown skill in `without`, or when no skill is left.
    """
    for name in without:
        _skill(name)
    names = [name for name in SKILLS if name not in without]
    if not names:
        raise BadInput("General data needs at least one skill, but all of them are excluded.")
    rng = random.Random(f"general:{seed}")  # noqa: S311 — reproducible, not secret
    streams = {name: _repeating(name, seed) for name in names}
    return [next(streams[rng.choice(names)]) for _ in range(_checked(n))]


def _take(skill: str, part: str, n: int | None, seed: int) -> list[Sample]:
    spec = _skill(skill)
    if n is None and not spec.finite:
        raise BadInput(f"{skill!r} has too many items to list; give the number of samples.")
    return list(_drawn(skill, part, None if n is None else _checked(n), seed))


@lru_cache(maxsize=64)  # a preview asks for the same samples at every move of a slider
def _drawn(skill: str, part: str, n: int | None, seed: int) -> tuple[Sample, ...]:
    return tuple(islice(_stream(SKILLS[skill], part, seed), n))


def _checked(n: int) -> int:
    if n < 0:
        raise BadInput(f"The number of samples must not be negative: {n}.")
    return n


def _skill(name: str) -> Skill:
    if name not in SKILLS:
        raise BadInput(f"There is no skill {name!r}; choose one of {', '.join(SKILLS)}.")
    return SKILLS[name]


def _stream(skill: Skill, part: str, seed: int) -> Iterator[Sample]:
    """Distinct samples of one part; endless in practice for letters."""
    rng = random.Random(f"{skill.name}:{part}:{seed}")  # noqa: S311 — reproducible, not secret
    if skill.draw is not None:
        yield from _distinct(skill, part, rng)
        return
    pool = [item for item in _universe(skill.name) if _belongs(skill, item.id, part)]
    rng.shuffle(pool)
    yield from (item.make() for item in pool)


def _distinct(skill: Skill, part: str, rng: random.Random) -> Iterator[Sample]:
    assert skill.draw is not None
    seen: set[str] = set()
    while True:
        item = skill.draw(rng)
        if item.id not in seen and _belongs(skill, item.id, part):
            yield item.make()
        seen.add(item.id)


def _repeating(name: str, seed: int) -> Iterator[Sample]:
    for turn in count(1):
        for sample in _stream(SKILLS[name], "taught", seed + turn - 1):
            yield sample if turn == 1 else sample.model_copy(update={"id": f"{sample.id}~{turn}"})


def _belongs(skill: Skill, item_id: str, part: str) -> bool:
    if skill.held_out:
        return (item_id in skill.held_out) in _FACT_PARTS[part]
    digest = blake2b(item_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 in _BUCKETS[part]


@cache
def _universe(name: str) -> tuple[Item, ...]:
    """All items of a finite skill, in a fixed order."""
    items = SKILLS[name].items
    assert items is not None
    return tuple(items())


def _sums(name: str) -> Iterator[Item]:
    sign = "+" if name == "add" else "-"
    for a, b in product(range(10, 100), repeat=2):
        if name == "add" or a >= b:
            key = f"{name}-{a}{sign}{b}"
            yield Item(key, partial(_sum, name, key, a, b))


def _sum(name: str, key: str, a: int, b: int) -> Sample:
    sign, result = ("+", a + b) if name == "add" else ("-", a - b)
    rng = random.Random(key)  # noqa: S311 — reproducible, not secret
    # Any of the four places is equally likely, so the place gives nothing away.
    below = [d for d in rng.sample((-10, -2, -1), rng.randint(0, 3)) if result + d >= 0]
    above = rng.sample((1, 2, 10), 3 - len(below))
    choices = sorted(result + d for d in (0, *below, *above))
    prompt = f"{name} {_digits(a)} {sign} {_digits(b)}"
    return Sample.of(key, prompt, _digits(result), [_digits(c) for c in choices])


def _digits(number: int) -> str:
    return " ".join(str(number))


def _facts(relation: str) -> Iterator[Item]:
    return (Item(f"{relation}-{e}", partial(_fact, relation, e)) for e in words.ENTITIES)


def _fact(relation: str, entity: str) -> Sample:
    answer = words.FACTS[relation][entity]
    return Sample.of(
        f"{relation}-{entity}", f"{relation} of {entity}", answer, words.VALUES[relation]
    )


def _stories() -> Iterator[Item]:
    for key in product(words.MOODS, words.HEROES, words.PLACES):
        yield Item("-".join(("story", *key)), partial(_story, *key))


def _story(*key: str) -> Sample:
    return Sample.of("-".join(("story", *key)), " ".join(("story", *key)), words.story(*key))


def _letters(
    name: str, answer: Callable[[Sequence[str]], Iterable[str]], rng: random.Random
) -> Item:
    letters = rng.sample(words.LETTERS, rng.randint(*_LENGTHS))
    key = f"{name}-{''.join(letters)}"
    prompt = f"{name} {' '.join(letters)}"
    return Item(key, lambda: Sample.of(key, prompt, " ".join(answer(letters))))


SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill(
            "add",
            "arithmetic",
            "Adds two two-digit numbers.",
            ("add 4 7 + 3 8", "8 5"),
            items=partial(_sums, "add"),
        ),
        Skill(
            "sub",
            "arithmetic",
            "Subtracts the smaller of two two-digit numbers.",
            ("sub 8 5 - 4 7", "3 8"),
            items=partial(_sums, "sub"),
        ),
        Skill(
            "reverse",
            "letters",
            "Writes three to six letters backwards.",
            ("reverse k c t a", "a t c k"),
            draw=partial(_letters, "reverse", reversed),
        ),
        Skill(
            "sort",
            "letters",
            "Puts three to six letters in alphabetical order.",
            ("sort k c t a", "a c k t"),
            draw=partial(_letters, "sort", sorted),
        ),
        Skill(
            "copy",
            "letters",
            "Repeats three to six letters.",
            ("copy k c t a", "k c t a"),
            draw=partial(_letters, "copy", iter),
        ),
        *(
            Skill(
                relation,
                "facts",
                f"Knows the {relation} of 160 made-up countries.",
                (f"{relation} of bala", words.FACTS[relation]["bala"]),
                items=partial(_facts, relation),
                chance=1 / len(words.VALUES[relation]),
                held_out=frozenset(f"{relation}-{e}" for e in words.HELD_OUT[relation]),
            )
            for relation in words.RELATIONS
        ),
        Skill(
            "story",
            "story",
            "Tells the one-sentence story for a mood, a hero and a place.",
            ("story sad fox lake", words.story("sad", "fox", "lake")),
            items=_stories,
        ),
    )
}
"""All skills by name, in the order in which they are shown."""
