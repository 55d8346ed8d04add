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


def test_a_page_says_what_ray_needs(open_page, monkeypatch):
    monkeypatch.setenv(VARIABLE, "{kind: ray, address: 'head:6379', gpus: 2}")
    said = shown(open_page("runs"))
    assert "Runs compute in the Ray cluster head:6379, with 2 GPUs, 1 CPU a run." in said
