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

    def __init__(self, teacher: Any, n_words: int | None = None) -> None:
        """Remembers the teacher.

        Args:
            teacher: in evaluation mode, with the student's words.
            n_words: how many ids are compared, where rows of padding follow them; all of them
                when not given.
        """
        self.teacher, self.n_words = teacher, n_words

    def __call__(self, model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        wanted = self.wanted(input_ids, labels)
        return self.distance(answer_logits(model, input_ids, labels)[0], wanted)

    def wanted(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """The teacher's log-probabilities `[answer tokens, vocab]`."""
        with torch.no_grad():
            logits = answer_logits(self.teacher, input_ids, labels)[0][..., : self.n_words]
            return log_softmax(logits, dim=-1)

    @staticmethod
    def distance(logits: Tensor, wanted: Tensor) -> Tensor:
        """KL(teacher ‖ student) of a student's logits on the teacher's words, mean over tokens."""
        own = log_softmax(logits[..., : wanted.shape[-1]], dim=-1)
        return kl_div(own, wanted, log_target=True, reduction="batchmean")
