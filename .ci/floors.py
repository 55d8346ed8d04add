"""Prints the lowest versions that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in sorted({line for group in groups for line in group}):
    if floor := re.match(r"([\w-]+)>=([\w.]+)", requirement):
        print("==".join(floor.groups()))
