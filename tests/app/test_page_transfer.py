"""Transfer: controls to recipe and back, the preview, starting, following, errors."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from nuggets import api
from nuggets.planning.cache import MapRequest
from nuggets.recipe import SensitivityJob, TransferRecipe
from nuggets.runs.events import EventLog
from nuggets.ui.transfer import form_compare, form_extract, form_train
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


@pytest.mark.parametrize("name", ["quick", "controls", "paper", "graft", "lexicon"])
def test_untouched_controls_give_back_the_shipped_recipe(open_page, name):
    recipe = api.load_recipe(name)
    at = open_page("transfer", recipe=name, student=recipe.student, task=recipe.data.task)
    assert recipe_shown(at) == recipe


LINKS = [
    (
        {
            "layers": "by_hand", "by_hand": "5, 3, 1, 0", "matrices": "consistent",
            "order": "first", "roles": ["q", "down"], "ratio": "0.25", "r": "4", "alpha": "12",
            "svd": "exact", "dropout": "0.1", "seed_samples": "8", "score": "fisher",
            "samples": "64", "steps": "50", "batch": "8", "lr": "0.001", "schedule": "cosine",
            "warmup": "0.1", "decay": "0.2", "clip": "0.5", "curve": "20", "checkpoint": "7",
            "max_length": "64", "concurrent": "never", "processes": "2", "seeds": "2",
            "items": "40", "old_items": "5", "metric": "loss", "prompts": "chat", "task": "sub",
            "device": "cpu", "teacher": "sibling", "energy": "0.8", "epochs": "2.5",
            "starts": ["plain", "paper", "pissa", "eva"], "content": ["gaussian"],
            "location": ["random_layers"],
            "others": ["full", "vanilla"],
        },
        {
            "extraction.layers.layers": [5, 3, 1, 0], "extraction.matrices.kind": "consistent",
            "extraction.matrices.order": "first", "extraction.roles": ["q", "down"],
            "extraction.ratio": 0.25, "lora.r": 4, "lora.alpha": 12.0, "lora.svd": "exact",
            "lora.dropout": 0.1, "lora.energy": None, "lora.ranks": {}, "data.n_seed_samples": 8,
            "sensitivity.score.kind": "fisher", "data.n_train": 64, "train.steps": 50,
            "train.epochs": None, "train.batch_size": 8, "train.lr": 0.001,
            "train.schedule": "cosine", "train.warmup": 0.1, "train.weight_decay": 0.2,
            "train.max_grad_norm": 0.5, "train.evaluate_every": 20, "train.checkpoint_every": 7,
            "train.max_length": 64, "train.concurrent": "never", "train.processes": 2,
            "seeds": [0, 1], "data.n_test": 40, "data.n_old": 5, "data.metric": "loss",
            "data.format": "chat", "data.task": "sub", "device": "cpu", "teacher": "sibling",
            "arms": [
                "vanilla", "plain", "paper", "gaussian", "random_layers", "pissa", "eva", "full",
            ],
        },
    ),
    (
        {"layers": "random", "matrices": "rows_cols", "draw": "7", "rank": "per module",
         "r_q": "2", "r_up": "5", "length": "epochs", "epochs": "2.5", "grid": "1e-3, 0.01",
         "student": "sibling", "weights": "bfloat16", "group": "true", "recompute": "true"},
        {"extraction.layers.seed": 7, "extraction.matrices.kind": "rows_cols", "lora.r": 16,
         "lora.ranks": {"q": 2, "up": 5}, "train.epochs": 2.5, "train.lr_grid": [0.001, 0.01],
         "train.dtype": "bfloat16", "train.group_lengths": True,
         "train.activation_checkpointing": True, "student": "sibling"},
    ),
    (
        {"layers": "uniform", "matrices": "random_window", "draw": "5", "rank": "by energy",
         "energy": "0.8", "r": "9"},
        {"extraction.layers.kind": "uniform", "extraction.matrices.seed": 5, "lora.energy": 0.8,
         "lora.r": 9},
    ),
    (
        {"matrices": "consistent", "order": "random", "draw": "3", "score": "random",
         "score_seed": "4"},
        {"extraction.matrices.order": "random", "extraction.matrices.seed": 3,
         "sensitivity.score": {"kind": "random", "seed": 4}},
    ),
    (
        {"score": "specific", "score_q": "0.05", "score_against": "sub, king"},
        {"sensitivity.score": {"kind": "specific", "q": 0.05, "against": ["sub", "king"]}},
    ),
    (
        {"score": "contrast", "score_unit": "log_ratio"},
        {"sensitivity.score": {"kind": "contrast", "unit": "log_ratio", "against": []}},
    ),
]  # fmt: skip


def field(recipe, path):
    """A field by its dotted name; of the arms only their names."""
    if path == "arms":
        return [arm.name for arm in recipe.arms]
    value = recipe.model_dump(mode="json")
    for name in path.split("."):
        value = value[name]
    return value


@pytest.mark.parametrize(("query", "wanted"), LINKS)
def test_every_control_of_a_link_is_a_field_of_the_recipe(open_page, query, wanted):
    at = open_page("transfer", **query)
    assert "The link sets" not in shown(at)
    recipe = recipe_shown(at)
    assert {path: field(recipe, path) for path in wanted} == wanted


def test_every_control_is_tried_above(open_page):
    tried = {key for query, _ in LINKS for key in query}
    parts = (form_extract, form_train, form_compare)
    keys = {key for part in parts for key in part.values(api.load_recipe("quick"))}
    same = {f"r_{role}" for role in api.ROLES} - {"r_q", "r_up"}  # one field, drawn for each role
    assert keys - tried == same | {"general"}  # which names one's own samples, and is tried below


HOSTILE_LINKS = [
    {"layers": HOSTILE, "matrices": "evil", "roles": ["q", "../x"], "rank": "free", "r": "0",
     "ratio": "7", "alpha": "nan", "lr": "1e9", "steps": "-5", "seeds": "1000",
     "starts": ["plain", "evil"], "recipe": "../../etc/passwd"},
    {"r": "many", "rank": "by energy", "energy": "-1", "ratio": "", "seeds": "2.5e400"},
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE_LINKS)
def test_what_a_link_cannot_have_is_said(open_page, query):
    at = open_page("transfer", **query)
    for key in query.keys() - {"rank"} | ({"rank"} if query["rank"] == "free" else set()):
        assert f"The link sets {key}=" in shown(at)
    assert HOSTILE not in rendered(at)
    assert isinstance(recipe_shown(at), TransferRecipe)  # and the page goes on without it


def test_a_refused_value_is_forgotten_once_its_field_was_used(open_page):
    at = open_page("transfer", r="many")
    at.number_input("steps").set_value(40).run()
    assert "The link sets r=" in shown(at)
    assert at.button("start").disabled  # nothing starts that was not asked for
    at.number_input("r").set_value(5).run()
    assert "The link sets" not in shown(at)
    assert not at.button("start").disabled
    at = open_page("transfer", r="9999")
    assert at.button("start").disabled
    at.button("as-shown").click().run()
    assert not at.button("start").disabled
    assert recipe_shown(at).lora.r == api.load_recipe("quick").lora.r


def test_another_recipe_brings_its_own_values(open_page):
    at = open_page("transfer", r="4")
    at.selectbox("recipe").select("graft").run()
    assert not at.exception
    assert at.selectbox("student").value == "sibling"
    assert recipe_shown(at) == api.load_recipe("graft")


def test_general_samples_are_chosen_where_an_arm_learns_from_them(open_page, tmp_path, jsonl):
    path = jsonl(tmp_path / "talk.jsonl", {f"say {i}": f"{i}" for i in range(9)})
    api.remember(api.DataConfig(file=str(path)), "talk")
    at = open_page("transfer", recipe="graft")
    at.selectbox("general").select("talk").run()
    assert recipe_shown(at).data.general == str(path)
    assert recipe_shown(at).data.file is None
    at.selectbox("general").select("as in the recipe").run()
    assert recipe_shown(at).data.general is None
    at.selectbox("recipe").select("quick").run()  # no arm of it learns from any
    assert not [box for box in at.selectbox if box.key == "general"]


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
    for group in ("starts", "content", "location", "others"):
        at.multiselect(group).set_value([])
    at.run()
    assert "give at least one arm" in shown(at)


def test_plan_is_that_of_the_api(open_page, measured):
    at = open_page("transfer")
    plan = api.plan(api.load_recipe("quick"))
    values = {metric.label: metric.value for metric in at.metric}
    assert values["Teacher layers"] == " ".join(str(t) for _, t in plan.alignment.pairs)
    assert values["Parameters per arm"] == f"{plan.trainable_parameters:,}"
    kept = [item.kept_mass for item in plan.items]
    assert values["Sensitivity kept"] == f"{min(kept):.0%} to {max(kept):.0%}"
    times = [item.kept_mass / item.area for item in plan.items if item.role == "q"]
    column = figure(at)["data"][0]["x"].index("q")
    text = [row[column] for row in figure(at)["data"][0]["text"]]
    assert text == [f"{value:.2f}×" for value in times]


def test_without_a_map_the_page_offers_to_measure(open_page, wait_for, monkeypatch):
    monkeypatch.setattr(MapRequest, "shipped", lambda request: None)
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
    assert "mean over 1 seed · " in shown(at)


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


def test_done_run_shows_its_verdict_and_leads_to_results(open_page):
    run = write_benchmark(api.load_recipe("quick"))
    at = open_page("transfer", run=run.id)
    assert api.report(run).verdict.sentence in shown(at)
    at.button("to-benchmarks").click().run()
    assert at.title[0].value == "Results"
    assert at.selectbox("run").value == run.id


def test_failed_run_tells_why_as_text(open_page):
    run = api.create(api.load_recipe("quick"))
    error = {"type": "BadInput", "message": HOSTILE, "exit_code": 2}
    run.record_path.write_text(run.record().changed(status="failed", error=error).model_dump_json())
    at = open_page("transfer", run=run.id)
    assert HOSTILE in shown(at)
    assert HOSTILE not in rendered(at)


def test_own_samples_become_the_task_of_the_sidebar(open_page, home):
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": f"q {n}"},
                                    {"role": "assistant", "content": "a"}]}
        for n in range(10)
    ]  # fmt: skip
    content = "\n".join(json.dumps(row) for row in rows).encode()
    at = open_page("transfer")
    at.file_uploader("data-file").set_value(("mine.jsonl", content, "application/json"))
    at.run()
    at.button("use-data").click().run()
    assert not at.exception
    assert at.selectbox("task").value == "mine"
    recipe = recipe_shown(at)
    assert recipe.data.task is None
    assert recipe.data.file.startswith(str(home / "data"))


def test_a_table_becomes_samples_once_its_columns_are_named(open_page, home):
    content = "Frage,Antwort\n" + "".join(f"q {n},a {n}\n" for n in range(10))
    at = open_page("transfer")
    at.file_uploader("data-file").set_value(("mine.csv", content.encode(), "text/csv")).run()
    assert "mine.csv has 2 columns" in shown(at)
    assert not any(button.key == "use-data" for button in at.button)
    at.selectbox("column-question").set_value("Frage").run()
    at.selectbox("column-answer").set_value("Antwort").run()
    at.button("use-data").click().run()
    assert not at.exception
    kept = Path(recipe_shown(at).data.file).read_text().splitlines()
    assert json.loads(kept[3]) == {"question": "q 3", "answer": "a 3"}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("alpaca.csv", {"instruction": "Add {}.", "input": "{} 1", "output": "{}"}),
        ("chats.jsonl.gz", {"messages": [{"role": "user", "content": "q {}"},
                                         {"role": "assistant", "content": "a"}]}),
    ],
)  # fmt: skip
def test_a_table_in_a_known_shape_keeps_all_of_it_and_nothing_is_asked(open_page, name, row):
    texts = [json.dumps(row).replace("{}", str(n)) for n in range(10)]
    rows = [json.loads(text) for text in texts]
    lines = [",".join(row), *(",".join(each.values()) for each in rows)] if "csv" in name else texts
    content = "\n".join(lines).encode()
    content = gzip.compress(content) if name.endswith(".gz") else content
    at = open_page("transfer")
    at.file_uploader("data-file").set_value((name, content, "text/plain")).run()
    at.button("use-data").click().run()
    kept = Path(recipe_shown(at).data.file).read_text().splitlines()
    assert [json.loads(line) for line in kept] == rows


def test_columns_beside_question_and_answer_can_be_choices(open_page):
    content = "id,question,answer,A,B\n" + "".join(f"i{n},q {n},1,x {n},y\n" for n in range(10))
    at = open_page("transfer")
    at.file_uploader("data-file").set_value(("mine.csv", content.encode(), "text/csv")).run()
    assert at.multiselect("column-choices").options == ["A", "B"]
    at.multiselect("column-choices").set_value(["A", "B"]).run()
    at.button("use-data").click().run()
    kept = Path(recipe_shown(at).data.file).read_text().splitlines()
    assert json.loads(kept[3]) == {
        "question": "q 3", "answer": 1, "choices": ["x 3", "y"], "id": "i3"}  # fmt: skip


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


def test_start_waits_until_nothing_is_refused(open_page, measured):
    at = open_page("transfer", r="500")
    assert at.button("start").disabled
    at.number_input("r").set_value(4).run()
    assert not at.button("start").disabled


def test_neighbours_ranks_and_costs_are_those_of_the_outlook(open_page, measured):
    def opened(tab):
        return open_page("transfer", rank="by energy", energy="0.8", ahead=tab)

    at = opened("Adjacent matrices")
    ahead = api.look_ahead(recipe_shown(at))
    (bars,) = figure(at)["data"]
    assert read(bars["y"]) == pytest.approx(ahead.residual.agreement)
    values = {metric.label: metric.value for metric in at.metric}
    assert values["Parameters per arm"] == f"{ahead.parameters:,}"
    assert ahead.detectable.sentence in shown(at)

    energies = figure(opened("Rank and energy"))["data"][0]
    column = energies["x"].index("q")
    of_q = [each for each in ahead.kept if each.module.endswith("q_proj")]
    assert [line[column] for line in energies["text"]] == [
        f"{each.energy:.0%}<br>r {each.rank}" for each in of_q
    ]

    at = opened("Time and memory")
    assert not at.get("plotly_chart")  # what is in other tabs is not computed
    costs = next(part.value for part in at.dataframe if "fits" in part.value.columns)
    assert list(costs["stage"]) == [stage.stage for stage in ahead.stages]
    [script] = [part.value for part in at.code if "preflight" in part.value]
    exec(script.replace("print(plan)", ""), scope := {})
    stages = {stage.stage: stage for stage in scope["plan"].stages}
    assert all(stages[each.stage].bytes_needed == each.bytes_needed for each in ahead.stages)


def test_identity_and_bands_are_those_of_the_events(open_page):
    run = write_benchmark(api.load_recipe("quick"))
    log = EventLog(run.events_path)
    for seed, loss in ((0, 3.0), (1, 1.0), (2, 2.0)):
        log.append("metric", "train", "", {"arm": "plain", "seed": seed, "step0": 0.0})
        log.append("metric", "train", "", {"arm": "paper", "seed": seed, "step0": seed * 1e-5})
        for step in (1, 2):
            log.append("metric", "train", "", {"arm": "plain", "seed": seed, "step": step,
                                               "loss": loss / step})  # fmt: skip
    at = open_page("transfer", run=run.id)
    band, line = figure(at)["data"]
    assert (read(line["y"]), read(line["x"])) == ([2.0, 1.0], [1, 2])
    assert read(band["y"]) == [3.0, 1.5, 0.5, 1.0]
    assert "mean over 3 seeds; bands from the lowest to the highest seed" in shown(at)
    assert "2 arms start as the untouched student, logits within 2.0e-05" in titles(at)
    frame = next(part.value for part in at.dataframe if "starts" in part.value.columns)
    assert list(frame["arm"]) == ["plain", "paper"]
    assert list(frame["max |Δ logit|"]) == [0.0, 2e-5]


def titles(at):
    return "\n".join(part.label for part in at.expander)


def read(values):
    """Plotly's numbers, which may be packed."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return list(values)
