"""Home in a fresh home, with runs, and with what must not be rendered."""

from __future__ import annotations

from nuggets import api
from nuggets.statistics.verdict import KIND_WORDS
from tests.app.conftest import HOSTILE, rendered, shown
from tests.app.measured import write_benchmark


def table(at, alt_column):
    """The frame that has a column."""
    return next(part.value for part in at.dataframe if alt_column in part.value.columns)


def test_cards_show_the_scores_of_the_model_cards(open_page):
    at = open_page()
    frames = [part.value for part in at.dataframe if "skill" in part.value.columns]
    assert len(frames) == len(api.PAIRS)
    for frame, pair in zip(frames, api.PAIRS.values(), strict=True):
        card = api.model_card(pair.student)
        assert dict(zip(frame["skill"], frame["student"], strict=True)) == card.scores
        assert set(frame.loc[frame[""] == "lacking", "skill"]) == set(card.lacks)


def test_use_this_pair_changes_the_sidebar(open_page):
    at = open_page()
    at.button("use-sibling").click().run()
    assert at.selectbox("student").value == "sibling"


def test_empty_home_says_what_to_click(open_page):
    assert "No runs yet. Click “Run it yourself”" in shown(open_page())


def test_try_it_starts_quick_and_opens_transfer(open_page):
    at = open_page()
    at.button("try-it").click().run()
    assert not at.exception
    (run,) = api.runs()
    assert api.job_of(run) == api.load_recipe("quick")
    assert at.title[0].value == "Plan a transfer"
    assert at.selectbox("run").value == run.id


def test_a_fresh_home_shows_a_map_and_a_result_that_nobody_measured(open_page):
    at = open_page()
    assert len(at.get("plotly_chart")) == 1
    at.button("see-result").click().run()
    assert not at.exception
    assert at.title[0].value == "Results"
    assert at.header[0].value.startswith("lexicon helps")
    (run,) = api.runs()
    assert at.selectbox("run").value == run.id
    assert at.selectbox("task").value == "king"
    at = open_page()
    at.button("see-result").click().run()  # it is here already
    assert at.title[0].value == "Results"


def test_no_page_of_a_built_in_pair_greets_with_not_measured(open_page):
    for name in ("sensitivity", "alignment", "transfer", "learn"):
        for task in ("reverse", "king"):
            for student in ("independent", "sibling"):
                at = open_page(name, task=task, student=student)
                said = {part.value for part in at.subheader}
                assert not {"Not measured yet", "No plan yet"} & said, (name, task, student)


def test_recent_runs_carry_their_verdict(open_page):
    run = write_benchmark(api.load_recipe("quick"))
    frame = table(open_page(), "verdict")
    report = api.report(run)
    assert report is not None
    assert list(frame["verdict"]) == [KIND_WORDS[report.verdict.kind]]


def test_damaged_run_does_not_break_the_page(open_page):
    run = api.create(api.load_recipe("quick"))
    run.record_path.write_text("{")
    assert list(table(open_page(), "status")["status"]) == ["damaged"]


def test_rules_are_those_of_the_verdict(open_page):
    assert api.RULES.strip() in shown(open_page())


def test_missing_models_are_one_sentence(open_page, tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_ASSETS", str(tmp_path))
    at = open_page()
    assert "run `make pairs`" in shown(at)


def test_hostile_label_stays_text(open_page):
    recipe = api.load_recipe("quick")
    arms = [arm.model_dump() for arm in recipe.arms]
    arms[2]["label"] = HOSTILE[:39]
    job = api.parse_job({**recipe.model_dump(), "arms": arms})
    named = [("vanilla", "reference", 0.0), ("plain", "baseline", 0.5)]
    write_benchmark(job, [*named, (HOSTILE[:39], "treatment", 0.9)])
    assert "<img" not in rendered(open_page())
