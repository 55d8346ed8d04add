"""Transfer: controls to recipe and back, the preview, starting, following, errors."""

from __future__ import annotations

import json

import pytest

from nuggets import api
from nuggets.recipe import SensitivityJob
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import write_benchmark, write_map


@pytest.fixture
def measured():
    """The map that the recipe `quick` needs."""
    job = api.map_job(api.load_recipe("quick"))
    assert isinstance(job, SensitivityJob)
    return write_map(job, seed=1)


def recipe_shown(at):
    """The recipe that the page would start, from its YAML."""
    return api.load_job(next(part.value for part in at.code if part.language == "yaml"))


def figure(at):
    return json.loads(at.get("plotly_chart")[0].proto.spec)


@pytest.mark.parametrize("name", ["quick", "controls", "paper", "graft"])
def test_untouched_controls_give_back_the_shipped_recipe(open_page, name):
    recipe = api.load_recipe(name)
    at = open_page("transfer", recipe=name, student=recipe.student)
    assert recipe_shown(at) == recipe


def test_address_restores_every_control(open_page):
    at = open_page(
        "transfer",
        layers="uniform",
        matrices="consistent",
        r="4",
        alpha="12",
        samples="64",
        steps="50",
        lr="0.001",
        batch="8",
        seeds="2",
        task="sub",
        device="cpu",
    )
    recipe = recipe_shown(at)
    assert (recipe.extraction.layers.kind, recipe.extraction.matrices.kind) == (
        "uniform",
        "consistent",
    )
    assert (recipe.lora.r, recipe.lora.alpha) == (4, 12.0)
    assert (recipe.data.task, recipe.data.n_train, recipe.device) == ("sub", 64, "cpu")
    train = recipe.train
    assert (train.steps, train.lr, train.batch_size) == (50, 0.001, 8)
    assert recipe.seeds == (0, 1)


def test_another_recipe_brings_its_own_values(open_page):
    at = open_page("transfer", r="4")
    at.selectbox("recipe").select("graft").run()
    assert not at.exception
    assert at.selectbox("student").value == "sibling"
    assert recipe_shown(at) == api.load_recipe("graft")


def test_by_hand_layers_reach_the_recipe(open_page, measured):
    at = open_page("transfer", layers="by_hand", by_hand="5, 3, 1, 0")
    assert recipe_shown(at).extraction.layers.layers == (5, 3, 1, 0)
    assert next(m.value for m in at.metric if m.label == "Teacher layers") == "5 3 1 0"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"layers": "by_hand", "by_hand": "0, x"}, "valid integer"),
        ({"layers": "by_hand", "by_hand": "0, 9"}, "each from 0 to 5"),
        ({"r": "500"}, "Rank 500 is too large"),
    ],
)
def test_impossible_values_are_one_sentence(open_page, measured, query, words):
    assert words in shown(open_page("transfer", **query))


def test_no_arm_is_refused_in_words(open_page):
    at = open_page("transfer")
    at.multiselect("arms").set_value([]).run()
    assert "name at least one arm" in shown(at)


def test_plan_is_that_of_the_api(open_page, measured):
    at = open_page("transfer")
    plan = api.plan(api.load_recipe("quick"))
    values = {metric.label: metric.value for metric in at.metric}
    assert values["Teacher layers"] == " ".join(str(t) for _, t in plan.alignment.pairs)
    assert values["Trainable weights"] == f"{plan.trainable_parameters:,}"
    times = [item.kept_mass / item.area for item in plan.items if item.role == "q"]
    column = figure(at)["data"][0]["x"].index("q")
    text = [row[column] for row in figure(at)["data"][0]["text"]]
    assert text == [f"{value:.2f}×" for value in times]


def test_without_a_map_the_page_offers_to_measure(open_page, wait_for):
    at = open_page("transfer")
    assert not at.get("plotly_chart")
    at.button("plan-map-offer-0").click().run()
    assert not at.exception
    (run,) = api.runs()
    wait_for(run, "done")
    assert api.job_of(run) == api.map_job(api.load_recipe("quick"))


def test_start_runs_what_is_shown_and_selects_it(open_page, wait_for):
    at = open_page("transfer", r="4", seeds="2")
    wanted = recipe_shown(at)
    at.button("start").click().run()
    assert not at.exception
    (run,) = api.runs()
    assert api.job_of(run) == wanted
    assert at.selectbox("run").value == run.id
    wait_for(run, "done")
    at.run()
    assert "Stage: train (2 of 2)" in shown(at)
    losses = figure(at)["data"]
    assert [line["name"] for line in losses] == ["plain"]


def test_cancel_and_resume(open_page, wait_for):
    run = api.start(api.load_recipe("quick").model_copy(update={"name": "slow"}))
    wait_for(run, "running")
    at = open_page("transfer", run=run.id)
    at.button("transfer-run-cancel").click().run()
    wait_for(run, "cancelled")
    at.run()
    at.button("transfer-run-resume").click().run()
    assert not at.exception
    wait_for(run, "running")
    assert run.record().attempts == 2


def test_done_run_shows_its_verdict_and_leads_to_benchmarks(open_page):
    run = write_benchmark(api.load_recipe("quick"))
    at = open_page("transfer", run=run.id)
    assert api.report(run).verdict.sentence in shown(at)
    at.button("to-benchmarks").click().run()
    assert at.title[0].value == "Benchmarks"
    assert at.selectbox("run").value == run.id


def test_failed_run_tells_why_as_text(open_page):
    run = api.create(api.load_recipe("quick"))
    error = {"type": "BadInput", "message": HOSTILE, "exit_code": 2}
    run.record_path.write_text(run.record().changed(status="failed", error=error).model_dump_json())
    at = open_page("transfer", run=run.id)
    assert HOSTILE in shown(at)
    assert HOSTILE not in rendered(at)


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
    assert any(part.value == "This does not work" for part in at.get("badge")) or shown(at)


def test_own_samples_replace_the_task(open_page, home):
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": f"q {n}"},
                                    {"role": "assistant", "content": "a"}]}
        for n in range(10)
    ]  # fmt: skip
    content = "\n".join(json.dumps(row) for row in rows).encode()
    at = open_page("transfer")
    at.file_uploader("data-file").set_value(("x.jsonl", content, "application/json"))
    at.run()
    at.button("use-data").click().run()
    assert not at.exception
    recipe = recipe_shown(at)
    assert recipe.data.task is None
    assert recipe.data.file.startswith(str(home / "data"))


def test_own_samples_of_the_sidebar_reach_the_recipe(open_page, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "\n".join(json.dumps({"prompt": f"q {n}", "completion": "a"}) for n in range(9))
    )
    api.remember(api.DataConfig(file=str(path)), "mine")
    data = recipe_shown(open_page("transfer", task="mine")).data
    assert (data.task, data.file) == (None, str(path))


def test_broken_samples_name_the_line(open_page):
    at = open_page("transfer")
    at.file_uploader("data-file").set_value(("x.jsonl", b'{"id": 1}\nnonsense', "text/plain"))
    at.run()
    assert not at.exception
    assert "line 1" in shown(at).lower()
