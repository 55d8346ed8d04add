"""How the arms of `aligned` are built: ridge maps between two models, and their use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from nuggets.alignment.linear_maps import ridge_map
from nuggets.alignment.states import collect_states, make_batches
from nuggets.data.samples import IGNORED, Encoded
from nuggets.extraction.adapter import ADAPTER, add_lora
from nuggets.models.architecture import ArchSpec
from nuggets.models.forward import blocks_of, decoder_of, evaluation, pad_right
from nuggets.sensitivity.selected_entries import top
from nuggets.train.builders.controls import states_of_another
from nuggets.train.builders.lora import with_lora
from nuggets.train.config import TrainConfig
from nuggets.train.flops import training_flops
from nuggets.train.lab import Lab, Trainee
from nuggets.train.losses import Loss, answer_loss
from nuggets.train.randomness import seeded

if TYPE_CHECKING:
    from nuggets.train.arms.aligned import Aligned, Hints, Memories, Regressed, States

Factors = dict[str, tuple[Tensor, Tensor]]
"""Student module → A `[r, in]` and B `[out, r]`."""

FFN = ("gate", "up", "down")


def with_memories(lab: Lab, seed: int, arm: Memories) -> Trainee:
    """The r least used neurons of every student layer become aligned teacher neurons.

    A neuron of an FFN is a key (its rows of gate and up) and a value (its column of down; Geva et
    al. 2021, arXiv 2012.14913). With ridge maps `x_t ≈ x_s·M` of what the FFNs of two layers read
    and `h_s ≈ h_t·N` of what leaves the layers, the teacher's key k becomes `k·Mᵀ` and its value v
    `Nᵀ·v`.
    """
    encoded = _probes(lab, seed, arm)
    reads = [
        _inputs(model, spec, encoded, "gate")
        for model, spec in ((lab.student, lab.student_spec), (lab.teacher, lab.teacher_spec))
    ]
    uses = _inputs(lab.student, lab.student_spec, encoded, "down")
    outs = [
        collect_states(model, spec, encoded, "all")[1:]
        for model, spec in ((lab.teacher, lab.teacher_spec), (lab.student, lab.student_spec))
    ]
    factors: Factors = {}
    for student, teacher in lab.plan().alignment.pairs:
        into, _ = ridge_map(reads[0][student], reads[1][teacher])
        back, _ = ridge_map(outs[0][teacher], outs[1][student])
        maps = _permuted(into, back, seed, student) if arm.control else (into, back)
        # What a neuron adds to the stream is its activation times its value, so |a|·‖v‖ says how
        # much it is used: its size alone would call a large neuron that never fires a used one.
        width = lab.student.get_submodule(lab.student_spec.module("down", student)).weight
        use = np.abs(uses[student]).mean(0) * width.detach().float().norm(dim=0).cpu().numpy()
        factors |= _replacement(lab, student, teacher, maps, use)
    return _started(
        lab,
        seed,
        factors,
        "Step 0 differs from the student because it already contains the memories.",
    )


def with_regression(lab: Lab, seed: int, arm: Regressed) -> Trainee:
    """A rank-r change of every FFN output matrix towards the teacher's mapped states.

    ΔW·x ≈ N(h_t) − h_s, where x is what the matrix reads, h_s and h_t are what leaves the two
    layers, and N is a ridge map from the teacher's states to the student's. In the control the
    right-hand side is another token's; as such a regression finds little, its change is scaled to
    the norm of the arm's own.
    """
    encoded = _probes(lab, seed, arm)
    reads = _inputs(lab.student, lab.student_spec, encoded, "down")
    ours, theirs = (
        collect_states(model, spec, encoded, "all")[1:]
        for model, spec in ((lab.student, lab.student_spec), (lab.teacher, lab.teacher_spec))
    )
    factors: Factors = {}
    for student, teacher in lab.plan().alignment.pairs:
        module = lab.student_spec.module("down", student)
        weight, bias = ridge_map(theirs[teacher], ours[student])
        missing = theirs[teacher] @ weight + bias - ours[student]
        if module not in lab.ranks():
            continue
        own = reduced_rank(reads[student], missing, lab.ranks()[module])
        if arm.control:
            order = np.random.default_rng([seed, student]).permutation(len(missing))
            norm = own[0].norm()  # that of B·A too: the columns of B are orthonormal
            a, b = reduced_rank(reads[student], missing[order], lab.ranks()[module])
            own = a * (norm / a.norm().clamp_min(1e-12)), b
        factors[module] = own
    return _started(
        lab,
        seed,
        factors,
        "Step 0 differs from the student because it already imitates the teacher.",
    )


def with_states(lab: Lab, seed: int, arm: States) -> Trainee:
    """A plain LoRA on the answer's likelihood and on closeness to the teacher's states.

    The loss is the answers' plus `weight` times the mean over layers of ‖M(h_s) − h_t‖² / Var(h_t),
    where h are states after a block and M is a ridge map, fitted once, before training.
    """
    encoded = _probes(lab, seed, arm)
    ours, theirs = (
        torch.from_numpy(collect_states(model, spec, encoded, "all")[1:])
        for model, spec in ((lab.student, lab.student_spec), (lab.teacher, lab.teacher_spec))
    )
    maps = []
    for student, teacher in lab.plan().alignment.pairs:
        weight, bias = ridge_map(ours[student].numpy(), theirs[teacher].numpy())
        scale = float(theirs[teacher].var(dim=0).sum()) or 1.0
        maps.append((teacher, student, _tensor(weight, lab), _tensor(bias, lab), scale))
    targets = theirs.split([len(ids) for ids, _ in encoded], dim=1)
    if arm.control:
        targets = states_of_another(encoded, targets, seed)
    plain = with_lora(lab, seed)
    pull = _pull(lab, encoded, targets, maps)

    def loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
        return answer_loss(model, ids, labels) + arm.weight * pull(model, ids)

    return Trainee(
        plain.model,
        plain.encoded,
        loss=loss,
        n_samples=plain.n_samples + arm.n_general,
        note="Also uses the teacher's states on general samples, but never on held-out items.",
    )


def with_hints(lab: Lab, seed: int, arm: Hints) -> Trainee:
    """A copy of the student that learned the teacher's states, with a plain LoRA."""
    model = lab.fresh_student()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    pairs = lab.plan().alignment.pairs
    sizes = lab.student_spec.hidden_size, lab.teacher_spec.hidden_size
    with seeded(seed, lab.device):
        model.hint_maps = nn.ModuleList(nn.Linear(*sizes) for _ in pairs).to(lab.device)
    encoded = lab.encode(lab.general_samples(arm.n_general, seed))
    config = TrainConfig(
        steps=arm.steps,
        batch_size=arm.batch,
        lr=arm.lr,
        schedule="cosine",
        checkpoint_every=lab.train.checkpoint_every,
        max_length=lab.train.max_length,
    )
    loss = _hint_loss(lab, arm)
    flops = training_flops(model, encoded, config, seed, loss, lab.device)
    work = lab.workspace
    from nuggets.train.finetune import finetune  # Trainer imports what small models never need

    log = finetune(
        model,
        encoded,
        config,
        seed,
        work.folder and work.folder / "hints",
        device=lab.device,
        progress=work.progress,
        loss=loss,
    )
    del model.hint_maps
    samples = lab.train_samples(seed)
    with seeded(seed, lab.device):
        peft = add_lora(model, lab.ranks(), lab.lora)
    return Trainee(
        peft,
        lab.encode(samples),
        own_base=True,
        n_samples=len(samples) + min(arm.n_general, arm.steps * arm.batch),
        seconds=log.seconds,
        flops=flops,
        note="First learns the teacher's states on general samples, but never on held-out items.",
    )


