"""Recipes on the Transfer page: saved, chosen, compared, deleted, uploaded, of a run."""

from __future__ import annotations

import json

import pytest

from nuggets import api
from nuggets.ui.transfer.recipes import OF_RUN
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.test_page_transfer import recipe_shown


def test_recipe_of_the_chosen_run_can_be_used_again(open_page):
    job = api.load_recipe("controls", ["lora.r=3", "student=sibling"])
    run = api.create(job)
    at = open_page("transfer", run=run.id)
    at.selectbox("recipe").select("of the chosen run").run()
    assert not at.exception
    assert recipe_shown(at) == job


def test_uploaded_recipe_is_offered(open_page):
    at = open_page("transfer")
    text = api.dump_job(api.load_recipe("quick", ["lora.r=5", f"description={HOSTILE!r}"]))
    at.file_uploader("recipe-file").set_value(("../../evil.yaml", text.encode(), "text/yaml"))
    at.run()
    at.button("use-upload").click().run()
    assert not at.exception
    assert recipe_shown(at).lora.r == 5
    assert HOSTILE not in rendered(at)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"- 1", b"job: ask\nmodels: [a]\nprompt: x"])
def test_broken_upload_is_one_sentence(open_page, content):
    at = open_page("transfer")
    at.file_uploader("recipe-file").set_value(("r.yaml", content, "text/yaml"))
    at.run()
    assert not at.exception
    assert any(part.value == "This did not work" for part in at.get("badge")) or shown(at)


def test_saved_recipe_is_chosen_and_runs_from_the_command_line(open_page):
    at = open_page("transfer", rank="by energy", energy="0.7", content=["gaussian"])
    wanted = recipe_shown(at)
    at.text_input("save-name").set_value("mine").run()
    at.button("save-now").click().run()
    assert not at.exception
    assert at.selectbox("recipe").value == "mine"
    saved = api.load_recipe("mine")
    assert saved == wanted.model_copy(update={"name": "mine"})
    assert recipe_shown(at) == saved
    at = open_page("transfer", recipe="mine")  # from its link, in another session
    assert recipe_shown(at) == saved


@pytest.mark.parametrize("name", ["../evil", "quick", HOSTILE[:60]])
def test_name_that_cannot_be_used_is_one_sentence(open_page, home, name):
    at = open_page("transfer")
    at.text_input("save-name").set_value(name).run()
    at.button("save-now").click().run()
    assert not at.exception
    assert "is not a valid recipe name" in shown(at) or "comes with Nuggets" in shown(at)
    assert HOSTILE[:20] not in rendered(at)
    assert not list(home.rglob("*.yaml"))


def test_deleted_recipe_leaves_the_page_with_the_simplest(open_page):
    api.save_recipe(api.load_recipe("controls", ["lora.r=3"]), "mine")
    at = open_page("transfer", recipe="mine")
    at.button("delete-recipe").click().run()
    assert not at.exception
    assert api.own_recipes() == {}
    assert recipe_shown(at) == api.load_recipe("quick")


def test_comparison_is_that_of_the_api(open_page):
    at = open_page("transfer", recipe="quick", r="4", right="controls")
    other = api.load_recipe("controls")
    wanted = api.compare_recipes({"a": recipe_shown(at), "b": other})
    frame = next(part.value for part in at.dataframe if "field" in part.value.columns)
    rows = {row.iloc[0]: [row.iloc[1], row.iloc[2]] for _, row in frame.iterrows()}
    assert rows == wanted
    assert rows["lora.r"] == ["4", "16"]


def test_a_comparison_has_a_command_only_where_both_recipes_have_a_name(open_page):
    api.save_recipe(api.load_recipe("quick", ["lora.r=5"]), "mine")
    run = api.create(api.load_recipe("quick", ["lora.r=3", "device=cpu"]))
    at = open_page("transfer", left="quick", right=OF_RUN, run=run.id)
    assert any("lora.r" in list(part.value.get("field", [])) for part in at.dataframe)
    assert not any("nuggets recipes" in part.value for part in at.code)
    at.selectbox("right").select("mine").run()
    assert "nuggets recipes quick mine" in [part.value for part in at.code]


