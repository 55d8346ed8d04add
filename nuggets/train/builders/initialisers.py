"""PEFT's own initialisers on the lab's student. The torch side of `initialisers`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import get_eva_state_dict, initialize_lora_eva_weights
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor

from nuggets.compute.svd import LowRankFactors
from nuggets.data.samples import Encoded
from nuggets.extraction.adapter import peft_config, read_factors, untie
from nuggets.models.forward import pad_right
from nuggets.train.builders.lora import with_lora
from nuggets.train.lab import Lab, Trainee
from nuggets.train.losses import answer_loss
from nuggets.train.randomness import seeded


def out_of_base(lab: Lab, seed: int, kind: str) -> Trainee:
    """PiSSA or OLoRA: the start is taken out of the base, which the weights alone decide."""
    return _with_initial(with_lora(lab, seed, init_lora_weights=kind))


def by_gradient(lab: Lab, seed: int) -> Trainee:
    """LoRA-GA: gradients of all training samples, in the training's batches."""
    model, encoded = lab.fresh_student(), lab.encode(lab.train_samples(seed))
    config = _config(lab, model, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())

    def backward() -> None:
        for ids, labels in _batches(lab, encoded):
            answer_loss(model, ids, labels).backward()

    with seeded(seed, lab.device), warnings.catch_warnings():
        # The first layer reads a frozen embedding; PEFT's hooks only count, so it does not matter.
        warnings.filterwarnings("ignore", message="Full backward hook", category=UserWarning)
        preprocess_loraga(model, config, backward)
        return _started(model, config, encoded)


def by_covariance(lab: Lab, seed: int) -> Trainee:
    """CorDA: the covariance of every layer's inputs over the training samples."""
    model, encoded = lab.fresh_student(), lab.encode(lab.train_samples(seed))
    config = _config(lab, model, init_lora_weights="corda", corda_config=CordaConfig())

    def forward() -> None:
        for encoding in encoded:  # one at a time: padding would count as input
            model(input_ids=torch.tensor([encoding[0]], device=lab.device), use_cache=False)

    with seeded(seed, lab.device):
        preprocess_corda(model, config, forward)
        return _started(model, config, encoded)


def by_activation(lab: Lab, seed: int) -> Trainee:
    """EVA: A spans the principal directions of every layer's inputs; B is zero, the base unchanged.

    Left alone, EVA moves ranks from layer to layer. It is asked for the largest rank everywhere,
    and each layer takes as many of its directions, which come in order, as the recipe gives it.
    """
    model, encoded = lab.fresh_student(), lab.encode(lab.train_samples(seed))
    config = _config(lab, model, init_lora_weights="eva", eva_config=EvaConfig(rho=1.0))
    ranks = lab.ranks()
    batches = [
        {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        for ids, mask in _masked(lab, encoded)
    ]
    with seeded(seed, lab.device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EVA says where fewer directions than the rank are found
        found = get_eva_state_dict(model, batches, _uniform(config), show_progress_bar=False)
        peft: Any = get_peft_model(model, config)
        state = {f"base_model.model.{name}": found[name][:rank] for name, rank in ranks.items()}
        initialize_lora_eva_weights(peft, eva_state_dict=state)
    return Trainee(peft, encoded, n_samples=len(encoded))


def _config(lab: Lab, model: Any, **options: Any) -> PeftLora:
    ranks = lab.ranks()
    untie(model, ranks)
    scales = {name: lab.lora.scale(rank) for name, rank in ranks.items()}
    return peft_config(ranks, scales, lab.lora.dropout, **options)


def _uniform(config: PeftLora) -> PeftLora:
    ranks = [config.r, *(config.rank_pattern or {}).values()]
    return replace(config, r=max(ranks), rank_pattern={}, alpha_pattern={})


def _started(model: Any, config: PeftLora, encoded: list[Encoded]) -> Trainee:
    peft = get_peft_model(model, config)
    return _with_initial(Trainee(peft, encoded, n_samples=len(encoded)))


def _with_initial(trainee: Trainee) -> Trainee:
    """The same with its start kept: it was taken out of the base and belongs to the export."""
    initial = {
        name: LowRankFactors(a, b, b.norm(dim=0) * a.norm(dim=1), 1.0)
        for name, (a, b) in read_factors(trainee.model).items()
    }
    return Trainee(trainee.model, trainee.encoded, initial, n_samples=trainee.n_samples)


def _batches(lab: Lab, encoded: list[Encoded]) -> Iterator[tuple[Tensor, Tensor]]:
    size = lab.train.batch_size
    for start in range(0, len(encoded), size):
        yield pad_right(encoded[start : start + size], lab.device)


def _masked(lab: Lab, encoded: list[Encoded]) -> Iterator[tuple[Tensor, Tensor]]:
    size = lab.train.batch_size
    for start in range(0, len(encoded), size):
        batch = encoded[start : start + size]
        ids, _ = pad_right(batch, lab.device)
        lengths = torch.tensor([len(own) for own, _ in batch], device=lab.device)
        mask = (torch.arange(ids.shape[1], device=lab.device) < lengths[:, None]).long()
        yield ids, mask
