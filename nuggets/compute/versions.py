"""Versions of the packages that a result depends on."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from platform import python_version

from nuggets import __version__

_PACKAGES = ("torch", "transformers", "peft", "safetensors")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; imports none of them."""
    packages = {package: _version(package) for package in _PACKAGES}
    return {"python": python_version(), "nuggets": __version__, **packages}


@cache
def _version(package: str) -> str:
    """What this process would import: it does not change while the process lives."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
