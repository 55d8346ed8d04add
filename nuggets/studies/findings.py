"""What an experiment found, in sentences that follow from fixed rules.

Rules, in this order:

1. Per run, the verdict on the focus by the published rules (see `statistics.verdict`).
2. Per run with several treatments, the focus against the others: which it is seen to be better or
   worse than (Holm over them), and which it is not told apart from, with the smallest difference
   that would have been found.
3. Where the question sets one arm against the focus: in which runs the focus is seen to be better
   or worse (Holm over the runs), and in which it is not told apart.
4. Whether the paper's claim, where we have its numbers, is seen: only if the focus is judged to
   help, and to be better than all its alternatives where there are any, in every run.
"""

from __future__ import annotations

from collections.abc import Sequence

from nuggets.amounts import plain_name
from nuggets.statistics.report import BenchmarkReport
from nuggets.statistics.verdict import Difference, Verdict
from nuggets.studies.schema import Study

Found = tuple[str, BenchmarkReport, Sequence[Difference]]
"""Run name, its report, and the focus against the other treatments."""


def find_sentences(
    study: Study, panels: Sequence[Found], across: Sequence[Difference] = ()
) -> list[str]:
    """Returns what was found, one sentence each; `across` runs through the panels."""
    several = len(panels) > 1
    sentences: list[str] = []
    for name, report, alternatives in panels:
        label = f"{plain_name(name)}: " if several else ""
        sentences.append(label + report.verdict.sentence)
        if alternatives:
            sentences.append(label + compare_sentence(alternatives))
    return [*sentences, *_answer([name for name, _, _ in panels], across), *_claims(study, panels)]


def summarise(study: Study, panels: Sequence[Found], across: Sequence[Difference] = ()) -> str:
    """Returns what was found in a few words, for a list of experiments."""
    counted: dict[tuple[str, str], list[str]] = {}
    for name, report, _ in panels:
        verdict = report.verdict
        said = plain_name(verdict.treatment or "no arm"), verdict.words
        counted.setdefault(said, []).append(plain_name(name))
    where = [
        f"{arm}: {kind}" + ("" if len(panels) == 1 or own == [arm] else f" ({', '.join(own)})")
        for (arm, kind), own in counted.items()
    ]
    names = [name for name, _, _ in panels]
    return " ".join([f"{'; '.join(where)}.", *_answer(names, across), *_claims(study, panels)])


def compare_sentence(alternatives: Sequence[Difference]) -> str:
    """The focus against every alternative, in one sentence."""
    focus = plain_name(alternatives[0].arm)
    parts = []
    for said, chosen in (
        ("better than", [d for d in alternatives if d.better]),
        ("worse than", [d for d in alternatives if d.worse]),
    ):
        if chosen:
            parts.append(f"{said} {_listed([_with_gap(d.versus, d) for d in chosen])}")
    unclear = [d for d in alternatives if not d.better and not d.worse]
    if unclear:
        known = [d.minimum_detectable for d in unclear]
        family = f", as {unclear[0].family}" if (unclear[0].n_comparisons or 1) > 1 else ""
        could = (
            f"; a difference of {max(v for v in known if v is not None):.2f} would be detected 80 "
            f"% of the time{family}"
            if None not in known
            else "; with these data no difference can be detected"
        )
        names = _listed([_with_gap(d.versus, d) for d in unclear])
        parts.append(f"statistically indistinguishable from {names}{could}")
    return f"{focus} is " + ", and ".join(parts) + "."


def _answer(runs: Sequence[str], across: Sequence[Difference]) -> list[str]:
    """The focus against the one arm that the question names, over all runs in one sentence."""
    if not across:
        return []
    by_kind = {
        f"better than {plain_name(across[0].versus)} in": [d.better for d in across],
        "worse in": [d.worse for d in across],
        "statistically indistinguishable in": [not d.better and not d.worse for d in across],
    }
    parts = []
    for said, chosen in by_kind.items():
        pairs = [(r, d) for r, d, yes in zip(runs, across, chosen, strict=True) if yes]
        if pairs:
            parts.append(f"{said} {_listed([_with_gap(*pair) for pair in pairs])}")
    heading = f"{plain_name(across[0].arm)} against {plain_name(across[0].versus)}"
    return [f"{heading}, Holm over {len(across)} runs: {'; '.join(parts)}."]


def _claims(study: Study, panels: Sequence[Found]) -> list[str]:
    return [_claim(study, panels)] if study.paper.claim else []


def reproduced(study: Study, panels: Sequence[Found]) -> tuple[int, int] | None:
    """In how many settings, and of how many that could be judged, the paper's claim is seen."""
    judged = [
        _agrees(report.verdict, alternatives)
        for _, report, alternatives in panels
        if report.verdict.kind not in ("not_proven", "not_measurable")
    ]
    return (sum(judged), len(judged)) if study.paper.claim else None


def _claim(study: Study, panels: Sequence[Found]) -> str:
    n, judged = reproduced(study, panels) or (0, 0)
    where = "here" if judged == 1 else f"in {n} of {judged} runs"
    heading = f"The paper: {study.paper.claim}"
    if not judged:
        return f"{heading} This cannot be judged here."
    if n == judged:
        return f"{heading} This is reproduced {where}."
    if n == 0:
        return f"{heading} This is not reproduced here."
    return f"{heading} This is reproduced only {where}."


def _agrees(verdict: Verdict, alternatives: Sequence[Difference]) -> bool:
    return verdict.kind == "helps" and all(d.better for d in alternatives)


def _with_gap(name: str, difference: Difference) -> str:
    """A difference with its interval, and Holm's p where it says less than the interval does."""
    i, holm = difference.interval, ""
    if not i.low <= 0 <= i.high and difference.p_holm > 1 - i.level:
        holm = f", p {difference.p_holm:.2g} after Holm's correction"
    gap = f"{i.mean:+z.2f} [{i.low:+z.2f}, {i.high:+z.2f}]{holm}".replace("-", "−")
    return f"{plain_name(name)} ({gap})"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
