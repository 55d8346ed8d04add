"""Where a transfer's settings come from, and how they are taken away."""

from __future__ import annotations

import streamlit as st

from nuggets import api
from nuggets.errors import BadInput, NuggetsError
from nuggets.recipe import TransferRecipe
from nuggets.ui import form, safe, shell

UPLOADED = "uploaded"
OF_RUN = "of the chosen run"


def picker(choice: shell.Choice) -> TransferRecipe:
    """Draws the choice of a recipe and returns it: shipped, uploaded, or of the chosen run."""
    options = list(api.shipped_recipes())
    of_run = _recipe_of(choice.run)
    if of_run is not None:
        options.append(OF_RUN)
    if UPLOADED in st.session_state.get("nuggets-recipes", {}):
        options.append(UPLOADED)
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
        with st.popover("Upload a recipe"):
            _upload()
        with st.popover("Use your own data"):
            _upload_data()
    base = of_run if name == OF_RUN and of_run is not None else _named(name)
    st.text(
        base.description or f"Settings of {choice.run}." if name == OF_RUN else base.description
    )
    return base


def own_data() -> str | None:
    """The user's own JSONL, if one is chosen; it is part of the address."""
    if not st.session_state.get("file") and "file" not in st.query_params:
        return None
    path = st.text_input(
        "Own samples instead of the task (empty: the task)",
        key="file",
        bind="query-params",
        help="One JSONL; a fifth of it, chosen by the ids, is kept for the test.",
    )
    return path.strip() or None


def take_away(recipe: TransferRecipe) -> None:
    """The recipe as YAML, as a command, and as Python."""
    with st.expander("This transfer as YAML, as a command, as Python"):
        text = api.dump_job(recipe)
        st.download_button(
            "Download the recipe",
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


def _named(name: str | None) -> TransferRecipe:
    uploaded = st.session_state.get("nuggets-recipes", {})
    if name in uploaded:
        return uploaded[name]
    return api.load_recipe(name if name in api.shipped_recipes() else "quick")


def _recipe_of(run_id: str | None) -> TransferRecipe | None:
    try:
        job = api.job_of(api.open_run(run_id)) if run_id else None
    except NuggetsError:
        return None
    return job if isinstance(job, TransferRecipe) else None


def _picked() -> None:
    """A new recipe brings its own pair, task and controls."""
    name = st.session_state.get("recipe")
    found = _recipe_of(st.session_state.get("run")) if name == OF_RUN else None
    base = found or _named(name)
    form.reset(base)
    shell.choose(teacher=base.teacher, student=base.student)
    if base.data.task:
        shell.choose(task=base.data.task)
    st.session_state["file"] = base.data.file or ""


def _upload() -> None:
    file = st.file_uploader("A recipe as YAML", type=["yaml", "yml"], key="recipe-file")
    if file is None:
        return
    with safe.shown_problems("upload"):
        try:
            job = api.load_job(file.getvalue().decode())
        except UnicodeDecodeError:
            raise BadInput("The file is not text in UTF-8.") from None
        if not isinstance(job, TransferRecipe):
            raise BadInput("The file holds another kind of job, not a transfer.")
        st.session_state.setdefault("nuggets-recipes", {})[UPLOADED] = job
        st.button("Use it", key="use-upload", on_click=_use_upload)


def _use_upload() -> None:
    st.session_state["recipe"] = UPLOADED
    _picked()


def _upload_data() -> None:
    file = st.file_uploader(
        "Samples as JSONL",
        type=["jsonl", "json"],
        key="data-file",
        help="Lines with messages, prompt and completion, or question, choices and answer.",
    )
    if file is None:
        return
    with safe.shown_problems("data"):
        path = api.save_upload(file.getvalue())
        st.text("Every line is a sample.")
        st.button("Use it", key="use-data", on_click=_use_data, args=(str(path),))


def _use_data(path: str) -> None:
    st.session_state["file"] = path
