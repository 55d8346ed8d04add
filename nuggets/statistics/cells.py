"""What one arm did with one seed: the material of every report."""

from __future__ import annotations

from pydantic import Field

from nuggets.frozen import Frozen
from nuggets.statistics.verdict import StoredRole


class Trial(Frozen):
    """One learning rate that a seed was trained at.

    `value` (of the judged metric) and `loss` are means over the validation items, `None` where
    training diverged; `seconds` is what this training took.
    """

    lr: float
    value: float | None
    loss: float | None
    seconds: float = 0.0


class Learned(Frozen):
    """What an arm can say of its own training items: below some of it, no comparison means much.

    `exact_match` and `loss` are means over `n` training items. `guessing` is the loss per answer
    token of one who knows nothing but how frequent each answer token is, in nats.
    """

    exact_match: float
    loss: float
    guessing: float
    n: int


class CellOutcome(Frozen):
    """What one arm did with one seed; a seed that failed has no cell.

    `role` and `treatment` are its part in the comparison (see `verdict.Part`).
    `items` are item ids, the same in the same order for all cells; `outcomes` holds per metric
    one value per item, `old_skills` per skill one 0/1 value per item of that skill. `curve` is
    (step, mean of the main metric). `learning_rate` is the one that was kept of `trials`, which
    is empty where a rate was given. `seconds` and `flops` are what building and one training
    took; evaluation is not counted.
    """

    arm: str
    role: StoredRole
    treatment: str = ""
    seed: int
    items: list[str]
    outcomes: dict[str, list[float]]
    old_skills: dict[str, list[float]] = Field(default_factory=dict)
    curve: list[tuple[int, float]] = Field(default_factory=list)
    seconds: float = 0.0
    trainable_parameters: int = 0
    learning_rate: float | None = None
    trials: list[Trial] = Field(default_factory=list)
    learned: Learned | None = None
    samples: int = 0
    steps: int = 0
    flops: float = 0.0
