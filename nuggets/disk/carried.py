"""What lies at the top of the repository and travels in the package: app, pages, models, reports.

`nuggets/carried` holds links to it, and an installed package their files.
"""

from __future__ import annotations

from pathlib import Path

CARRIED = Path(__file__).parents[1] / "carried"


def carried(name: str) -> Path:
    """Where something of the repository's top is, such as `assets/pairs`; links are followed."""
    return (CARRIED / name).resolve()
