"""What training minimises: the answer's likelihood, or the distance to the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, pad

from nuggets.data.samples import IGNORED
from nuggets.models.piecewise.answers import Judge, answers_of, at_answers, head_of

Loss = Callable[[Any, Tensor, Tensor], Tensor]
"""`(model, input_ids [items, length], labels [items, length])` → a scalar."""


def answer_loss(model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the answer tokens of a batch, the end included."""
    return at_answers(model, input_ids, labels, lambda answers: answers.means(surprise)[0])


def surprise(logits: Tensor, targets: Tensor, at: slice | None = None) -> Tensor:
    """Negative log-likelihood of every target `[lanes, some]`."""
    flat = cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view_as(targets)


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
        judge = self.distance(self.states(input_ids, labels))
        return at_answers(model, input_ids, labels, lambda answers: answers.means(judge)[0])

    @torch.no_grad()
    def states(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """The teacher's states `[1, answer tokens, hidden]` where it predicts them."""
        return answers_of(self.teacher, input_ids, labels).states

    def distance(self, states: Tensor) -> Judge:
        """KL(teacher ‖ student) of every position, from the teacher's states there."""
        head = head_of(self.teacher)

        def judge(logits: Tensor, targets: Tensor, at: slice) -> Tensor:
            with torch.no_grad():
                theirs = head(states[:, at]).float()
                wanted = log_softmax(theirs[..., : self.n_words], dim=-1)
            n, words = wanted.shape[1:]
            own = log_softmax(logits[:, :n, :words], dim=-1)
            distances = kl_div(own, wanted, log_target=True, reduction="none").sum(-1)
            return pad(distances, (0, targets.shape[1] - n))  # where other lanes have answers

        return judge
