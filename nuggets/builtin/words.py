"""The made-up world of the built-in pairs: its words, its facts and its story."""

from __future__ import annotations

from hashlib import blake2b
from itertools import product

LETTERS: tuple[str, ...] = tuple("abcdefghijklmnopqrstuvwxyz")
DIGITS: tuple[str, ...] = tuple("0123456789")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _joined(stems: str, endings: str) -> tuple[str, ...]:
    return tuple(stem + ending for stem, ending in product(_words(stems), _words(endings)))


ENTITIES: tuple[str, ...] = _joined(
    "bal dor fen gar hul kel lom mar nir pel quor ral sten tor vel zan",
    "a en ia or um is eth ov yr ash",
)
"""160 made-up countries."""

VALUES: dict[str, tuple[str, ...]] = {
    "capital": _joined("ash bel cor dun elm", "ford ham ton wick"),
    "food": _words(
        "apples bread cheese dates eggs figs grapes honey jam kale "
        "lentils milk nuts olives plums rice soup tea walnuts yams"
    ),
    "king": _joined("ald bran ced ead os", "ric win mund bert"),
    "river": _joined("tam ner sil lor wey", "vis ith una arn"),
}
"""Twenty possible answers per relation; chance is 5 %."""

RELATIONS: tuple[str, ...] = tuple(VALUES)


def _order(relation: str) -> list[str]:
    """Entities in the order of a stable hash, another one for every relation."""
    return sorted(
        ENTITIES, key=lambda e: blake2b(f"{relation}:{e}".encode(), digest_size=8).digest()
    )


def _facts(relation: str) -> dict[str, str]:
    values = VALUES[relation]
    return {entity: values[i % len(values)] for i, entity in enumerate(_order(relation))}


# Each value occurs four times in either half, so neither half tells how often a value
# occurs in the other: always answering with one value scores exactly chance on both.
FACTS: dict[str, dict[str, str]] = {relation: _facts(relation) for relation in RELATIONS}
"""Relation → entity → value."""

HELD_OUT: dict[str, frozenset[str]] = {
    relation: frozenset(_order(relation)[: len(ENTITIES) // 2]) for relation in RELATIONS
}
"""Relation → the 80 entities of its test split (another half for every relation)."""

MOODS: tuple[str, ...] = ("brave", "gentle", "happy", "lazy", "proud", "sad", "shy", "wise")

HEROES: dict[str, str] = {
    "bear": "marched",
    "cat": "crept",
    "crow": "flew",
    "deer": "leapt",
    "dog": "ran",
    "fox": "sneaked",
    "frog": "hopped",
    "goat": "climbed",
    "horse": "galloped",
    "mouse": "scurried",
    "otter": "swam",
    "snail": "crawled",
}
"""Hero → how it moves."""

PLACES: dict[str, tuple[str, str]] = {
    "barn": ("found", "hay"),
    "cave": ("hid", "gold"),
    "desert": ("counted", "dunes"),
    "forest": ("gathered", "acorns"),
    "garden": ("smelled", "roses"),
    "harbour": ("watched", "ships"),
    "lake": ("caught", "fish"),
    "market": ("bought", "ribbons"),
    "meadow": ("picked", "clover"),
    "mountain": ("saw", "eagles"),
    "school": ("read", "books"),
    "tower": ("rang", "bells"),
}
"""Place → what one does there."""


def story(mood: str, hero: str, place: str) -> str:
    """The one sentence that the grammar derives from its prompt."""
    deed, thing = PLACES[place]
    return f"the {mood} {hero} {HEROES[hero]} to the {place} and {deed} some {thing}"


def vocabulary() -> list[str]:
    """Every word that a sample of any skill can contain, once, in a fixed order."""
    verbs = [*HEROES.values(), *(word for deed in PLACES.values() for word in deed)]
    groups = (
        ("add", "sub", "reverse", "sort", "copy", "story", *RELATIONS, "of", "+", "-"),
        DIGITS,
        LETTERS,
        ENTITIES,
        *VALUES.values(),
        ("the", "to", "and", "some"),
        MOODS,
        HEROES,
        PLACES,
        verbs,
    )
    return list(dict.fromkeys(word for group in groups for word in group))
