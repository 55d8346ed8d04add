"""`python -m benchmarks.history`: a home with 1,000 runs, and a JSONL of a million lines.

Seconds are of the processor, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT = ROOT / "tests" / "fixtures" / "v0.1.0" / "home" / "runs"
_DRAW = """
import os, time
from streamlit.testing.v1 import AppTest
from nuggets.ui import serving
from nuggets.workspace import names
serving._import_all()  # as the server does before anybody comes
app = AppTest.from_file(os.path.abspath("nuggets/ui/router.py"), default_timeout=600)
for page in ("home", "runs"):
    if page == "runs":
        app.switch_page(os.path.relpath("pages/runs.py", "nuggets/ui"))
    names._job.cache_clear()
    for visit in ("first", "again"):
        before = time.process_time()
        app.run()
        assert not app.exception, app.exception
        print(f"{page}, {visit}: {time.process_time() - before:.2f} s")
"""


def write_runs(home: Path, n: int) -> None:
    """Fills a home with runs that differ in everything that a list shows.

    Each is a finished transfer as 0.1.0 left it, with a recipe text of its own.
    """
    from nuggets.disk.commit import make_folder
    from nuggets.runs.schema import now

    (source,) = LEFT.glob("*quick*")
    record = json.loads((source / "record.json").read_text())
    recipe = (source / "recipe.yaml").read_text()
    runs = home / "runs"
    make_folder(runs)
    for index in range(n):
        made = now() - timedelta(minutes=index)
        run_id = f"{made:%Y%m%d-%H%M%S}-quick-{index:04x}"
        shutil.copytree(source, runs / run_id)
        own = {"id": run_id, "status": ("done", "failed", "cancelled", "running")[index % 4]}
        (runs / run_id / "record.json").write_text(json.dumps(record | own, indent=1))
        (runs / run_id / "recipe.yaml").write_text(f"{recipe}# {index}\n")


def write_samples(path: Path, n: int) -> None:
    """A file of `n` samples that all differ."""
    with path.open("w") as file:
        for index in range(n):
            turns = [
                {"role": "user", "content": f"What is {index} + {index % 97}?"},
                {"role": "assistant", "content": str(index + index % 97)},
            ]
            line = {"dataset": "sums", "id": f"sums_{index}", "messages": turns}
            file.write(json.dumps(line) + "\n")


def seconds_and_peak(command: list[str], home: Path) -> tuple[float, float]:
    """Seconds of the processor and megabytes at the peak of a command."""
    environment = {**os.environ, "NUGGETS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, after.ru_maxrss / 1000


def main() -> None:
    """Prints one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--lines", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        write_runs(home, arguments.runs)
        command = [sys.executable, "-m", "nuggets", "list"]
        print(f"nuggets list, {arguments.runs} runs: {seconds_and_peak(command, home)[0]:.2f} s")
        file = Path(folder) / "samples.jsonl"
        write_samples(file, arguments.lines)
        used, peak = seconds_and_peak([*command[:-1], "samples", str(file)], home)
        print(f"nuggets samples, {arguments.lines:,} lines: {used:.1f} s, at most {peak:.0f} MB")
        environment = {**os.environ, "NUGGETS_HOME": str(home), "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", _DRAW], env=environment, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
