"""What is known of a pair before a weight is read: dimensions, what can be extracted, the needs."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd
import streamlit as st

from nuggets import amounts, api
from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import safe, share, shell, waiting
from nuggets.ui.transfer import form, preview

LOOKED_UP_FOR = 600
"""Seconds that an answer of the hub is kept."""
WORDS = {
    "agree": "Both tokenizers map every token to the same id.",
    "differ": "The tokenizers map tokens to different ids: each model reads its own, and embedding "
    "and head cannot be extracted.",
    "unknown": "Whether the tokenizers agree is known only after they are loaded.",
}


def work(choice: shell.Choice) -> TransferRecipe:
    """Draws the choice of how much is counted for, and returns the transfer that does it."""
    names = list(api.shipped_recipes())
    name = st.selectbox(
        "Estimate for recipe",
        names,
        index=names.index("quick"),
        key="counted",
        bind="query-params",
        width=220,
        help="The recipe sets the samples, steps, arms and seeds of the estimate.",
    )
    recipe = api.load_recipe(name if name in names else "quick")
    own = choice.data()  # which samples; how many is the recipe's
    sources = {field: getattr(own, field) for field in ("task", *form.FILES)}
    return recipe.model_copy(
        update={
            "teacher": choice.teacher,
            "student": choice.student,
            "device": choice.device,
            "data": recipe.data.model_copy(update=sources),
            "sensitivity": recipe.sensitivity.model_copy(update={"dtype": choice.dtype}),
        }
    )


def look(choice: shell.Choice, recipe: TransferRecipe) -> api.Preflight:
    """The preflight; what the Hub said is kept for ten minutes, local files are read again.

    Raises:
        BadInput: if one of the two is not a model at all, or the device is not there.
    """
    remote = any(api.asks_hub(model) for model in (choice.teacher, choice.student))
    wanted = api.dump_job(recipe)
    if remote:
        return _kept(wanted, recipe)
    saying = "Checking that these models load, which takes a few seconds the first time."
    return waiting.read("preflight", wanted, lambda: _fresh(recipe), saying)


@st.cache_data(ttl=LOOKED_UP_FOR, max_entries=16, show_spinner="Querying the Hub…")
def _kept(key: str, _recipe: TransferRecipe) -> api.Preflight:
    return _fresh(_recipe)


def _fresh(recipe: TransferRecipe) -> api.Preflight:
    return api.preflight(
        recipe.teacher,
        recipe.student,
        recipe.extraction.roles,
        device=recipe.device,
        recipe=recipe,
    )


def verdict(found: api.Preflight) -> None:
    """Whether the transfer can work, and every reason why not."""
    short = too_large(found)
    word, colour = ("fits", "green") if not short else ("fits in part", "orange")
    if not found.ok:
        word, colour = "does not fit", "red"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(word, color=colour)  # type: ignore[arg-type]
        if found.ok and short:
            st.text(
                "With this recipe, these stages are too large for this machine: "
                f"{', '.join(short)}."
            )
        if found.teacher and found.student:
            st.text(WORDS[found.vocabularies])
    for index, sentence in enumerate(found.problems):
        safe.problem(sentence, f"preflight-{index}")


def too_large(found: api.Preflight) -> list[str]:
    """Stages that do not fit and that nothing stands in for.

    A model that fits whole need not be streamed, one that is streamed need not fit whole, and
    either way row and column sums can stand in for the full map.
    """
    fits = {stage.stage: stage.fits for stage in found.stages}
    instead = {"load", "sensitivity (sums)", "sensitivity (full map)"}
    if not fits.get("sensitivity (streaming)"):
        instead = {"sensitivity (streaming)", "sensitivity (full map)"}
    return [stage for stage, fit in fits.items() if not fit and stage not in instead]


def dimensions(found: api.Preflight, origin: share.Origin) -> None:
    """The two models side by side."""
    rows = [
        {
            "dimension": d.name,
            "teacher": d.teacher,
            "student": d.student,
            "fits": "yes" if d.fits else "no: larger",
        }
        for d in found.dimensions
    ]
    written: list[Any] = ["{:,}".format] * len(rows)
    if found.teacher and found.student:
        for title, name in (("weights", "parameters"), ("bytes on disk", "bytes_on_disk")):
            values = {who: getattr(getattr(found, who), name) for who in ("teacher", "student")}
            rows.append({"dimension": title, **values, "fits": ""})
        written += [amounts.count, amounts.size]
    shown = [
        row | {who: write(row[who]) for who in ("teacher", "student")}
        for row, write in zip(rows, written, strict=True)
    ]
    _table(rows, "dimensions", "From configurations and headers alone", origin,
           "Dimensions of teacher and student side by side", shown)  # fmt: skip


def matrices(found: api.Preflight, origin: share.Origin) -> None:
    """Every kind of matrix: its shapes, whether it can be extracted, and why not."""
    rows = [
        {
            "matrix": role.role,
            "teacher": _shape(role.teacher_shape),
            "student": _shape(role.student_shape),
            "can be extracted": ("yes" if role.fits else "no")
            + (f": {role.reason}" * bool(role.reason)),
        }
        for role in found.roles
    ]
    _table(
        rows,
        "matrices",
        "Shapes [out × in] of one layer's matrices",
        origin,
        "Matrices of teacher and student with their shapes, and whether they can be extracted",
    )


def needs(found: api.Preflight, origin: share.Origin) -> None:
    """Memory, disk and time of every stage against what this machine has."""
    machine, amount = found.machine, found.work
    if machine is None or amount is None or not found.stages:
        return
    disk = f"{amounts.size(machine.disk_free)} of disk"
    memory = f"{amounts.size(machine.memory_free)} of memory on {machine.device}"
    ram = f", {amounts.size(machine.ram_free)} of RAM" if machine.device != "cpu" else ""
    caption = (
        f"Estimated for {amount.n_seed_samples} seed samples of up to {amount.max_tokens} tokens "
        f"and {amount.trainings} trainings of {amount.steps} steps × {amount.batch_size}, "
        f"{amount.dtype}. Free: {memory}{ram}, {disk}"
    )
    preview.needs(found.stages, machine, "needs", caption, origin)


def _table(
    rows: list[dict[str, Any]],
    key: str,
    caption: str,
    origin: share.Origin,
    alt: str,
    shown: list[dict[str, Any]] | None = None,
) -> None:
    if rows:
        share.table(pd.DataFrame(rows), key, caption, origin, height="content", row_height=30,
                    shown=pd.DataFrame(shown or rows), alt=alt)  # fmt: skip


def _shape(shape: tuple[int, int] | None) -> str:
    return "–" if shape is None else f"{shape[0]:,} × {shape[1]:,}"


def origin_of(recipe: TransferRecipe) -> share.Origin:
    """What says the same; no command where samples or precision are not those of the recipe."""
    shipped = api.load_recipe(recipe.name)
    if (recipe.data, recipe.sensitivity) != (shipped.data, shipped.sensitivity):
        return share.Origin.of_needs(recipe)
    words = ["nuggets", "preflight", recipe.teacher, recipe.student, "--recipe", recipe.name]
    if {"embed", "head"} & set(roles := recipe.extraction.roles):
        words += ["--roles", ",".join(roles)]
    if recipe.device != "auto":
        words += ["--device", recipe.device]
    return share.Origin.of_needs(recipe, shlex.join(words))
