"""The script that Streamlit runs: page frame, sidebar, and the page that the address names."""

from pathlib import Path

import streamlit as st

from nuggets.ui import model_chooser, shell

ROOT = Path(__file__).parents[2]
# In the order of the pipeline; file name, title and address are one word.
PAGES = (
    "home",
    "models",
    "sensitivity",
    "alignment",
    "transfer",
    "benchmarks",
    "paper",
    "playground",
    "runs",
    "learn",
)
NEED_DEVICES = ("models", "sensitivity", "alignment", "transfer", "learn")
"""Pages that look for maps, which differ from device to device, or say what there is."""

READ_MODELS = ("sensitivity", "alignment", "transfer")
"""Pages that read configurations at once; of hub models only after somebody asked for them."""


def main() -> None:
    """Draws one view."""
    icon = str(ROOT / "assets" / "icon.svg")
    st.set_page_config("Nuggets", icon, layout="wide")
    st.logo(str(ROOT / "assets" / "logo.svg"), size="large", icon_image=icon)
    pages = {name: _page(name) for name in PAGES}
    st.session_state[shell.PAGES] = pages
    chosen = st.navigation(list(pages.values()), position="top")
    machine = shell.sidebar(chosen.url_path)
    if chosen.url_path in NEED_DEVICES and not shell.knows_machine():
        shell.wait_for_machine()
    elif chosen.url_path not in READ_MODELS or not model_chooser.waits_for_hub(shell.current()):
        chosen.run()
    shell.describe_machine(machine)


def _page(name: str) -> st.Page:
    path = ROOT / "pages" / f"{name}.py"
    # The default page answers at "/" and has no address of its own.
    return st.Page(
        path,
        title=name.capitalize(),
        url_path="" if name == "home" else name,
        default=name == "home",
    )


main()
