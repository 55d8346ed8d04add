"""Where a transfer's settings come from, how they are kept, compared and taken away."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from nuggets import api, demo
from nuggets.errors import BadInput, NuggetsError
from nuggets.recipe import TransferRecipe
from nuggets.ui.frame import consent, fields, safe, share, shell
from nuggets.ui.transfer import form, own_samples

UPLOADED = "uploaded"
OF_RUN = "of the chosen run"
SHOWN = "as shown here"
REFUSED = "recipe-refused"


def picker(choice: shell.Choice) -> TransferRecipe:
    """Draws the choice of a recipe and returns it: shipped, saved, uploaded, or of the run."""
    of_run = _recipe_of(choice.run)
    options = _names(of_run)
    fields.check("recipe", options.__contains__, f"one of {', '.join(options)}")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Recipe",
            options,
            index=options.index("quick"),
            key="recipe",
            bind="query-params",
            on_change=_picked,
            width=240,
        )
        if not demo.on():
            with st.popover("Upload a recipe"):
                _upload()
        own_samples.popover()
    safe.refused(REFUSED)
    base = _named(name, of_run)
    st.text(
        base.description
        or (
            f"Settings of the run {api.about(api.open_run(choice.run)).title}."
            if name == OF_RUN and choice.run
            else ""
        )
    )
    return base


def choose(name: str) -> None:
    """Chooses a recipe with its pair, task and controls; from a callback only."""
    st.session_state["recipe"] = name
    _picked()


def keep(recipe: TransferRecipe) -> None:
    """Saving under a name, and deleting; what is saved here, the command line runs."""
    if demo.on():
        return
    with st.popover("Save…", key="save", width="stretch"):
        name = st.text_input("Name", key="save-name", placeholder="one word", max_chars=60)
        saved = list(api.own_recipes())
        taken = name.strip() in saved
        replace = taken and st.checkbox("Replace the recipe with this name", key="save-replace")
        st.button(
            "Save recipe",
            key="save-now",
            type="primary",
            on_click=_save,
            args=(recipe, name, replace),
        )
        st.code(f"nuggets run {name.strip() or 'NAME'}", language="bash")
        if saved:
            gone = st.selectbox("Saved recipes", saved, key="saved")
            st.button("Delete", key="delete-recipe", on_click=_delete, args=(gone,))


def compare(recipe: TransferRecipe, choice: shell.Choice) -> None:
    """In which fields two recipes differ, side by side."""
    with st.expander("Compare with another recipe"):
        of_run = _recipe_of(choice.run)
        names = _names(of_run)
        left, right = st.columns(2)
        with left:
            one = st.selectbox("Left", [SHOWN, *names], key="left", bind="query-params")
        with right:
            other = st.selectbox("Right", names, key="right", bind="query-params")
        with safe.shown_problems("compare"):
            found = recipe if one == SHOWN else _named(one, of_run)
            rows = api.compare_recipes({"left": found, "right": _named(other, of_run)})
            if not rows:
                st.text("The recipes are the same.")
                return
            lines = [(field, *values) for field, values in rows.items()]
            by_name = {one, other} <= {*api.shipped_recipes(), *api.own_recipes()}
            names_ = (one, other if other != one else f"{other} (right)")
            share.table(
                pd.DataFrame(lines, columns=["field", *names_]),
                "recipe-difference",
                f"{len(rows)} fields differ",
                share.Origin(f"nuggets recipes {one} {other}" if by_name else None),
                height="content",
            )


@st.fragment
def export(recipe: TransferRecipe) -> None:
    """The recipe as YAML, as a command, and as Python.

    Written when it is opened: what colours code takes a third of a second of the browser's time.
    """
    part = st.expander("Export this recipe: YAML, command, Python", key="recipe-export",
                       on_change="rerun")  # fmt: skip
    if not part.open:
        return
    with part:
        text = api.dump_job(recipe)
        st.download_button(
            "Download recipe",
            text,
            "recipe.yaml",
            "application/yaml",
            key="recipe-yaml",
            on_click="ignore",
        )
        yaml_tab, command_tab, python_tab = st.tabs(["YAML", "Command", "Python"])
        yaml_tab.code(text, language="yaml", height=320)
        command_tab.code(api.as_command(recipe), language="bash", wrap_lines=True)
        python_tab.code(api.as_python(recipe), language="python")


def _names(of_run: TransferRecipe | None) -> list[str]:
    """Every recipe that can be chosen now."""
    found = [*api.shipped_recipes(), *api.own_recipes()]
    if of_run is not None:
        found.append(OF_RUN)
    return found + ([UPLOADED] if UPLOADED in st.session_state.get("nuggets-recipes", {}) else [])


def _named(name: str | None, of_run: TransferRecipe | None) -> TransferRecipe:
    """A recipe by its name in the list; the simplest one for a name that is not there.

    Raises:
        BadInput: if its file cannot be read any more.
    """
    uploaded = st.session_state.get("nuggets-recipes", {})
    if name in uploaded:
        return uploaded[name]
    if name == OF_RUN and of_run is not None:
        return of_run
    known = name in api.shipped_recipes() or name in api.own_recipes()
    return api.load_recipe(name if name and known else "quick")


def _recipe_of(run_id: str | None) -> TransferRecipe | None:
    try:
        job = api.strangers.job_of(api.open_run(run_id)) if run_id else None
    except NuggetsError:
        return None
    return job if isinstance(job, TransferRecipe) else None


@safe.refused_later(REFUSED)
def _picked() -> None:
    """A new recipe brings its own pair, task, device and controls."""
    base = _named(st.session_state.get("recipe"), _recipe_of(st.session_state.get("run")))
    form.reset(base)
    shell.choose(teacher=base.teacher, student=base.student, device=base.device)
    api.remember(base.data)
    if task := api.name_of(base.data):
        shell.choose(task=task)
    else:
        files = ", ".join(filter(None, (getattr(base.data, name) for name in form.FILES)))
        raise BadInput(
            f"The recipe's samples are no longer on this machine ({files}). Choose a task in the "
            "sidebar, or upload them again."
        )


@safe.refused_later(REFUSED)
def _save(recipe: TransferRecipe, name: str, replace: bool) -> None:
    api.save_recipe(recipe, name, replace)
    st.session_state["recipe"] = name.strip()
    st.toast(f"Saved as {name.strip()}.")


@safe.refused_later(REFUSED)
def _delete(name: str) -> None:
    api.delete_recipe(name)
    if st.session_state.get("recipe") == name:
        choose("quick")


def _upload() -> None:
    file = st.file_uploader("A recipe as YAML", type=["yaml", "yml"], key="recipe-file")
    if file is None:
        return
    with safe.shown_problems("upload"):
        try:
            found = api.parse_recipe(file.getvalue().decode())
        except UnicodeDecodeError:
            raise BadInput("The file is not UTF-8 text.") from None
        ticked = consent.ticked(api.strangers.wants(found), "upload")
        st.button("Use this recipe", key="use-upload", on_click=_use_upload, args=(found, ticked))


@safe.refused_later(REFUSED)
def _use_upload(recipe: TransferRecipe, allowed: set[str]) -> None:
    api.strangers.check_upload(recipe, allowed)
    st.session_state.setdefault("nuggets-recipes", {})[UPLOADED] = recipe
    choose(UPLOADED)
