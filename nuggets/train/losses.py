"""What training minimises: the answer's likelihood, or the distance to the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from nuggets.bench.evaluate import answer_logits

Loss = Callable[[Any, Tensor, Tensor], Tensor]
"""`(model, input_ids [items, length], labels [items, length])` → a scalar."""


def answer_loss(model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the answer tokens of a batch, the end included."""
    return cross_entropy(*answer_logits(model, input_ids, labels))


def distillation_loss(teacher: Any) -> Loss:
    """KL(teacher ‖ student) per answer token, mean (Hinton et al. 2015, temperature 1).

    Args:
        teacher: in evaluation mode, with the student's vocabulary.
    """

    def loss(model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = log_softmax(answer_logits(teacher, input_ids, labels)[0], dim=-1)
        ours = log_softmax(answer_logits(model, input_ids, labels)[0], dim=-1)
        return kl_div(ours, wanted, log_target=True, reduction="batchmean")

    return loss
