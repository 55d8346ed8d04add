"""Runs the code of the notebooks given, cell after cell, as Jupyter would; a failure ends it."""

import json
import sys
from pathlib import Path

for path in map(Path, sys.argv[1:]):
    names: dict[str, object] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), names)  # noqa: S102
    print(f"{path}: every cell ran")
