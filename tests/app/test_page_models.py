"""Models: choosing, the preflight of pairs that fit and that do not, nothing from the network."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from nuggets import amounts, api
from nuggets.models import hub
from nuggets.preflight.resources import Machine, StageNeed
from nuggets.recipe import load_recipe
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import write_models


def frame(at, column):
    return next(part.value for part in at.dataframe if column in part.value.columns)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the hub, which does not answer."""
    calls: list[str] = []

    def reachable() -> bool:
        calls.append("hub")
        return False

    monkeypatch.setattr(hub, "reachable", reachable)
    return calls


def test_dimensions_are_those_of_the_preflight(open_page):
    found = api.preflight("teacher", "sibling")
    shown_rows = frame(open_page("models", student="sibling"), "dimension").set_index("dimension")
    for row in found.dimensions:
        assert shown_rows.loc[row.name, "teacher"] == f"{row.teacher:,}"
        assert shown_rows.loc[row.name, "student"] == f"{row.student:,}"
    assert shown_rows.loc["weights", "student"] == amounts.count(found.student.parameters)


def origins(at) -> list[str]:
    """Commands and scripts that are offered for what is shown."""
    return [part.value for part in at.code if "preflight" in part.value]


def test_what_gives_the_same_numbers_names_recipe_and_device(open_page, nuggets):
    at = open_page("models", counted="lexicon", task="king", device="cpu")
    recipe = api.load_recipe("lexicon")
    [command] = {text for text in origins(at) if text.startswith("nuggets")}
    words = ["--recipe", "lexicon", "--roles", ",".join(recipe.extraction.roles), "--device", "cpu"]
    assert shlex.split(command) == ["nuggets", "preflight", "teacher", "independent", *words]
    [script] = {text for text in origins(at) if not text.startswith("nuggets")}
    exec(script.replace("print(plan)", ""), scope := {})
    told = nuggets(*shlex.split(command)[1:], "--json").json
    assert scope["plan"].model_dump(mode="json")["work"] == told["work"]
    other = origins(open_page("models", counted="lexicon", task="sub", device="cpu"))
    assert other
    assert not any(text.startswith("nuggets") for text in other)


@pytest.mark.parametrize(
    ("short", "streams", "word", "named"),
    [
        ((), True, "fits", ""),
        (("load", "sensitivity (sums)", "sensitivity (full map)"), True, "fits", ""),
        (("load", "training"), True, "fits in part", "too large for this machine: training."),
        (("sensitivity (streaming)",), False, "fits", ""),
        (("evaluation",), True, "fits in part", "too large for this machine: evaluation."),
    ],
)
def test_the_verdict_says_which_stages_are_too_large(
    open_page, monkeypatch, short, streams, word, named
):
    real = api.preflight("teacher", "independent")
    stages = tuple(
        need.model_copy(update={"fits": need.stage not in short}) for need in real.stages
    )
    found = real.model_copy(update={"stages": stages, "problems": ()})
    monkeypatch.setattr(api, "preflight", lambda *given, **named: found)
    at = open_page("models")
    assert f"-badge[{word}]" in rendered(at)
    assert named in shown(at)
    assert ("too large for this machine" in shown(at)) == bool(named)
    assert streams == next(s.fits for s in stages if s.stage == "sensitivity (streaming)")


def test_every_stage_shows_what_it_needs_of_what_is_there(open_page):
    at = open_page("models", counted="paper")
    recipe = load_recipe("paper", ["teacher=teacher", "student=independent", "data.task=reverse"])
    assert recipe.data.n_train == 1000
    found = api.preflight("teacher", "independent", recipe.extraction.roles, recipe=recipe)
    table = frame(at, "stage").set_index("stage")
    assert list(table.index) == [need.stage for need in found.stages]
    for need in found.stages:
        row = table.loc[need.stage]
        assert row["memory"] == (amounts.size(need.bytes_needed) if need.bytes_needed else "–")
        assert row["fits"] == ("yes" if need.fits else "no")
        assert row["disk"] == (amounts.size(need.disk_needed) if need.disk_needed else "–")
        # What is free changes from look to look.
        free = need.bytes_needed / row["of free memory"] if need.bytes_needed else None
        assert free is None or free == pytest.approx(found.machine.memory_free, rel=0.5)
    assert f"{found.work.trainings} trainings of {found.work.steps} steps" in shown(at)
    assert "under 0.1 s" in set(table["time"])


def test_on_a_gpu_its_memory_and_the_machines_own_are_told_apart(open_page, monkeypatch):
    real = api.preflight("teacher", "independent")
    machine = Machine(device="cuda:0", memory_free=8 * 10**9, ram_free=4 * 10**9, disk_free=10**12)
    need = StageNeed(
        stage="load", bytes_needed=26 * 10**9, ram_needed=10**9, seconds=None, fits=False
    )
    found = real.model_copy(
        update={"machine": machine, "stages": (need,), "problems": ("Too **large**.",)}
    )
    monkeypatch.setattr(api, "preflight", lambda *given, **named: found)
    at = open_page("models")
    row = frame(at, "stage").iloc[0]
    assert (row["memory"], row["RAM"], row["time"]) == ("26 GB", "1.0 GB", "–")
    assert row["of free memory"] == 26 / 8
    assert row["fits"] == "no"
    assert "Free: 8.0 GB of memory on cuda:0, 4.0 GB of RAM, 1.0 TB of disk" in shown(at)
    assert "Too **large**." in shown(at)
    assert "Too **large**." not in rendered(at)


