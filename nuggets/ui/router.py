"""The script that Streamlit runs: page frame, sidebar, and the page that the address names."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from nuggets.ui.frame import safe, shell
from nuggets.ui.models import chooser as model_chooser

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Page:
    """One page: `pages/NAME.py`, whose title and address are the same word.

    Attributes:
        name: of its file.
        needs_devices: whether it looks for maps, which differ from device to device, or says what
            devices there are.
        reads_models: whether it reads configurations at once; of hub models only after somebody
            asked for them.
        chooses_models: whether the pair is chosen on the page itself, not in the sidebar.
    """

    name: str
    needs_devices: bool = False
    reads_models: bool = False
    chooses_models: bool = False


PAGES = (
    Page("home"),
    Page("models", needs_devices=True, chooses_models=True),
    Page("sensitivity", needs_devices=True, reads_models=True),
    Page("alignment", needs_devices=True, reads_models=True),
    Page("transfer", needs_devices=True, reads_models=True),
    Page("benchmarks"),
    Page("paper"),
    Page("playground"),
    Page("runs"),
    Page("learn", needs_devices=True),
)
"""All pages, in the order of the pipeline; the first one answers at `/`."""


def main() -> None:
    """Draws one view."""
    icon = str(ROOT / "assets" / "icon.svg")
    st.set_page_config("Nuggets", icon, layout="wide")
    st.logo(str(ROOT / "assets" / "logo.svg"), size="large", icon_image=icon)
    offered = {page.name: _page(page) for page in PAGES}
    st.session_state[shell.PAGES] = offered
    chosen = st.navigation(list(offered.values()), position="top")
    page = next(p for p in PAGES if offered[p.name].url_path == chosen.url_path)
    with safe.shown_problems("frame"):
        machine = shell.sidebar(pair=not page.chooses_models)
        with safe.shown_problems("page"):
            if page.needs_devices and not shell.knows_machine():
                shell.wait_for_machine()
            elif not (page.reads_models and model_chooser.waits_for_hub(shell.current())):
                chosen.run()
        shell.describe_machine(machine)


def _page(page: Page) -> st.Page:
    first = page == PAGES[0]  # it has no address of its own
    return st.Page(
        ROOT / "pages" / f"{page.name}.py",
        title=page.name.capitalize(),
        url_path="" if first else page.name,
        default=first,
    )


main()
