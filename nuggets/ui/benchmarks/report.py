"""Parts of the Results page: arms, differences and curves, items, old skills, budget."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from nuggets import api
from nuggets.errors import Damaged
from nuggets.recipe import TransferRecipe
from nuggets.statistics.verdict import Difference, controls_of
from nuggets.ui.benchmarks import arms as arm_tables
from nuggets.ui.charts import base as charts
from nuggets.ui.charts import benchmarks as benchmarks_charts
from nuggets.ui.frame import safe, share
from nuggets.ui.frame.share import Origin, Picture


class Sources:
    """What every figure and table of one run shares: where it comes from."""

    def __init__(self, run: api.Run) -> None:
        self.id, self._job, self.title = run.id, api.job_of(run), api.about(run).title
        self.arms = self._job.arms if isinstance(self._job, TransferRecipe) else ()

    def of(self, then: str) -> Origin:
        """What makes the run again, and prints what is shown of its `report`."""
        known = f"# run = api.open_run({self.id!r}) is this run itself\nreport = api.report(run)"
        return Origin.of(self._job, f"{known}\n{then}")


FEW = 5
"""Arms up to which all learning curves are drawn at first."""
EACH_ARM = "for arm in report.arms.values():\n    print(arm.name, {})"
"""Python that prints something of every arm."""


def report_of(run: api.Run) -> api.BenchmarkReport | None:
    """The report of a run, if it has one.

    Raises:
        Damaged: if it cannot be read.
    """
    try:
        return api.report(run)
    except ValueError:
        raise Damaged(
            f"The report of run {run.id} cannot be read: it is incomplete or was changed. Run the "
            "recipe again."
        ) from None


def started_plain(run: api.Run) -> None:
    """Which matrices nothing was cut for, if any."""
    with safe.shown_problems("plain"):
        if (plan := api.plan_of(run)) is not None and plan.plain:
            st.text(plan.plain_sentence)


def arms(report: api.BenchmarkReport, run: Sources) -> None:
    """Bars with seeds, and paired differences."""
    look = share.look()
    n_seeds = max(len(arm.seeds) for arm in report.arms.values())
    size = f"95 % intervals over {n_seeds} seeds and {report.n_items} items"
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Arms", anchor=False)
        Picture(
            benchmarks_charts.arms_figure(report, look),
            benchmarks_charts.arms_frame(report),
            "arms",
            f"Means with {size}; each dot is one seed · {run.title}",
            run.of(EACH_ARM.format("arm.value, arm.interval, arm.per_seed")),
            "One bar with interval for each arm, and a dot for each seed",
        ).draw()
    with right:
        st.subheader("All paired differences", anchor=False)
        _differences(report.differences, run, "differences")


def forest(report: api.BenchmarkReport, run: Sources) -> None:
    """The treatment against plain LoRA and each of its controls, beside a line at 0."""
    treatment = report.verdict.treatment
    own = [d for d in report.differences if treatment == d.arm]
    _differences(own or report.differences, run, "effect", treatment if own else None)


def _differences(
    shown: Sequence[Difference], run: Sources, key: str, of: str | None = None
) -> None:
    if not shown:
        st.text("No arms were compared.")
        return
    Picture(
        benchmarks_charts.forest_figure(shown, share.look(), of),
        benchmarks_charts.differences_frame(shown),
        key,
        f"Paired by seed and item, 95 % intervals, p-values after Holm's correction · {run.title}",
        run.of(
            "for d in report.differences:\n"
            "    print(d.arm, d.versus, d.interval, d.p_holm, d.minimum_detectable)"
        ),
        "Paired differences between arms with intervals, and a line at no difference",
    ).draw()


@safe.fragment
@safe.shown_problems("curves")
def curves(report: api.BenchmarkReport, run: Sources) -> None:
    """Learning curves with bands, at first of the arms that decide."""
    st.subheader("Learning curves", anchor=False)
    default = decisive(report) if len(report.arms) > FEW else []
    shown = st.pills("Arms", list(report.arms), selection_mode="multi", default=default,
                     key="curve_arms", format_func=lambda arm: safe.label(str(arm), 30),
                     bind="query-params", help="All arms if none is chosen.")  # fmt: skip
    Picture(
        benchmarks_charts.curves_figure(
            report, [arm for arm in shown if arm in report.arms], share.look()
        ),
        benchmarks_charts.curves_frame(report),
        "curves",
        f"Mean over seeds, 95 % bands · {run.title}",
        run.of(EACH_ARM.format("arm.curve")),
        "Learning curve of each arm with its band",
    ).draw()


def decisive(report: api.BenchmarkReport) -> list[str]:
    """The arms that decide: the transfer, plain LoRA and its best control of each kind."""
    judged, parts = report.verdict.treatment, report.parts
    if judged is None:
        return []
    sign = 1 if report.higher_is_better else -1
    rivals = (
        [name for name, part in parts.items() if part.role == "baseline"],
        controls_of(parts, judged, "content_control"),
        controls_of(parts, judged, "location_control"),
    )
    return [judged, *(max(own, key=lambda arm: sign * report.arms[arm].value)
                      for own in rivals if own)]  # fmt: skip


@safe.fragment
@safe.shown_problems("answers")
def answers(report: api.BenchmarkReport, run: api.Run, origin: Sources) -> None:
    """Two arms item by item: what was asked, what they wrote, and what flipped."""
    st.subheader("Item by item", anchor=False)
    names = list(report.arms)
    judged = report.verdict.treatment or names[-1]
    base = next((a.name for a in report.arms.values() if a.role == "baseline"), names[0])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        pair = [_arm("Arm", "arm", names, base), _arm("Against", "against", names, judged)]
        common = [s for s in report.arms[pair[0]].seeds if s in report.arms[pair[1]].seeds]
        seed = st.selectbox("Seed", common, key="seed", bind="query-params", width=110)
        only = st.toggle("Changed answers only", key="flips", bind="query-params")
    cells = {(cell.arm, cell.seed): cell for cell in api.cells(run)}
    found = [cells.get((arm, seed)) for arm in pair]
    if found[0] is None or found[1] is None:
        st.text("These two arms share no seed.")
        return
    frame = arm_tables.items_frame(
        (pair[0], pair[1]),
        (api.answers(run, pair[0], seed), api.answers(run, pair[1], seed)),
        (found[0].outcomes[report.metric], found[1].outcomes[report.metric]),
        found[0].items,
        report.higher_is_better,
    )
    changes = frame["change"].tolist()
    gained, lost = changes.count("gained"), changes.count("lost")
    caption = f"{pair[0]} → {pair[1]}, seed {seed}: {gained} gained, {lost} lost of {len(frame)}"
    frame = frame.query("change != 'same'") if only else flips_first(frame)
    code = (
        f"for arm in {(pair[0], pair[1])}:\n    for answer in api.answers(run, arm, {seed}):\n"
        "        print(arm, answer)"
    )
    share.table(frame, "items", f"{caption} · {origin.title}", origin.of(code), height=320,
                shown=arm_tables.items_shown(frame, (pair[0], pair[1])))  # fmt: skip


def flips_first(frame: pd.DataFrame) -> pd.DataFrame:
    """Items whose outcome differs first: gained, then lost, then the rest."""
    order = {"gained": 0, "lost": 1, "same": 2}
    return frame.sort_values("change", key=lambda change: change.map(order), kind="stable")


def _arm(label: str, key: str, names: list[str], default: str) -> str:
    chosen = st.selectbox(label, names, index=names.index(default), key=key, bind="query-params",
                          width=220, format_func=charts.plain_name)  # fmt: skip
    return chosen if chosen in names else default


def retention(report: api.BenchmarkReport, run: Sources) -> None:
    """What was kept of the old skills."""
    st.subheader("Retention", anchor=False)
    frame = benchmarks_charts.retention_frame(report)
    if frame.empty:
        st.text(
            "This run did not measure retention. List the skills to measure in data.old_skills."
        )
        return
    Picture(
        benchmarks_charts.retention_figure(report, share.look()),
        frame,
        "retention",
        f"Exact match on old skills after training, 95 % intervals · {run.title}",
        run.of(EACH_ARM.format("arm.old_skills")),
        "Exact match of each arm on old skills, with intervals",
    ).draw()


def budget(report: api.BenchmarkReport, run: Sources) -> None:
    """What each arm was given."""
    st.subheader("Budget", anchor=False)
    frame = arm_tables.budget_frame(report)
    tuned = f"; {report.rates_chosen}" if report.rates_chosen else ""
    code = EACH_ARM.format("arm.samples, arm.steps, arm.trainable_parameters, arm.flops")
    share.table(
        frame,
        "budget",
        f"Means over seeds{tuned}; {arm_tables.BUDGET} · {run.title}",
        run.of(code),
        shown=arm_tables.budget_shown(frame),
        height="content",
        row_height=30,
    )
