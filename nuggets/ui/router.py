"""The script that Streamlit runs: page frame, sidebar, and the page that the address names."""

import runpy
from dataclasses import dataclass

import streamlit as st

from nuggets.disk.carried import carried
from nuggets.ui.frame import fields, projector, safe, shell
from nuggets.ui.models import chooser as model_chooser


@dataclass(frozen=True)
class Page:
    """One page: `pages/NAME.py`, whose address is the same word.

    Attributes:
        name: of its file.
        title: in the navigation, where it is another word.
        needs_devices: whether it looks for maps, which differ from device to device, or says what
            devices there are.
        reads_models: whether it reads configurations at once; of hub models only after somebody
            asked for them.
        chooses_models: whether the pair is chosen on the page itself, not in the sidebar.
    """

    name: str
    title: str = ""
    needs_devices: bool = False
    reads_models: bool = False
    chooses_models: bool = False


GROUPS = {
    "": (Page("home"), Page("playground")),
    "Explore": (
        Page("models", needs_devices=True, chooses_models=True),
        Page("sensitivity", needs_devices=True, reads_models=True),
        Page("alignment", needs_devices=True, reads_models=True),
    ),
    "Transfer": (
        Page("transfer", "Plan", needs_devices=True, reads_models=True),
        Page("sweeps", needs_devices=True, reads_models=True),
        Page("runs"),
        Page("results"),
    ),
    "Learn": (Page("learn", "Chapters", needs_devices=True), Page("paper")),
}
"""All pages by group, in the order of the pipeline; the first one answers at `/`.

Pages of the group without a name stand in the row themselves.
"""
PAGES = tuple(page for group in GROUPS.values() for page in group)
MOVED = {"benchmarks": "results"}
"""Addresses of before, and the pages that answer there now."""


READABLE = "<style>button kbd { color: inherit !important; opacity: 1 !important; }</style>"
"""Streamlit's hint of a shortcut has too little contrast on a primary button (WCAG 1.4.3)."""


def main() -> None:
    """Draws one view."""
    icon = str(carried("assets/icon.svg"))
    st.set_page_config("Nuggets", icon, layout="wide")
    st.html(READABLE)
    st.logo(str(carried("assets/logo.svg")), size="large", icon_image=icon)
    offered = {page.name: _page(page) for page in PAGES}
    st.session_state[shell.PAGES] = offered
    groups = {name: [offered[page.name] for page in group] for name, group in GROUPS.items()}
    moved = [_moved(old, new) for old, new in MOVED.items()]
    chosen = st.navigation(groups | {"": groups[""] + moved}, position="top")
    name = MOVED.get(chosen.url_path, chosen.url_path)
    page = next(p for p in PAGES if offered[p.name].url_path == name)
    with safe.shown_problems("frame"):
        machine = shell.sidebar(pair=not page.chooses_models)
        projector.apply()
        with safe.shown_problems("page"):
            fields.begin()
            if page.needs_devices and not shell.knows_machine():
                shell.wait_for_machine()
            elif not (page.reads_models and model_chooser.waits_for_hub(shell.current())):
                chosen.run()
        shell.describe_machine(machine)


def _moved(old: str, new: str) -> st.Page:
    """A page that no list shows: an old address, with all that it says, shows the new page."""
    script = carried(f"pages/{new}.py")

    def shown() -> None:
        runpy.run_path(str(script))

    return st.Page(shown, title=new.capitalize(), url_path=old, visibility="hidden")


def _page(page: Page) -> st.Page:
    first = page == PAGES[0]  # it has no address of its own
    return st.Page(
        carried(f"pages/{page.name}.py"),
        title=page.title or page.name.capitalize(),
        url_path="" if first else page.name,
        default=first,
    )


main()