def _hint_loss(lab: Lab, arm: Hints) -> Loss:
    """The answers' likelihood, and the teacher's states through the model's own maps."""
    pairs = lab.plan().alignment.pairs

    def loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad(), _recorded(lab.teacher, lab.teacher_spec) as theirs:
            decoder_of(lab.teacher, lab.teacher_spec)(input_ids=ids, use_cache=False)
        with _recorded(model, lab.student_spec) as ours:
            answers = answer_loss(model, ids, labels)
        # Answers end a sample: what comes after the last of their tokens is padding.
        tokens = (labels != IGNORED).flip(1).cumsum(1).flip(1) > 0
        terms = []
        for map, (student, teacher) in zip(model.hint_maps, pairs, strict=True):
            wanted = theirs[teacher].detach()
            if arm.control:  # the next sample's states: the same size, of another question
                wanted = wanted.roll(1, dims=0)
            wanted = wanted[tokens]
            error = (map(ours[student][tokens]) - wanted).square().sum(-1).mean()
            terms.append(error / wanted.var(dim=0).sum().clamp_min(1e-9))
        return answers + arm.weight * torch.stack(terms).mean()

    return loss


def reduced_rank(
    x: Float[ndarray, "n p"], y: Float[ndarray, "n q"], rank: int
) -> tuple[Float[Tensor, "r p"], Float[Tensor, "q r"]]:
    """The change ΔW = B·A of rank r with ΔW·x ≈ y: reduced-rank ridge regression (Izenman 1975).

    The ridge solution, projected on the principal directions of what it predicts. Its offset is
    dropped, since a LoRA has none.

    Args:
        x: inputs, one row per token.
        y: what is to be added to the outputs there.
        rank: r, at most the smaller of q and the number of tokens.

    Returns:
        A and B, float32.
    """
    weight, _ = ridge_map(x, y)
    fitted = (x - x.mean(0)) @ weight
    _, _, directions = np.linalg.svd(fitted, full_matrices=False)
    kept = directions[:rank]
    a = torch.from_numpy(kept @ weight.T).float()
    return a, torch.from_numpy(kept.T.copy()).float()


