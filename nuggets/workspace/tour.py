"""Whether the first-visit guide was put away, remembered per home."""

from __future__ import annotations

from nuggets.disk.commit import atomic_write, make_folder
from nuggets.disk.home import nuggets_home

FILE = "tour-hidden"


def hidden() -> bool:
    """Whether the user has put the guide away."""
    return (nuggets_home() / FILE).is_file()


def hide(away: bool = True) -> None:
    """Puts the guide away, or brings it back.

    Raises:
        NuggetsError: if the home cannot be written to.
    """
    path = nuggets_home() / FILE
    if away:
        make_folder(path.parent)
        atomic_write(path, "hidden\n")
    else:
        path.unlink(missing_ok=True)
