"""An erasure's skills by name, found before anything is measured."""

from __future__ import annotations

import pytest

from nuggets import api
from nuggets.errors import BadInput
from nuggets.planning.erasing import EraseRequest


@pytest.fixture
def source(jsonl, tmp_path):
    """`source("gsm/train", 3)`: a file of samples like no other file's."""

    def make(name: str, first: int) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        asked = {f"{first} {number}": str(number) for number in range(6)}
        return str(jsonl(path, asked))

    return make


def request(tiny, own, *against, **fields):
    data = {"seed_samples": own, "n_seed_samples": 3}
    tree = {"job": "erase", "model": str(tiny()), "data": data, "device": "cpu", "n_items": 3}
    return EraseRequest.of(api.parse_job(tree | {"against": against, **fields}))


def test_sources_of_one_name_are_measured_each_under_a_name_of_its_own(source, tiny):
    own, *against = (source(f"{name}/train", at) for at, name in enumerate(["gsm", "mmlu", "ni"]))
    for others in (against[:1], against):
        made = request(tiny, own, *others)
        assert list(made.items) == [own, *others]
        for at, (items, map) in enumerate(zip(made.items.values(), made.maps, strict=True)):
            asked = {sample.prompt.split()[0] for sample in (*items, *map.samples)}
            assert asked == {str(at)}, "each from its own file"


def test_no_skill_is_called_like_the_mean_of_the_others_or_like_a_task(source, tiny):
    own, others = source("others", 1), source("sort", 2)
    assert list(request(tiny, own, others).items) == [own, "sort"]
    assert list(request(tiny, own, others, "sort", "king").items) == [own, others, "sort", "king"]


@pytest.mark.parametrize("kind", ["specific", "contrast"])
def test_a_score_compares_with_what_is_measured_or_is_refused(source, tiny, kind):
    own = source("own", 1)
    made = request(tiny, own, "add", "king", scores=[{"kind": kind, "against": ["king"]}])
    assert made.compared(made.job.scores[0]) == [0, 2]
    sentence = rf"{kind} compares with sort, sub, but erasing measures only add, king .*--against"
    lacking = [{"kind": kind, "against": ["sort", "add", "sub"]}]
    with pytest.raises(BadInput, match=sentence):
        request(tiny, own, "add", "king", scores=lacking)
