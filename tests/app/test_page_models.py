"""Models: the preflight of pairs that fit and that do not, and questions to both."""

from __future__ import annotations

import json

import pytest

from nuggets import api
from tests.app.conftest import HOSTILE, rendered, shown


def frame(at, column):
    return next(part.value for part in at.dataframe if column in part.value.columns)


def test_dimensions_are_those_of_the_preflight(open_page):
    found = api.preflight("teacher", "sibling")
    shown_rows = frame(open_page("models", student="sibling"), "dimension").set_index("dimension")
    for row in found.dimensions:
        assert shown_rows.loc[row.name, "teacher"] == row.teacher
        assert shown_rows.loc[row.name, "student"] == row.student
    assert shown_rows.loc["weights", "student"] == found.student.parameters


def test_swapped_pair_is_refused_with_the_reason(open_page):
    at = open_page("models", teacher="independent", student="teacher")
    assert "swap the two models" in shown(at)
    assert "no: the student is larger" in set(frame(at, "dimension")["fits"])


@pytest.mark.parametrize("name", ["./no-such-folder", HOSTILE[:30]])
def test_unknown_model_is_one_sentence(open_page, name):
    at = open_page("models", teacher=name)
    assert name in shown(at)
    assert "<img" not in rendered(at)


def answered(models, text="a t c k"):
    run = api.create(api.AskJob(models=models, prompt=HOSTILE))
    folder = run.folder / "artifacts" / "asked"
    folder.mkdir(parents=True)
    rows = [{"model": m, "text": text, "tokens": [["a", 0.9], ["b", 0.5]]} for m in models]
    (folder / "answers.json").write_text(json.dumps(rows))
    run.record_path.write_text(run.record().changed(status="done").model_dump_json())
    return run


def test_answers_stand_side_by_side_as_text(open_page):
    at = open_page("models")
    at.session_state["nuggets-asked"] = answered(("teacher", "independent"), text=HOSTILE).id
    at.run()
    assert not at.exception
    assert shown(at).count(HOSTILE) == 3  # the question, and two answers
    assert HOSTILE not in rendered(at)
    assert list(frame(at, "probability")["probability"]) == [0.9, 0.5]


def test_asking_starts_a_run_with_both_models(open_page, wait_for):
    at = open_page("models", student="sibling")
    at.text_input("question-reverse").set_value("reverse a b c")
    at.button("ask-both").click().run()
    assert not at.exception
    (run,) = api.runs()
    wait_for(run, "done")
    job = api.job_of(run)
    assert (job.models, job.prompt) == (("teacher", "sibling"), "reverse a b c")


def test_deleted_question_is_forgotten(open_page):
    at = open_page("models")
    at.session_state["nuggets-asked"] = "gone"
    assert not at.run().exception