def test_the_number_format_counts_and_goes_along(open_page):
    at = open_page("models")
    wide = frame(at, "stage").set_index("stage").loc["load", "memory"]
    at.selectbox(key="dtype").set_value("bfloat16").run()
    table = frame(at, "stage").set_index("stage")
    facts = api.preflight("teacher", "independent").teacher
    assert wide == amounts.size(4 * facts.parameters)
    assert table.loc["load", "memory"] == amounts.size(2 * facts.parameters)
    other = open_page("transfer", dtype="bfloat16")
    assert other.selectbox(key="dtype").value == "bfloat16"
    recipe = next(code.value for code in other.code if "job: transfer" in code.value)
    assert api.load_job(recipe).sensitivity.dtype == "bfloat16"
    assert not [box for box in open_page("transfer").selectbox if box.key == "dtype"]


def test_matrices_that_cannot_be_cut_say_why(open_page, tmp_path, monkeypatch):
    wide, small = (6, 16, 24, 4), (4, 8, 12, 2)
    write_models(tmp_path, {"teacher": wide, "independent": small, "sibling": (4, 8, 40, 2)})
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["intermediate_size"] == 24
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path))
    at = open_page("models", student="sibling")
    table = frame(at, "can be extracted").set_index("matrix")
    assert table.loc["q", "can be extracted"] == "yes"
    assert table.loc["up", "can be extracted"] == "no: the student's is larger: 40 × 8 > 24 × 16"
    assert table.loc["up", "student"] == "40 × 8"


def test_swapped_pair_is_refused_with_the_reason(open_page):
    at = open_page("models", teacher="independent", student="teacher")
    assert "Swap the two models" in shown(at)
    assert "no: larger" in set(frame(at, "dimension")["fits"])


def test_a_built_in_pair_is_one_click(open_page):
    at = open_page("models", teacher="sibling", student="teacher")
    at.button(key="pair-sibling").click().run()
    assert (at.selectbox(key="teacher").value, at.selectbox(key="student").value) == (
        "teacher",
        "sibling",
    )


@pytest.mark.usefixtures("tried_here")
def test_a_folder_is_used_by_its_path(open_page, tmp_path):
    write_models(tmp_path)
    at = open_page("models")
    at.segmented_control(key="student-kind").set_value("folder").run()
    at.text_input(key="student-path").set_value(str(tmp_path / "sibling")).run()
    at.button(key="student-use").click().run()
    assert at.selectbox(key="student").value == str(tmp_path / "sibling")
    assert frame(at, "dimension").set_index("dimension").loc["hidden_size", "student"] == "8"


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("folder", "/no/such/folder", "There is no folder or file"),
        ("GGUF file", "missing.gguf", "There is no folder or file"),
        ("folder", "", "name is empty"),
        ("folder", HOSTILE, "is no"),
    ],
)
def test_what_is_no_model_is_refused_before_it_is_used(open_page, kind, name, sentence):
    at = open_page("models")
    at.segmented_control(key="teacher-kind").set_value(kind).run()
    at.text_input(key="teacher-path").set_value(name).run()
    at.button(key="teacher-use").click().run()
    assert at.selectbox(key="teacher").value == "teacher"
    assert sentence in shown(at)
    assert "<img" not in rendered(at)


def test_a_token_never_reaches_the_address(open_page):
    at = open_page("models")
    token = "hf_" + "abcdefghij" * 4
    at.text_input(key="teacher-hub").set_value(f"org/{token}").run()
    at.button(key="teacher-use").click().run()
    assert "access token" in shown(at)
    assert token not in str(at.query_params)


def test_a_link_to_a_hub_model_reaches_no_network_before_somebody_asks(open_page, asked):
    at = open_page("models", teacher="org/large@v1")
    assert not asked
    assert "Looking up org/large@v1 downloads only configurations" in shown(at)
    at.button(key="ask-hub").click().run()
    assert asked
    assert "org/large is not in the local cache and the Hub cannot be reached" in shown(at)


@pytest.mark.parametrize("page", ["sensitivity", "alignment", "transfer"])
def test_no_other_page_asks_the_hub_by_itself(open_page, asked, page):
    at = open_page(page, student="org/small")
    assert not asked
    assert not at.title
    at.button(key="ask-hub").click().run()
    assert at.title[0].value == {"transfer": "Plan a transfer"}.get(page, page.capitalize())
    assert not at.exception


def test_offline_nothing_has_to_be_asked_for(open_page, asked, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    at = open_page("models", teacher="org/large")
    assert "HF_HUB_OFFLINE is set" in shown(at)


def test_a_hub_id_that_was_asked_for_is_looked_up_at_once(open_page, asked):
    at = open_page("models")
    at.text_input(key="student-hub").set_value("org/small").run()
    at.text_input(key="student-revision").set_value("v2").run()
    assert not asked
    at.button(key="student-use").click().run()
    assert at.selectbox(key="student").value == "org/small@v2"
    assert asked


@pytest.mark.parametrize("name", ["./no-such-folder", HOSTILE[:30]])
def test_unknown_model_is_one_sentence(open_page, name):
    at = open_page("models", teacher=name)
    assert name in shown(at)
    assert "<img" not in rendered(at)


@pytest.mark.usefixtures("tried_here")
def test_a_hostile_folder_name_is_shown_as_text(open_page, tmp_path: Path):
    write_models(tmp_path)
    folder = tmp_path / "**bold** :red[x] <b>y<b>"
    (tmp_path / "teacher").rename(folder)
    at = open_page("models", teacher=str(folder), student=str(tmp_path / "independent"))
    assert frame(at, "dimension").set_index("dimension").loc["hidden_size", "teacher"] == "16"
    assert ":red[x]" not in rendered(at)
