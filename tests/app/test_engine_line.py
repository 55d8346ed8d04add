"""The pages that start runs say where these compute, and why they could not."""

import pytest

from nuggets.runs.engines.settings import VARIABLE
from tests.app.conftest import shown


@pytest.mark.parametrize("page", ["runs", "transfer"])
def test_a_page_says_where_runs_compute(open_page, monkeypatch, page):
    monkeypatch.setenv(VARIABLE, "{kind: slurm, partition: gpu}")
    said = shown(open_page(page))
    assert "Runs compute on the cluster, as Slurm jobs in partition gpu with 1 GPU" in said
    assert "There is no sbatch here" in said
