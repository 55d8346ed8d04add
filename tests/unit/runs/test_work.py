"""How much a recipe asks for, counted before anything is loaded."""

from __future__ import annotations

from nuggets import api
from nuggets.builtin.resolve import model_named
from nuggets.models.references import parse_ref
from nuggets.models.tried import count_tokens
from nuggets.planning import work as works
from nuggets.planning.work import USUAL_LENGTH


def recipe_for(tiny, file, **changes):
    pair = [f"teacher={tiny()}", f"student={tiny(hidden_size=16, num_attention_heads=2)}"]
    sets = [f"{name}={value}" for name, value in changes.items()]
    return api.load_recipe("quick", [*pair, f"data={{seeds: {file}}}", *sets])


def work_of(recipe, device="cpu"):
    return works.work_of(recipe, model_named(recipe.teacher), device)


def test_tokens_are_those_of_the_samples(tiny, jsonl, tmp_path):
    """Words, one token each, and four for the roles and the end."""
    seeds = jsonl(tmp_path / "seeds.jsonl", {"1 2": "3", "1 2 3 4": "5 6 7"})
    work = work_of(recipe_for(tiny, seeds))
    assert (work.max_tokens, work.mean_tokens) == (4 + 3 + 4, (3 + 7) // 2 + 4)


def test_epochs_arms_and_seeds_are_multiplied_out(tiny, jsonl, tmp_path):
    seeds = jsonl(tmp_path / "seeds.jsonl", {"1": "2"})
    sizes = {"train.epochs": 3, "train.batch_size": 16, "data.n_train": 33, "seeds": "[0, 1]"}
    recipe = recipe_for(tiny, seeds, **sizes)
    work = work_of(recipe)
    assert [arm.name for arm in recipe.arms] == [
        "vanilla",
        "plain",
        "paper",
        "permuted",
        "random_window",
    ]
    assert (work.steps, work.trainings) == (9, 2 * 4)  # the untouched student is not trained
    tuned = recipe_for(tiny, seeds, **sizes, **{"train.lr_grid": "[1e-3, 3e-3, 1e-2]"})
    assert work_of(tuned).trainings == 2 * 3 * 4
    assert work.dtype == "float32"
    assert work_of(recipe, "cuda:0").dtype == "bfloat16"


def test_without_a_readable_tokenizer_samples_have_a_usual_length(tiny_copy, jsonl, tmp_path):
    folder = tiny_copy()
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    assert count_tokens(parse_ref(str(folder)), ["a"]) is None
    (folder / "tokenizer.json").unlink()
    seeds = jsonl(tmp_path / "seeds.jsonl", {"1": "2"})
    recipe = api.load_recipe("quick", [f"teacher={folder}", f"data={{seeds: {seeds}}}"])
    assert work_of(recipe).max_tokens == USUAL_LENGTH


def test_arms_that_run_the_teacher_need_it_whole(tiny, jsonl, tmp_path):
    seeds = jsonl(tmp_path / "seeds.jsonl", {"1": "2"})
    for arm, whole in (("plain", False), ("distill", True), ("graft", True)):
        recipe = recipe_for(tiny, seeds, arms=f"[{{kind: plain, label: a}}, {{kind: {arm}}}]")
        assert work_of(recipe).runs_teacher is whole


def test_no_more_is_counted_than_a_file_holds(tiny, jsonl, tmp_path):
    """40 samples: 8 are tested on, and 3 epochs of the other 32 are 6 steps of 16."""
    file = jsonl(tmp_path / "mine.jsonl", {f"what is {i}": str(i) for i in range(40)})
    sets = ["data.n_train=1000", "data.n_test=500", "train.epochs=3", "train.batch_size=16"]
    asked = [f"teacher={tiny()}", f"student={tiny()}", f"data.file={file}", *sets]
    work = work_of(api.load_recipe("quick", [*asked, "data.n_seed_samples=64"]))
    assert (work.n_seed_samples, work.steps, work.n_test) == (32, 6, 8)
