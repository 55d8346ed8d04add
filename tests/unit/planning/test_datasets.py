"""Items that count, items that learning rates are chosen on, and samples that are learned from."""

from __future__ import annotations

import shutil

import pytest

from nuggets.builtin.pairs import model_folder
from nuggets.builtin.resolve import pair_named
from nuggets.builtin.skills import skill_names
from nuggets.errors import BadInput
from nuggets.planning.checks import check_general, check_transfer
from nuggets.planning.datasets import N_VALIDATION, check_validation, load_datasets
from nuggets.recipe import DataConfig, load_recipe

NUMBERS = {f"{i} plus 1": str(i + 1) for i in range(120)}


def prompts(samples):
    return {sample.prompt for sample in samples}


def assert_apart(data):
    learned = prompts(data.seed_samples) | prompts(data.train(0))
    counted, tuned = prompts(data.test), prompts(data.validation)
    assert not counted & tuned
    assert not learned & (counted | tuned)
    assert not {s.id for s in data.test} & {s.id for s in data.validation}


@pytest.mark.parametrize("n_test", [50, 80, 500])
@pytest.mark.parametrize("task", skill_names())
def test_validation_items_of_built_in_skills_are_never_test_items(task, n_test):
    data = load_datasets(DataConfig(task=task, n_train=64, n_test=n_test), (), ())
    assert_apart(data)
    assert len(data.test) + len(data.validation) <= n_test + N_VALIDATION


@pytest.mark.parametrize("n_test", [5, 10, 24, 80])
def test_validation_items_of_one_file_are_never_test_items(jsonl, tmp_path, n_test):
    path = jsonl(tmp_path / "all.jsonl", NUMBERS)
    data = load_datasets(DataConfig(file=str(path), n_test=n_test), (), ())
    assert_apart(data)
    assert len(data.test) + len(data.validation) == 24  # a fifth of the file


def test_a_file_that_asks_the_same_again_is_split_so_that_the_test_stays_unseen(jsonl, tmp_path):
    """Such as an Alpaca file of a few templates: nobody has to look for the copies by hand."""
    path = tmp_path / "often.jsonl"
    lines = [f'{{"prompt": "{i % 30} plus 1", "completion": "{i % 30 + 1}"}}\n' for i in range(90)]
    path.write_text("".join(lines))
    data = load_datasets(DataConfig(file=str(path), n_test=80, n_train=500), (), ())
    assert_apart(data)
    assert len(data.test) == 18  # a fifth of the file
    assert len(data.train(0)) == 90 - 3 * len(prompts(data.test))
    path.write_text(lines[0] * 9)
    with pytest.raises(BadInput, match="9 samples and too few different questions"):
        load_datasets(DataConfig(file=str(path)), (), ())


def test_a_question_that_stands_twice_among_test_samples_is_not_tuned_on(jsonl, tmp_path):
    lines = [f'{{"id": "{i}", "prompt": "{i % 40} plus 1", "completion": "{i % 40 + 1}"}}\n'
             for i in range(100)]  # fmt: skip
    test = tmp_path / "test.jsonl"
    test.write_text("".join(lines))
    parts = {f"learn {i}": "x" for i in range(9)}
    paths = {n: str(jsonl(tmp_path / f"{n}.jsonl", parts)) for n in ("seed_samples", "train")}
    data = load_datasets(DataConfig(**paths, test=str(test), n_test=20), (), ())
    assert_apart(data)
    assert len(data.test) == 20
    assert len(prompts(data.validation)) == 20


def test_no_general_sample_is_asked_anywhere(jsonl, tmp_path):
    """Students are healed on them: a file that holds test items would teach the answers."""
    own = jsonl(tmp_path / "own.jsonl", {f"{i} plus 1": str(i + 1) for i in range(300)})
    asked = DataConfig(file=str(own), n_test=20, general=str(own))
    data = load_datasets(asked, ("copy",), ())
    general = prompts(data.general(2000, 0))
    assert len(general) > 200
    assert not general & prompts([*data.test, *data.validation])
    some = jsonl(tmp_path / "some.jsonl", {data.test[0].prompt: "x"})
    data = load_datasets(asked.model_copy(update={"general": str(some)}), (), ())
    with pytest.raises(BadInput, match=r"All 1 samples of some \(data.general\) are also items"):
        data.general(4, 0)