def _replacement(
    lab: Lab, student: int, teacher: int, maps: tuple[ndarray, ndarray], use: ndarray
) -> Factors:
    """Factors that replace the student's r least used neurons by the teacher's r most sensitive.

    Args:
        lab: both models, the map and the ranks.
        student: layer of the student.
        teacher: layer of the teacher.
        maps: `M [d_s, d_t]` and `N [d_t, d_s]` as in `with_memories`.
        use: how much each neuron of the student is used, `[f_s]`.

    Returns:
        Factors of gate, up and down; none where one of them has no LoRA.
    """
    ours, theirs = (
        [spec.module(role, layer) for role in FFN]
        for spec, layer in ((lab.student_spec, student), (lab.teacher_spec, teacher))
    )
    if not all(module in lab.ranks() for module in ours):
        return {}
    rank = min(lab.ranks()[module] for module in ours)
    idle = torch.from_numpy(np.sort(np.argsort(use, kind="stable")[:rank]))
    chosen = torch.from_numpy(top(lab.map.cols[theirs[2]], rank))
    into, back = (torch.from_numpy(each).float() for each in maps)
    factors: Factors = {}
    for own, other, role in zip(ours, theirs, FFN, strict=True):
        weight, source = (
            m.get_submodule(n).weight.detach().float().cpu()
            for m, n in ((lab.student, own), (lab.teacher, other))
        )
        size = lab.ranks()[own]
        if role == "down":
            change = back.T @ source[:, chosen] - weight[:, idle]
            a, b = torch.zeros(size, weight.shape[1]), torch.zeros(weight.shape[0], size)
            a[torch.arange(rank), idle] = 1.0
            b[:, :rank] = change
        else:
            change = source[chosen] @ into.T - weight[idle]
            a, b = torch.zeros(size, weight.shape[1]), torch.zeros(weight.shape[0], size)
            a[:rank] = change
            b[idle, torch.arange(rank)] = 1.0
        factors[own] = (a, b)
    return factors


