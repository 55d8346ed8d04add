"""Whole models side by side, for every architecture: each lane is the model that it was."""

from __future__ import annotations

import pytest
import torch

from nuggets.models.loading import load_model
from nuggets.models.references import parse_ref
from nuggets.train.lab import Trainee
from nuggets.train.lanes.model import LaneModel, Unstackable
from tests.architectures import EACH
from tests.unit.train.tiny_lab import make_lab

STILL = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
}
"""Architectures whose configs have dropout where nothing is said."""
ALONE = ("gemma", "gemma2", "gemma3_text", "gpt2")
"""Their embedding multiplies, or positions have one that no lane's rows belong to."""


@pytest.mark.parametrize("kind", EACH)
def test_stacked_models_compute_what_each_computes_alone(kind, tiny):
    folders = [tiny(kind, seed=seed, **STILL.get(kind, {})) for seed in (1, 2)]
    models = [load_model(parse_ref(str(folder))) for folder in folders]
    trainees = [Trainee(model, [], own_base=True) for model in models]
    if kind in ALONE:
        with pytest.raises(Unstackable):
            LaneModel(make_lab(tiny), trainees, seeds=[0, 0], merge=True)
        return
    lanes = LaneModel(make_lab(tiny), trainees, seeds=[0, 0], merge=True)
    ids = torch.tensor([[3, 5, 7, 9], [4, 6, 8, 2]])
    logits = lanes.model(input_ids=torch.cat([ids, ids])).logits
    lanes.parameters.differentiate(logits.square().mean())
    for lane, model in enumerate(models):
        alone = model(input_ids=ids).logits
        torch.testing.assert_close(logits[2 * lane : 2 * lane + 2], alone, atol=1e-5, rtol=1e-4)
        alone.square().mean().div(2).backward()
        weights = dict(model.named_parameters())
        expected = torch.cat([weights[name].grad.reshape(-1) for name in lanes.parameters.views])
        torch.testing.assert_close(lanes.parameters.grad[lane], expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {"attention_dropout": 0.1}),
        ("seed_oss", {"attention_dropout": 0.0, "residual_dropout": 0.1}),
        ("starcoder2", {"embedding_dropout": 0.1}),
        ("phi", {"resid_pdrop": 0.1}),
        ("gpt2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.1}),
    ],
)
def test_students_with_dropout_of_their_own_are_trained_alone(kind, config, tiny):
    model = load_model(parse_ref(str(tiny(kind, **config))))
    with pytest.raises(Unstackable, match="dropout inside the student"):
        LaneModel(make_lab(tiny), [Trainee(model, [], own_base=True)], seeds=[0], merge=True)