def test_recipe_whose_samples_are_gone_is_one_sentence(open_page, tmp_path):
    path = tmp_path / "gone.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    api.save_recipe(api.load_recipe("quick", [f"data.file={path}"]), "mine")
    path.unlink()
    at = open_page("transfer")
    at.selectbox("recipe").select("mine").run()
    assert not at.exception
    assert "samples are no longer on this machine" in shown(at)


def test_a_recipe_with_energy_and_ranks_comes_back_whole(open_page):
    changes = ["lora.energy=0.9", "lora.ranks={q: 3}", "seeds=[4, 9, 12]", "train.epochs=0.5",
               "extraction.matrices={kind: consistent, order: random, seed: 6}"]  # fmt: skip
    saved = api.save_recipe(api.load_recipe("paper", changes), "mine")
    assert saved.stem == "mine"
    assert recipe_shown(open_page("transfer", recipe="mine")) == api.load_recipe("mine")


def test_a_strangers_judge_is_asked_only_after_a_yes_that_names_it(
    open_page, home, tmp_path, jsonl, monkeypatch
):
    url, data = "https://judge.example/v1", jsonl(tmp_path / "asked.jsonl", {"1": "2", "3": "4"})
    judge = {"kind": "endpoint", "url": url, "model": "j"}
    benchmark = {"kind": "dialogue", "data": str(data), "judge": judge}
    theirs = api.load_recipe("quick", [f"benchmarks={json.dumps([benchmark])}"])
    api.save_recipe(theirs, "theirs")
    at = open_page("transfer", recipe="theirs")
    assert "sends questions and answers to judge.example, which this machine" in shown(at)
    assert f"nuggets judge allow {url}" in shown(at)
    assert at.button("start").disabled
    monkeypatch.setenv("JUDGE_API_KEY", "sk-1")
    api.permits.allow(url, "JUDGE_API_KEY")
    at = open_page("transfer", recipe="theirs")
    assert f"sends the benchmark's questions and all answers to judge.example ({url})" in shown(at)
    assert "with the key in JUDGE_API_KEY" in shown(at)
    assert at.button("start").disabled
    [box] = [box for box in at.checkbox if url in str(box.key)]
    box.check().run()
    assert not at.button("start").disabled
    assert "sk-1" not in rendered(at)


def test_uploaded_recipe_is_used_only_after_a_tick_for_each_thing_that_it_names(
    open_page, jsonl, tmp_path
):
    jsonl(tmp_path / "bank.jsonl2", {"5 5": "6"})
    private = jsonl(tmp_path / "bank.jsonl", {f"{i} + 1": f"{i} = 2" for i in range(40)})
    tree = ["device=cpu", f"data.file='{private}'", f"data.general='{private}2'"]
    text = api.dump_job(api.load_recipe("quick", tree))
    at = open_page("transfer")
    at.file_uploader("recipe-file").set_value(("r.yaml", text.encode(), "text/yaml")).run()
    assert f"read {private}" not in rendered(at)
    assert "read" in at.checkbox("upload-want-1").label
    at.checkbox("upload-want-0").check().run()
    at.button("use-upload").click().run()
    assert recipe_shown(at).data.file is None
    assert f"wants to read {private}" in shown(at)
    at.checkbox("upload-want-1").check().run()
    at.button("use-upload").click().run()
    assert recipe_shown(at).data.file == str(private)


def test_two_sessions_do_not_see_what_the_other_has_not_saved(open_page):
    one = open_page("transfer")
    text = api.dump_job(api.load_recipe("quick", ["lora.r=5", "description=secret"]))
    one.file_uploader("recipe-file").set_value(("r.yaml", text.encode(), "text/yaml")).run()
    one.button("use-upload").click().run()
    one.text_input("save-name").set_value("unsaved").run()
    assert recipe_shown(one).lora.r == 5
    other = open_page("transfer")
    assert "uploaded" not in other.selectbox("recipe").options
    assert recipe_shown(other).lora.r != 5
    assert "secret" not in rendered(other) + shown(other)
    other = open_page("transfer", recipe="uploaded")  # the other's link names what is not here
    assert recipe_shown(other).lora.r != 5
