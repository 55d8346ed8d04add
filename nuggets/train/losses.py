"""What training minimises: the answer's likelihood, or the distance to the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from nuggets.models.forward import answer_logits

Loss = Callable[[Any, Tensor, Tensor], Tensor]
"""`(model, input_ids [items, length], labels [items, length])` → a scalar."""


def answer_loss(model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the answer tokens of a batch, the end included."""
    return cross_entropy(*answer_logits(model, input_ids, labels))


class DistillationLoss:
    """KL(teacher ‖ student) per answer token, mean (Hinton et al. 2015, temperature 1)."""

    def __init__(self, teacher: Any) -> None:
        """Remembers the teacher: in evaluation mode, with the student's vocabulary."""
        self.teacher = teacher

    def __call__(self, model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        wanted = self.wanted(input_ids, labels)
        return self.distance(answer_logits(model, input_ids, labels)[0], wanted)

    def wanted(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """The teacher's log-probabilities `[answer tokens, vocab]`."""
        with torch.no_grad():
            return log_softmax(answer_logits(self.teacher, input_ids, labels)[0], dim=-1)

    @staticmethod
    def distance(logits: Tensor, wanted: Tensor) -> Tensor:
        """KL(teacher ‖ student) of a student's logits, mean over tokens."""
        return kl_div(log_softmax(logits, dim=-1), wanted, log_target=True, reduction="batchmean")