def _started(lab: Lab, seed: int, factors: Factors, note: str) -> Trainee:
    """A LoRA that starts from factors on the untouched base."""
    plain = with_lora(lab, seed)
    with torch.no_grad():
        for name, (a, b) in factors.items():
            layer = plain.model.base_model.model.get_submodule(name)
            scale = layer.scaling[ADAPTER]
            layer.lora_A[ADAPTER].weight.copy_(a)
            layer.lora_B[ADAPTER].weight.copy_(b / scale)
    return Trainee(plain.model, plain.encoded, n_samples=plain.n_samples, note=note)


def _probes(lab: Lab, seed: int, arm: Aligned) -> list[Encoded]:
    """General and training samples; nothing that the report counts."""
    return lab.encode([*lab.general_samples(arm.n_general, seed), *lab.train_samples(seed)])


def _inputs(
    model: nn.Module, spec: ArchSpec, encoded: Sequence[Encoded], role: str
) -> list[Float[ndarray, "n_tokens in"]]:
    """What every layer's matrix of a role reads, at every token, in the samples' order."""
    found: list[list[Tensor]] = [[] for _ in range(spec.n_layers)]
    kept: list[Tensor] = []

    def reader(into: list[Tensor]) -> Callable[..., None]:
        def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            into.append(inputs[0][kept[-1]].float().cpu())

        return read

    handles = [
        model.get_submodule(spec.module(role, layer)).register_forward_pre_hook(reader(into))
        for layer, into in enumerate(found)
    ]
    try:
        with evaluation(model):
            for batch in make_batches(encoded, model):
                kept.append(batch.tokens)
                decoder_of(model, spec)(input_ids=batch.ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(parts).numpy() for parts in found]


def _permuted(into: ndarray, back: ndarray, seed: int, layer: int) -> tuple[ndarray, ndarray]:
    """Maps with the student's coordinates permuted, each on its own."""
    draw = np.random.default_rng([seed, layer])
    return into[draw.permutation(len(into))], back[:, draw.permutation(back.shape[1])]


def _pull(
    lab: Lab, encoded: Sequence[Encoded], targets: Sequence[Tensor], maps: Sequence[Any]
) -> Callable[[Any, Tensor], Tensor]:
    """The distance of mapped student states to the teacher's, as a share of their variance."""
    size = lab.train.batch_size
    starts = range(0, len(encoded), size)

    def pull(model: Any, ids: Tensor) -> Tensor:
        # Which samples are compared follows from the training batch, so that a resumed run
        # compares the same ones.
        start = starts[int(ids.sum()) % len(starts)]
        chosen = encoded[start : start + size]
        own, _ = pad_right(chosen, lab.device)
        lengths = torch.tensor([len(each) for each, _ in chosen], device=lab.device)
        tokens = torch.arange(own.shape[1], device=lab.device) < lengths[:, None]
        wanted = torch.cat(list(targets[start : start + size]), dim=1).to(lab.device)
        with _recorded(model.base_model.model, lab.student_spec) as states:
            decoder_of(model.base_model.model, lab.student_spec)(input_ids=own, use_cache=False)
        terms = [
            (states[student][tokens].float() @ weight + bias - wanted[teacher]).square().sum(-1)
            / scale
            for teacher, student, weight, bias, scale in maps
        ]
        return torch.stack([term.mean() for term in terms]).mean()

    return pull


@contextmanager
def _recorded(model: nn.Module, spec: ArchSpec) -> Iterator[list[Tensor]]:
    """What leaves every block in the next forward pass, with gradients."""
    states: list[Tensor] = []

    def leaving(_: nn.Module, __: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(leaving) for block in blocks_of(model, spec)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _tensor(array: ndarray, lab: Lab) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float().to(lab.device)
