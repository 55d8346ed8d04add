"""What the documents promise: a README that is read, and links that lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LISTED = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split()
DOCUMENTS = [name for name in _LISTED if not name.startswith("tests/")] or ["README.md"]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().split()) < 1200


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_relative_link_of_a_document_leads_to_a_file(name: str):
    path = ROOT / name
    links = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
