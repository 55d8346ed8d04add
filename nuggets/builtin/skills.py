"""Ten small skills with seeded generators, splits by hash, and held-out facts. Torch-free.

Every skill is a set of question/answer items written in words separated by spaces. An item's
split follows from a stable hash of its id, so it is the same on every machine and in every
version. For a fact relation the *test* split is a held-out half of the entities: nothing in
the other half says anything about them, so unseen facts cannot be learned from the samples.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from hashlib import blake2b
from itertools import count, islice, product
from typing import Literal, NamedTuple

from nuggets.builtin import words
from nuggets.core.samples import Sample
from nuggets.errors import BadInput

Kind = Literal["arithmetic", "letters", "facts", "story"]
Split = Literal["seed", "train", "test"]

SPLITS: tuple[Split, ...] = ("seed", "train", "test")


@dataclass(frozen=True)
class Skill:
    """What a person should know about a skill before choosing it."""

    name: str
    kind: Kind
    description: str
    example: tuple[str, str]
    chance: float
    """Exact match reached by guessing (facts: one of 20 values)."""

    @property
    def finite(self) -> bool:
        """Whether all items of the skill can be listed."""
        return self.kind != "letters"


SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill("add", "arithmetic", "Adds two two-digit numbers.", ("add 4 7 + 3 8", "8 5"), 0.0),
        Skill(
            "sub",
            "arithmetic",
            "Subtracts the smaller of two two-digit numbers.",
            ("sub 8 5 - 4 7", "3 8"),
            0.0,
        ),
        Skill(
            "reverse",
            "letters",
            "Writes three to six letters backwards.",
            ("reverse k c t a", "a t c k"),
            0.0,
        ),
        Skill(
            "sort",
            "letters",
            "Puts three to six letters in alphabetical order.",
            ("sort k c t a", "a c k t"),
            0.0,
        ),
        Skill("copy", "letters", "Repeats three to six letters.", ("copy k c t a", "k c t a"), 0.0),
        *(
            Skill(
                relation,
                "facts",
                f"Knows the {relation} of 160 made-up countries.",
                (f"{relation} of bala", words.FACTS[relation]["bala"]),
                1 / len(words.VALUES[relation]),
            )
            for relation in words.RELATIONS
        ),
        Skill(
            "story",
            "story",
            "Tells the one-sentence story for a mood, a hero and a place.",
            ("story sad fox lake", words.story("sad", "fox", "lake")),
            0.0,
        ),
    )
}
"""All skills by name, in the order in which they are shown."""

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
_LETTER_SKILLS: dict[str, Callable[[Sequence[str]], Sequence[str]]] = {
    "reverse": lambda letters: letters[::-1],
    "sort": sorted,
    "copy": lambda letters: letters,
}


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
    if skill.kind == "letters":
        yield from _letters(skill, part, rng)
        return
    pool = [item for item in _universe(skill.name) if _belongs(skill, item.id, part)]
    rng.shuffle(pool)
    yield from (item.make() for item in pool)


def _repeating(name: str, seed: int) -> Iterator[Sample]:
    for turn in count(1):
        for sample in _stream(SKILLS[name], "taught", seed + turn - 1):
            yield sample if turn == 1 else sample.model_copy(update={"id": f"{sample.id}~{turn}"})


def _belongs(skill: Skill, item_id: str, part: str) -> bool:
    if skill.kind == "facts":
        held_out = item_id.removeprefix(f"{skill.name}-") in words.HELD_OUT[skill.name]
        return held_out in _FACT_PARTS[part]
    digest = blake2b(item_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 in _BUCKETS[part]


class _Item(NamedTuple):
    """One of a skill's items; of thousands few are asked for, so the sample is made then."""

    id: str
    make: Callable[[], Sample]


@cache
def _universe(name: str) -> tuple[_Item, ...]:
    """All items of a finite skill, in a fixed order."""
    if SKILLS[name].kind == "arithmetic":
        sign = "+" if name == "add" else "-"
        numbers = product(range(10, 100), repeat=2)
        pairs = [(a, b) for a, b in numbers if name == "add" or a >= b]
        return tuple(
            _Item(key := f"{name}-{a}{sign}{b}", partial(_sum, name, key, a, b)) for a, b in pairs
        )
    if SKILLS[name].kind == "facts":
        return tuple(_Item(f"{name}-{e}", partial(_fact, name, e)) for e in words.ENTITIES)
    return tuple(
        _Item("-".join(("story", *key)), partial(_story, *key))
        for key in product(words.MOODS, words.HEROES, words.PLACES)
    )


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


def _fact(relation: str, entity: str) -> Sample:
    answer = words.FACTS[relation][entity]
    return Sample.of(
        f"{relation}-{entity}", f"{relation} of {entity}", answer, words.VALUES[relation]
    )


def _story(*key: str) -> Sample:
    return Sample.of("-".join(("story", *key)), " ".join(("story", *key)), words.story(*key))


def _letters(skill: Skill, part: str, rng: random.Random) -> Iterator[Sample]:
    seen: set[str] = set()
    while True:
        letters = rng.sample(words.LETTERS, rng.randint(*_LENGTHS))
        key = f"{skill.name}-{''.join(letters)}"
        if key in seen:
            continue
        seen.add(key)
        answer = " ".join(_LETTER_SKILLS[skill.name](letters))
        sample = Sample.of(key, f"{skill.name} {' '.join(letters)}", answer)
        if _belongs(skill, sample.id, part):
            yield sample
