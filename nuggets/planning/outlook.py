"""Everything that can be known of a transfer before it is trained, in one look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nuggets.builtin.resolve import pair_named
from nuggets.errors import BadInput
from nuggets.extraction.plan import ExtractionPlan, make_plan
from nuggets.planning.checks import detectable, preflight_recipe, refusals
from nuggets.planning.jobs import find_alignment_of, map_request
from nuggets.planning.svd_kept import KeptBySvd, kept_by_svd
from nuggets.preflight.headers import Preflight
from nuggets.preflight.resources import FASTER, SLOWER, STARTING_S, StageNeed
from nuggets.recipe import TransferRecipe
from nuggets.statistics.power import DetectableEffect
from nuggets.views.sensitivity import Residual, residual_dimensions


@dataclass(frozen=True, eq=False)
class Outlook:
    """What a recipe would do.

    Attributes:
        refusals: why it would not be started, one sentence each; empty where it can be.
        missing: what has to be measured before there is a plan.
        plan: layers, windows and ranks; None while something is missing or refused.
        residual: the residual dimensions of neighbouring matrices; None for single weights.
        kept: rank and energy of every matrix, in the plan's order; None if they are not known.
        unknown: why `kept` is not known, in one sentence.
        preflight: dimensions, memory, disk and time.
        stages: those stages of the preflight that this recipe goes through here.
        uncounted: work of some arms that the stages do not cover, in a few words each.
        detectable: the smallest difference to be seen; None for losses and for a single item,
            which promise nothing.
    """

    refusals: tuple[str, ...]
    missing: Literal["map", "alignment"] | None
    plan: ExtractionPlan | None
    residual: Residual | None
    kept: list[KeptBySvd] | None
    unknown: str
    preflight: Preflight
    stages: tuple[StageNeed, ...]
    uncounted: tuple[str, ...]
    detectable: DetectableEffect | None

    @property
    def seconds(self) -> tuple[float, float] | None:
        """At least and at most how long a run takes, one arm after another; None if not known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        if not known:
            return None
        low, high = (STARTING_S + sum(known) * factor for factor in (FASTER, SLOWER))
        return low, high

    @property
    def parameters(self) -> int | None:
        """Weights that one arm trains, at the ranks that are used."""
        if self.kept is not None:
            return sum(each.parameters for each in self.kept)
        return None if self.plan is None else self.plan.trainable_parameters


def look_ahead(recipe: TransferRecipe) -> Outlook:
    """Looks at everything that configurations, headers, samples and cached maps say.

    Nothing is loaded, measured or trained.

    Raises:
        BadInput: if one of the two is no model at all, or the device is not there.
    """
    pair = pair_named(recipe.teacher, recipe.student)
    found = preflight_recipe(recipe, pair)
    refused = refusals(recipe, pair, found)
    request = None if refused else map_request(recipe, pair)
    measured = None if request is None else request.find()
    map = measured or (None if request is None else request.shipped())
    cka = find_alignment_of(recipe, pair)
    missing, plan, residual, kept, unknown = None, None, None, None, ""
    if not refused and map is None:
        missing = "map"
    elif not refused and recipe.extraction.layers.needs_cka and cka is None:
        missing = "alignment"
    elif map is not None:
        try:
            plan = make_plan(map, pair.student.spec, recipe.extraction, recipe.lora, cka)
        except BadInput:  # a shipped map has not every entry
            if measured is not None:
                raise
            missing = "map"
    if map is not None and plan is not None:
        if plan.residual_agreement is not None:
            residual = residual_dimensions(plan, map.spec)
        try:
            kept = kept_by_svd(plan, pair.teacher, map)
        except BadInput as problem:
            unknown = str(problem)
    return Outlook(
        refusals=refused,
        missing=missing,
        plan=plan,
        residual=residual,
        kept=kept,
        unknown=unknown,
        preflight=found,
        stages=tuple(_stages(recipe, found, measured=measured is not None)),
        uncounted=tuple(dict.fromkeys(arm.uncounted for arm in recipe.arms if arm.uncounted)),
        detectable=None if refused else _detectable(recipe),
    )


def _detectable(recipe: TransferRecipe) -> DetectableEffect | None:
    if recipe.data.metric == "loss":
        return None
    try:
        return detectable(recipe)
    except BadInput:  # a single item has no spread to plan with
        return None


def _stages(recipe: TransferRecipe, found: Preflight, measured: bool) -> list[StageNeed]:
    """The stages ahead: one way to measure, or none if the map already exists."""
    fits = {stage.stage: stage.fits for stage in found.stages}
    # Windows are searched in every entry, so that the full map is in memory until they are found.
    whole = "sensitivity (sums)" if recipe.sensitivity.keep == "sums" else "sensitivity (full map)"
    method = recipe.sensitivity.method
    streams = method == "streaming" or (method == "auto" and not fits.get(whole, True))
    way = "sensitivity (streaming)" if streams else whole
    return [
        stage
        for stage in found.stages
        if (not stage.stage.startswith("sensitivity") or (stage.stage == way and not measured))
        and (stage.stage != "download" or stage.disk_needed)
    ]
