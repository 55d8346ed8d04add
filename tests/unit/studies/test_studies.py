"""The paper's experiments: every shipped one, reuse of runs, reports with known truth."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nuggets import api
from nuggets.builtin.resolve import resolve
from nuggets.errors import BadInput
from nuggets.runs.store import Run
from nuggets.statistics.cells import CellOutcome
from nuggets.statistics.report import build_report
from nuggets.statistics.verdict import Difference, controls_of
from nuggets.studies.documents import save_study, study_html, study_markdown
from nuggets.studies.findings import compare_sentence
from nuggets.studies.markdown import markdown_table
from nuggets.studies.running import find_run
from nuggets.studies.schema import focus_of
from nuggets.studies.shipped import open_study, studies, study_recipes

RATES = {"window": 0.9, "plain": 0.3, "vanilla": 0.05}
CONTROLS = ("permuted", "gaussian", "random_window", "random_layers")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path))


def finish(run: Run, rates=RATES, n_items=60, metric="exact_match", slower="") -> Run:
    """Writes the cells of a run that never trained, at the rates given (others: .4)."""
    recipe = api.job_of(run)
    found = []
    for arm in recipe.arms:
        for seed in recipe.seeds:
            rng = np.random.default_rng([seed, *arm.name.encode()])
            right = (rng.random(n_items) < rates.get(arm.name, 0.4)).astype(float).tolist()
            kept = (rng.random(10) < 0.8).astype(float).tolist()
            lr = 1e-3 if arm.name == slower else 5e-3
            cell = CellOutcome(
                arm=arm.name,
                role=arm.role,
                seed=seed,
                items=[f"i{n}" for n in range(n_items)],
                outcomes={metric: right},
                old_skills={"add": kept, "copy": kept[::-1]},
                learning_rate=lr,
                samples=256,
                steps=120,
            )
            found.append(cell)
            folder = run.folder / "artifacts" / "cells" / f"{arm.name}-{seed}"
            folder.mkdir(parents=True)
            (folder / "cell.json").write_text(cell.model_dump_json())
    build_report(found, task="reverse", metric=metric)
    run.record_path.write_text(run.record().changed(status="done").model_dump_json())
    return run


def finished(name, rates=RATES):
    for recipe in study_recipes(open_study(name)).values():
        finish(api.create(recipe), rates)
    report = api.study_report(name)
    assert report is not None
    return report


@pytest.mark.parametrize("name", list(studies()))
def test_every_experiment_is_a_set_of_recipes_with_baseline_and_control(name):
    study = open_study(name)
    recipes = study_recipes(study)
    assert list(recipes) == [run.name for run in study.runs]
    for run, recipe in recipes.items():
        roles = {arm.role for arm in recipe.arms}
        assert {"baseline", "treatment", "content_control"} <= roles
        focus = focus_of(study, run)
        assert recipe.parts[focus].role == "treatment"
        assert controls_of(recipe.parts, focus, "content_control")
        assert recipe.train.lr_grid or name in ("graft", "retention"), "fair rates"
        assert len(recipe.seeds) >= 5
    named = {arm.name for recipe in recipes.values() for arm in recipe.arms}
    for key in study.paper.values:
        assert key.split("/")[-1] in named
    if study.paper.values:
        assert study.paper.source
        assert study.paper.claim


def test_overrides_win_over_the_experiments_own_fields():
    recipes = study_recipes(open_study("main"), ["data.n_train=7", "seeds=[3, 4]"])
    assert {recipe.data.n_train for recipe in recipes.values()} == {7}
    assert recipes["sub"].seeds == (3, 4)
    with pytest.raises(BadInput, match="choose one of main, layers, origin"):
        open_study("mian")


def test_a_run_from_before_a_field_existed_is_reused():
    recipe = study_recipes(open_study("layers"))["all"]
    run = finish(api.create(recipe))
    path = run.folder / "recipe.yaml"
    old = path.read_text().replace("  concurrent: auto\n", "")
    assert old != path.read_text()
    path.write_text(old)
    assert find_run(recipe).id == run.id
    path.write_text(old.replace("  steps: 250", "  steps: 251"))
    assert find_run(recipe) is None


def test_a_run_on_changed_models_is_not_reused():
    recipe = study_recipes(open_study("layers"))["all"]
    run = finish(api.create(recipe))
    changed = run.record().provenance.model_copy(update={"digests": {"teacher": "other"}})
    run.record_path.write_text(run.record().changed(provenance=changed).model_dump_json())
    assert find_run(recipe) is None


def test_a_report_says_what_was_planted_and_sets_the_papers_numbers_beside_it():
    report = finished("structure")
    (panel,) = report.panels
    assert panel.report.verdict.kind == "helps"
    assert panel.report.verdict.treatment == "window"
    assert {d.versus for d in panel.alternatives if d.better} == {
        "weights", "neurons", "rows_cols", "consistent", "consistent_random",
    }  # fmt: skip
    assert report.findings[-1].endswith("This is reproduced here.")
    text = study_markdown(report)
    assert "| 28.22 |" in text
    assert "read off a chart" in text
    assert "nuggets paper structure" in text
    assert all(f"| {len(arm.seeds)} × {arm.n} |" in text for arm in panel.report.arms.values())


def test_the_time_of_a_run_that_was_resumed_is_not_that_of_its_last_attempt():
    report = finished("structure")
    assert "several attempts" not in study_markdown(report)
    resumed = report.model_copy(update={"attempts": 3, "seconds": 30.0})
    trained = sum(cell.seconds for cell in api.cells(api.open_run(report.panels[0].run)))
    assert (
        f"({trained:,.0f} s of training in several attempts, the last of which took 30 s of "
        "wall-clock time" in study_markdown(resumed)
    )


def test_a_report_does_not_say_where_a_models_folder_lies():
    changes = (f"teacher={resolve('teacher').path}",)
    for recipe in study_recipes(open_study("structure"), changes).values():
        assert recipe.teacher != "teacher"
        finish(api.create(recipe))
    report = api.study_report("structure", changes)
    assert report is not None
    assert [panel.teacher for panel in report.panels] == ["teacher"]


def test_without_an_effect_the_papers_claim_is_not_seen():
    report = finished("layers", {})
    assert report.panels[0].report.verdict.kind == "no_difference"
    assert "is statistically indistinguishable from random" in report.findings[1]
    assert report.findings[-1].endswith("This is not reproduced here.")


def test_retention_counts_the_items_of_all_old_skills():
    report = finished("retention")
    assert {panel.report.metric for panel in report.panels} == {"kept"}
    arm = report.panels[0].report.arms["plain"]
    assert arm.n == 20
    assert arm.value == pytest.approx(np.mean([arm.per_seed]))


def test_retention_at_different_learning_rates_has_no_verdict():
    for recipe in study_recipes(open_study("retention")).values():
        finish(api.create(recipe), slower="paper")
    report = api.study_report("retention")
    assert report is not None
    assert {panel.report.verdict.kind for panel in report.panels} == {"not_proven"}
    assert report.findings[0] == (
        "reverse: Not proven: the arms were trained at different learning rates (paper 0.001, "
        "plain 0.005, permuted 0.005, gaussian 0.005), which can make such a difference by "
        "themselves. Smaller rates forget less."
    )
    assert report.summary == "paper: not proven (reverse, sub, king)."


def test_the_html_page_needs_no_other_file_and_shows_markup_as_text():
    report = finished("layers", {})
    hostile = report.model_copy(update={"findings": ['<img src=x onerror="alert(1)">']})
    svg = api.study_svg(hostile)
    page = study_html(hostile)
    assert "data:image/svg+xml;base64," in page
    assert "<img src=x" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert svg == api.study_svg(hostile), "the same report gives the same file"


@pytest.mark.parametrize("name", ["main", "unseen", "samples", "cross"])
def test_a_figure_names_every_arm_and_every_run(name):
    report = finished(name)
    figure = api.study_svg(report)
    arms = {a.name for p in report.panels for a in p.report.arms.values() if a.role != "reference"}
    named = {arm.replace("_", " ") for arm in arms} | {panel.name for panel in report.panels}
    words = re.findall("<text[^>]*>([^<]*)</text>", figure)
    assert not {each for each in named if not any(text.endswith(each) for text in words)}
    assert figure != api.study_svg(report, dark=True)


def test_a_cell_of_a_table_cannot_break_it():
    assert markdown_table(("a", "b"), [("x|y", "1")]).splitlines()[-1] == "| x\\|y | 1 |"


def test_findings_name_better_worse_and_undecided_alternatives():
    def against(name, mean, half, p=None):
        interval = {"mean": mean, "low": mean - half, "high": mean + half}
        interval |= {"level": 0.95, "n_seeds": 5, "n_items": 80}
        p = p or (0.01 if abs(mean) > half else 0.5)
        return Difference(
            arm="a", versus=name, interval=interval, p=p, p_holm=p, minimum_detectable=0.2
        )

    sentence = compare_sentence(
        [against("b", 0.3, 0.1), against("c", -0.3, 0.1), against("d", 0, 0.1)]
    )
    assert sentence == (
        "a is better than b (+0.30 [+0.20, +0.40]), and worse than c (−0.30 [−0.40, −0.20]), and "
        "statistically indistinguishable from d (+0.00 [−0.10, +0.10]); a difference of 0.20 would "
        "be detected 80 % of the time."
    )
    family = [against("d", 0, 0.1).model_copy(update={"n_comparisons": 2})]
    assert compare_sentence(family).endswith("80 % of the time, as one of 2 comparisons.")
    doubtful = compare_sentence([against("b", 0.3, 0.1, p=0.08)])
    assert (
        "statistically indistinguishable from b (+0.30 [+0.20, +0.40], p 0.08 after Holm's "
        "correction)" in doubtful
    )


def test_a_graft_is_set_against_the_random_cut_in_every_run_by_holm_over_all():
    report = finished("graft", {"by_target": 0.9, "plain": 0.1})
    assert len(report.across) == len(report.panels) == 5
    alone = [
        next(d for d in panel.report.differences if (d.arm, d.versus) == ("by_target", "random"))
        for panel in report.panels
    ]
    ours, wanted = ([d.interval for d in found] for found in (report.across, alone))
    assert ours == wanted
    ranked = sorted(d.p for d in alone)
    steps = np.maximum.accumulate([p * (5 - place) for place, p in enumerate(ranked)])
    assert sorted(d.p_holm for d in report.across) == pytest.approx(np.minimum(steps, 1))
    assert "by target against random, Holm over 5 runs: better than random in reverse 64" in (
        report.summary
    )
    assert "## The answer to the question: Holm over all 5 runs" in study_markdown(report)


def test_the_table_of_controls_holds_every_control_of_the_judged_arm():
    text = study_markdown(finished("main"))
    assert all(f"| {task} | paper − {name} |" in text for task in ("reverse", "sub", "king")
               for name in ("permuted", "gaussian"))  # fmt: skip
    assert "paper − plain |" not in text


def test_the_index_lists_what_was_found_and_spares_files_of_others(tmp_path):
    out = tmp_path / "reports"
    assert out / "README.md" in save_study(finished("layers", {}), out)
    text = (out / "README.md").read_text()
    assert "| [layers](layers.md) |" in text
    assert "sensitivity: no detectable difference. The paper: layers chosen" in text
    assert "| 8 × 60 |" in text
    (out / "README.md").write_text("mine")
    assert out / "README.md" not in save_study(finished("main", {}), out)
    assert (out / "README.md").read_text() == "mine"


def test_nothing_to_report_before_the_first_run():
    assert api.study_report("layers") is None
