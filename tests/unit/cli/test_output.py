"""Tables on a narrow terminal: nothing is lost, cut or broken."""

import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuggets.cli import output

WORDS = st.text("abc.019", min_size=1, max_size=24)


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=2)
    )
)
@settings(max_examples=60, deadline=None)
def test_every_cell_of_any_table_is_whole_within_80_columns(cells):
    with output.out.capture() as drawn:
        output.table(cells[0], cells[1:])
    lines = drawn.get().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [
        [cell.strip() for cell in line[1:-1].replace("┃", "│").split("│")]
        for line in lines
        if line[0] in "┃│"
    ]
    # Blocks follow each other; each repeats the first column.
    height = len(cells)
    assert len(rows) % height == 0
    for i, row in enumerate(cells):
        found = [rows[place + i] for place in range(0, len(rows), height)]
        assert {block[0] for block in found} == {row[0]}
        assert [cell for block in found for cell in block[1:]] == row[1:]


def test_prose_runs_over_lines_beside_whole_names(capsys):
    output.table(("field", "one", "two"), [("train.lr", "word " * 30, "1e-3")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("train.lr" in line for line in lines) == 1
    assert sum(line.count("word") for line in lines) == 30


DRAWS = "from nuggets.cli.output import quiet_bars\nquiet_bars()\n{}\n"
BARS = {
    "tqdm": "from tqdm import tqdm\nfor _ in tqdm([1, 2]): pass",
    "transformers": "from transformers.utils.logging import tqdm\nfor _ in tqdm([1, 2]): pass",
    "huggingface_hub": "from huggingface_hub.utils import tqdm\nfor _ in tqdm([1, 2]): pass",
    "datasets": "from datasets.utils import tqdm\nfor _ in tqdm([1, 2]): pass",
}


@pytest.mark.parametrize("library", BARS)
def test_a_redirected_terminal_gets_no_bars_of_other_libraries(library):
    if library == "datasets":
        pytest.importorskip("datasets")
    program = [sys.executable, "-c", DRAWS.format(BARS[library])]
    redirected = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert (redirected.returncode, redirected.stderr) == (0, "")


def test_a_terminal_gets_them():
    ours, theirs = pty.openpty()
    bar = BARS["tqdm"].replace("[1, 2]", "[1, 2], ncols=60, nrows=9")  # this one has no size
    program = [sys.executable, "-c", DRAWS.format(bar)]
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    subprocess.run(program, stderr=theirs, check=True, timeout=120, env=environment)
    assert b"100%" in os.read(ours, 10_000)


def test_our_own_bar_is_drawn_on_terminals_only(capsys):
    with output.bars() as progress:
        progress.progress(1, 2, "halfway")
        progress.log("A sentence.")
    assert capsys.readouterr().err == "A sentence.\n"


def test_bytes_that_are_no_text_do_not_silence_what_is_said(capsys):
    output.say("There is no run \ud9a8.")
    output.table(("name",), [("a\udcffb",)])
    shown = capsys.readouterr()
    assert "\\ud9a8" in shown.err + shown.out
    assert "a\\udcffb" in shown.out
