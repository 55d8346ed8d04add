"""The committed reports: their documents are theirs, and README and summary say what they found."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nuggets import api
from nuggets.statistics.conditions import on_conditions
from nuggets.statistics.error_rates import BOUNDED
from nuggets.statistics.verdict import EDITION, LEAST_SEEDS, RULES, decide
from nuggets.studies.documents import published_report, save_study, study_markdown
from nuggets.studies.figure import study_svg
from nuggets.studies.index import INDEX
from nuggets.studies.shipped import studies

ROOT = Path(__file__).parents[3]
PAPER = ROOT / "docs" / "paper"
WORDS = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight"]

published = cache(published_report)
MORE = sorted({file.stem for file in PAPER.glob("*.json")} - set(studies()))
"""Reports of experiments that need models or files which are not shipped."""


def test_every_experiment_has_a_report():
    assert [name for name in studies() if published(name) is None] == []


@pytest.mark.parametrize("name", [*studies(), *MORE])
def test_the_documents_of_a_report_are_those_of_its_numbers(name):
    report = published(name)
    assert study_markdown(report) == (PAPER / f"{name}.md").read_text()
    assert study_svg(report) == (PAPER / f"{name}.svg").read_text()


def test_the_index_is_that_of_the_reports(tmp_path):
    for name in [*studies(), *MORE]:
        save_study(published(name), tmp_path)
    rows = (tmp_path / INDEX).read_text()
    assert (PAPER / INDEX).read_text().startswith(rows)


@pytest.mark.parametrize("name", studies())
def test_a_report_is_judged_by_todays_rules_with_the_recipes_controls(name):
    report = published(name)
    recipes = api.study_recipes(api.open_study(name))
    for panel in report.panels:
        found = panel.report
        assert found.rules == RULES
        assert found.verdict.edition == EDITION
        assert found.parts == recipes[panel.name].parts
        values = {arm.name: arm.value for arm in found.arms.values()}
        said = decide(found.parts, values, found.differences, found.verdict.treatment)
        ground = recipes[panel.name].ground
        judged = on_conditions(said, found.arms, found.parts, ground)
        assert found.verdict == judged or name == "retention"


def grafts():
    return {panel.name: panel.report for panel in published("graft").panels}


def beaten(report, versus):
    return next(d for d in report.differences if (d.arm, d.versus) == ("by_target", versus))


def test_the_graft_report_says_what_its_numbers_say():
    verdict = grafts()["reverse 64"].verdict
    assert verdict.words == "helps, not located"
    assert verdict.sentence.startswith(
        "The teacher's parameters help: by target is +0.720 [+0.635, +0.804] over plain and +0.641 "
        "[+0.549, +0.733] over its content control, permuted (8 seeds, 160 items)."
    )
    assert "random: +0.123 [−0.036, +0.282]" in verdict.sentence
    assert "others did better (first: −0.113" in verdict.sentence


@pytest.mark.parametrize("document", ["README.md", "docs/paper/summary.md"])
def test_what_is_said_of_pruned_students_is_what_the_report_found(document):
    text = " ".join((ROOT / document).read_text().replace("*", "").split())
    reports = grafts()
    kinds = [report.verdict.kind for report in reports.values()]
    assert f"{WORDS[kinds.count('helps')]} of {WORDS[len(kinds)]} settings" in text
    located = [name for name, report in reports.items() if report.verdict.location == "located"]
    assert located == ["sub 64", "sub 256"]
    for name in located:
        closest = min(
            (beaten(reports[name], other) for other in ("by_capital", "random", "first")),
            key=lambda difference: difference.interval.mean,
        ).interval
        assert _signed(closest) in text
    better = [name for name, report in reports.items() if beaten(report, "first").worse]
    assert better == ["reverse 64"]
    assert (
        "with 64 samples the first dimensions" in text or "With 64 samples of `reverse` the" in text
    )


def test_the_summary_has_every_cut_of_the_report():
    rows = [line.split("|") for line in (PAPER / "summary.md").read_text().splitlines()]
    arms = ["plain", "by_target", "permuted", "random", "by_capital", "first", "teacher_labels"]
    for place, report in enumerate(grafts().values()):
        values = [f"{report.arms[name].value:.3f}"[1:] for name in arms]
        assert values in [
            [row[place + 3].strip() for row in rows[at : at + 7] if len(row) == 9]
            for at in range(len(rows))
        ]


def shown(value, interval):
    text = f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
    return text.replace("0.", ".")


def test_what_is_said_of_the_independent_student_is_what_its_runs_found():
    text = " ".join((ROOT / "README.md").read_text().split())
    panels = {panel.name: panel.report for panel in published("main").panels}
    for name in ("paper", "plain"):
        arm = panels["reverse"].arms[name]
        assert shown(arm.value, arm.interval) in text
    assert {report.verdict.kind for report in panels.values()} == {"no_difference"}
    summary = " ".join((PAPER / "summary.md").read_text().split())
    for report in panels.values():
        for name in ("plain", "paper", "permuted", "gaussian", "full", "teacher_labels"):
            assert shown(report.arms[name].value, report.arms[name].interval) in summary
        assert f"{report.verdict.minimum_detectable:.3f}"[1:] in summary


def test_the_shipped_run_shows_what_the_registered_one_found(tmp_path, monkeypatch):
    monkeypatch.setenv("NUGGETS_HOME", str(tmp_path))
    report = api.report(api.shipped_run())
    assert report.verdict.kind == "helps"
    assert len(report.arms["lexicon"].seeds) == 3
    assert all(kept.mean >= 0.95 for kept in report.arms["lexicon"].old_skills.values())


JUDGED = ("king", "river", "king supervised map", "river supervised map")
LEXICON = {
    "README.md": (("king", ("lexicon", "lexicon_permuted", "lexicon_no_rows")),
                  ("river", ("lexicon", "lexicon_permuted", "lexicon_no_rows"))),
    "docs/paper/summary.md": (*((name, ("lexicon",)) for name in JUDGED),
                              ("king embedding", ("lexicon",)),
                              ("king a teacher that was never told", ("lexicon",))),
    "docs/paper/preregistration.md": (*((name, ("plain", "lexicon")) for name in JUDGED),
                                      ("king embedding", ("lexicon",)),
                                      ("king embedding supervised map", ("lexicon",)),
                                      ("king ridge map", ("lexicon",)),
                                      ("king LoRA", ("lexicon",)),
                                      ("king 40 facts taught", ("lexicon",)),
                                      ("king 10 facts taught", ("lexicon",)),
                                      ("king a teacher that was never told", ("lexicon",))),
}  # fmt: skip
"""Document → panels and arms whose numbers it gives."""


@pytest.mark.parametrize("document", LEXICON)
def test_what_is_said_of_word_vectors_is_what_the_report_found(document):
    text = " ".join((ROOT / document).read_text().split())
    panels = {panel.name: panel.report for panel in published("lexicon").panels}
    for name, arms in LEXICON[document]:
        for arm in arms:
            assert shown(panels[name].arms[arm].value, panels[name].arms[arm].interval) in text


def test_word_vectors_are_a_success_in_all_four_judged_panels_as_registered():
    panels = {panel.name: panel.report for panel in published("lexicon").panels}
    text = " ".join((PAPER / "preregistration.md").read_text().split())
    for name in JUDGED:
        report, treatment = panels[name], panels[name].arms["lexicon"]
        kept = np.mean([own.mean for own in treatment.old_skills.values()])
        assert report.verdict.kind == "helps"
        assert treatment.value >= 0.30
        assert kept >= 0.95
        assert min(arm.learned.exact_match for arm in report.arms.values()) >= 0.9
        controls = [d for d in report.differences if d.arm == "lexicon"
                    and report.parts[d.versus].role == "content_control"]  # fmt: skip
        assert _signed(min(controls, key=lambda d: d.interval.mean).interval) in text
    others = {name: panels[name].verdict.kind for name in panels if name not in JUDGED}
    failed = [name for name, kind in others.items() if kind != "helps"]
    assert failed == ["king 10 facts taught", "king a teacher that was never told"]


@pytest.mark.parametrize("name", ["layers", "structure", "cross"])
def test_neither_layers_nor_entries_nor_seed_samples_are_said_to_matter(name):
    for panel in published(name).panels:
        assert panel.report.verdict.kind == "no_difference"
        assert not any(each.better for each in panel.alternatives)


def test_no_number_of_samples_no_rank_and_no_teacher_makes_a_difference():
    text = " ".join((PAPER / "summary.md").read_text().split())
    panels = {(n, p.name): p.report for n in ("samples", "seeds", "ranks", "teachers")
              for p in published(n).panels}  # fmt: skip
    assert {report.verdict.kind for report in panels.values()} == {"no_difference"}
    few = [panels.pop(("samples", name)) for name in ("16", "64")]
    seen = sorted(report.verdict.minimum_detectable for report in panels.values())
    for pair in ((seen[0], seen[-1]), *zip(*((r.verdict.minimum_detectable, r.arms["plain"].value)
                                             for r in few), strict=True)):  # fmt: skip
        words = [f"{value:.3f}"[1:] for value in pair]
        assert f"{words[0]} to {words[1]}" in text or f"{words[0]} and {words[1]}" in text


def test_at_equal_rates_plain_lora_keeps_as_much_on_reverse():
    """An audit's case: at rates of their own, the paper's start seemed to keep more."""
    panels = {panel.name: panel.report for panel in published("retention").panels}
    for report in panels.values():
        assert len({tuple(arm.rates) for arm in report.arms.values() if arm.rates}) == 1
    kinds = {name: report.verdict.kind for name, report in panels.items()}
    assert kinds == {"reverse": "no_difference", "sub": "hurts", "king": "no_difference"}


def test_in_every_setting_of_the_main_table_the_training_items_were_learned():
    for panel in published("main").panels:
        assert panel.report.arms["plain"].learned.exact_match >= 0.9


def test_the_four_pre_registered_attempts_have_no_success():
    kinds = [panel.report.verdict.kind for panel in published("unseen").panels]
    assert len(kinds) == 4
    assert "helps" not in kinds


@pytest.mark.parametrize("document", ["preregistration.md", "summary.md"])
def test_what_is_said_of_specific_weights_is_what_the_report_found(document):
    text = " ".join((PAPER / document).read_text().split())
    report = published("specific")
    names = [panel.name for panel in report.panels]
    across = dict(zip(names, report.across, strict=True))
    assert not any(found.better for found in across.values())
    assert [name for name, found in across.items() if found.worse] == ["cut reverse 64"]
    assert _signed(across["cut reverse 64"].interval) in text
    if document == "summary.md":
        return
    seen = sorted(found.minimum_detectable for found in across.values() if not found.worse)
    for value in (seen[0], seen[1], seen[-1]):
        assert f"{value:.3f}"[1:] in text
    for name in ("cut sub 64", "cut sub 256"):
        verdict = next(panel.report for panel in report.panels if panel.name == name)
        assert verdict.verdict.location == "located"
        random = next(d for d in verdict.differences if (d.arm, d.versus) == ("specific", "random"))
        assert _signed(random.interval) in text


def _signed(interval):
    said = f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    return said.replace("0.", ".").replace("-", "−")


def test_the_verdict_claims_only_what_its_calibration_allows():
    found = api.lessons.calibration()
    assert found.edition == EDITION
    assert found.passed
    assert found.least_seeds is not None
    assert found.least_seeds <= LEAST_SEEDS
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"within {100 * max(d.bound for d in found.designs):.1f} % with 3 or 5 seeds" in readme
    summary = " ".join((PAPER / "summary.md").read_text().split())
    worst = [max(getattr(d, name).value for name in BOUNDED) for d in found.designs]
    bounds = [d.bound for d in found.designs]
    for one, other in (worst, bounds):
        assert f"{one:.3f}"[1:] in summary
        assert f"{other:.3f}"[1:] in summary
    for design in found.designs:
        for rate in (design.found["0.3"], design.not_located["0.2"]):
            assert shown(rate.value, (rate.low, rate.high)) in summary
