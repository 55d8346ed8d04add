"""The published results that Learn tells of; nothing here is computed again."""

from __future__ import annotations

from nuggets.disk.carried import carried
from nuggets.errors import BadInput
from nuggets.statistics.error_rates import Calibration
from nuggets.statistics.report import BenchmarkReport
from nuggets.studies.documents import published_report

CUTS = ("graft", "reverse 64")
"""The experiment and its run in which students are pruned in several ways."""
OTHER = ("graft", "sub 64")
"""The same on another skill."""
TRANSFER = ("main", "reverse")
"""The paper's initialisation on the same skill."""
RIVERS = ("lexicon", "river")
"""The shipped run's question on another relation, for which nothing was chosen."""
SPECIFIC = "specific"
"""The experiment that chooses windows and cuts by specific weights, and by the paper's score."""


def result(study: str, run: str) -> BenchmarkReport:
    """The report of one run of a published experiment.

    Raises:
        BadInput: where it is not shipped.
    """
    found = published_report(study)
    for panel in found.panels if found else ():
        if panel.name == run:
            return panel.report
    raise BadInput(f"No report of {run} in the experiment {study} comes with this installation.")


def chosen_by_specific() -> tuple[int, int, int]:
    """In how many settings what is chosen by specific weights does better, worse, and of how many.

    Raises:
        BadInput: where the experiment is not shipped.
    """
    found = published_report(SPECIFIC)
    if found is None:
        raise BadInput(f"No report of the experiment {SPECIFIC} comes with this installation.")
    better, worse = (sum(getattr(d, way) for d in found.across) for way in ("better", "worse"))
    return better, worse, len(found.across)


def calibration() -> Calibration:
    """Error rates of the verdict. Raises BadInput where they are not shipped."""
    return Calibration.model_validate_json(_read("docs/calibration.json"))


def _read(name: str) -> str:
    try:
        return carried(name).read_text()
    except OSError:
        raise BadInput(f"{name} is missing from this installation of Nuggets.") from None