def test_too_few_items_to_choose_a_rate_on_are_refused_with_both_ways_out(jsonl, tmp_path):
    some = jsonl(tmp_path / "some.jsonl", {f"{i} plus 1": str(i + 1) for i in range(230)})
    data = load_datasets(DataConfig(file=str(some), n_test=20), (), ())
    sentence = (
        f"Learning rates are chosen on at least 30 items that the report does not count, but "
        f"beside its 20 test items some has only {len(data.validation)}. Lower data.n_test to "
        rf"{len(data.validation) - 10}, or give every arm the same rate: empty train.lr_grid\."
    )
    with pytest.raises(BadInput, match=sentence):
        check_validation(data)


@pytest.mark.parametrize("grid", ["[1e-3,1e-2]", "[]"])
@pytest.mark.parametrize("task", ["king", "river"])
def test_of_held_out_facts_30_are_for_validation_and_50_are_asked(task, grid):
    asked = load_recipe("quick", [f"data.task={task}", f"train.lr_grid={grid}", "device=cpu"])
    data = check_transfer(asked, pair_named(asked.teacher, asked.student))
    assert (len(data.train(0)), len(data.validation), len(data.test)) == (80, 30, 50)
    assert_apart(data)


def test_where_no_smaller_test_would_do_only_the_fixed_rate_is_proposed(jsonl, tmp_path):
    few = jsonl(tmp_path / "few.jsonl", dict(list(NUMBERS.items())[:50]))
    data = load_datasets(DataConfig(file=str(few), n_test=5), (), ())
    with pytest.raises(BadInput, match=r"has only 5\. Give every arm the same rate"):
        check_validation(data)


@pytest.mark.parametrize("task", ["reverse", "sub", "king"])
def test_who_counts_validation_items_asks_no_test_item(task):
    asked = DataConfig(task=task, n_test=80, n_old=10)
    told, searched = (
        load_datasets(asked.model_copy(update={"items": items}), ("copy", "river"), ())
        for items in ("test", "validation")
    )
    assert prompts(searched.test) == prompts(searched.validation) == prompts(told.validation)
    assert not prompts(searched.test) & prompts(told.test)
    assert searched.label == f"{task}, validation items"
    for skill, items in told.old.items():
        assert len(searched.old[skill]) == len(items)
        assert not prompts(searched.old[skill]) & prompts(items)
    assert prompts(searched.train(3)) == prompts(told.train(3))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("n_test", r"Reverse has 1 item to count"),
        ("n_old", r"The old skill \w+ has 1 item to count"),
    ],
)
def test_a_single_item_is_refused_before_anything_is_trained_for_it(field, said):
    asked = load_recipe("quick", [f"data.{field}=1", "device=cpu"])
    with pytest.raises(BadInput, match=rf"{said}, and an interval needs at least 2\. .*{field}"):
        check_transfer(asked, pair_named(asked.teacher, asked.student))


def test_too_few_items_to_count_beside_the_test_are_refused(jsonl, tmp_path):
    few = jsonl(tmp_path / "few.jsonl", NUMBERS)
    with pytest.raises(BadInput, match=r"Choosing needs at least 30 .* beside its 20 test items"):
        load_datasets(DataConfig(file=str(few), n_test=20, items="validation"), (), ())


def test_only_who_knows_the_built_in_words_is_healed_on_built_in_skills(tiny, tmp_path):
    """A student that was cut from a built-in model goes on: its words are the built-in ones."""
    cut = shutil.copytree(model_folder("independent"), tmp_path / "cut")

    def check(student, kind, *overrides):
        recipe = load_recipe("quick", [f"arms=[{kind}]", f"student={student}", *overrides])
        check_general(recipe, pair_named(recipe.teacher, recipe.student))

    for kind in ("{kind: graft}", "{kind: lexicon}", "{kind: states}"):
        check("independent", kind)
        check(cut, kind)
        check(tiny(), kind, "data.general=mine.jsonl")
        with pytest.raises(BadInput, match=r"Without data\.general these are built-in skills"):
            check(tiny(), kind)
    for kind in ("{kind: plain}", "{kind: graft, heal_steps: 0}", "{kind: lexicon, general: 0}"):
        check(tiny(), kind)
