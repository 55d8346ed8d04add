"""Processes that are forked from one that has imported what they need."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

import pytest

_IMPORTED = (
    "tests.integration.cell_worker",
    "nuggets.train.finetune",
    "transformers.trainer",
    "peft",
    "accelerate",
    "pytest",
)


@pytest.fixture(scope="session")
def forked() -> ForkServerContext:
    """One process from which others are forked, in the surroundings in which no test runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    forkserver.ensure_running()
    return context
