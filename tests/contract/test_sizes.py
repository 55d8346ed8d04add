"""Functions, files, pages and folders stay small enough to be read."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("nuggets/**/*.py"), *ROOT.glob("pages/*.py")]


def test_no_function_is_longer_than_60_lines():
    long = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


def test_no_file_is_longer_than_400_lines_and_no_page_than_150():
    for file in FILES:
        most = 150 if file.parent.name == "pages" else 400
        assert len(file.read_text(encoding="utf-8").splitlines()) <= most, file


def test_no_folder_holds_more_than_16_python_files():
    assert max(Counter(file.parent for file in FILES).values()) <= 16
