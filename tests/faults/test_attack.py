"""The attack of `attack.py` on this checkout: all of it held."""

from pathlib import Path

import pytest

from tests.faults.attack import ATTACKS, Victim


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    return Victim(Path(__file__).parents[2], tmp_path_factory.mktemp("attack"))


@pytest.mark.slow
def test_the_harmless_model_is_taken(victim):
    assert victim.run("preflight", victim.model, victim.model).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_broke_once_holds(attack, victim):
    attack(victim)
