"""Putting factors into a student: PEFT injection on a function-preserving base, and export."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from nuggets.compute.svd import LowRankFactors
from nuggets.disk.untrusted import PICKLE_SUFFIXES, UNSAFE_PICKLE
from nuggets.errors import BadInput
from nuggets.extraction.adapter_options import check_options
from nuggets.extraction.plan import LoraConfig
from nuggets.models.architecture import ArchSpec
from nuggets.models.fused import join_fused, stored_factors
from nuggets.models.kinds.wrappers import names_a_wrapper, outer_name
from nuggets.models.references import at_revision
from nuggets.models.safetensors_headers import read_header

if TYPE_CHECKING:  # PEFT imports all its methods, half a second; measuring needs none
    from peft import LoraConfig as PeftLora
    from peft import PeftModel

Factors = Mapping[str, LowRankFactors]
"""Student module → factors. An embedding's are those of its transpose `[hidden, vocab]`."""

ADAPTER = "default"
STARTED = "started"
"""The adapter that takes the start off again, on a base that stays as it is."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
_FIRST = re.compile(r"\.lora_(embedding_)?A(\.weight)?$")
TIED = """
Embedding and head of this student are one matrix, and this adapter changes them separately. PEFT
loads it, but `merge_and_unload` would add both changes to both. `nuggets export RUN` writes an
adapter that merges as it was trained, and with `--merged` the whole model.
"""
UNTIED = """
Embedding and head of this student are one matrix, and were trained separately. The adapter contains
the whole head (`modules_to_save`), so that PEFT loads and merges it as it was trained; the merged
model has a head of its own.
"""

# peft 0.21 asks transformers 5.23 for an attribute under its old name, at every wrap.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)


def peft_config(
    ranks: Mapping[str, int], scales: Mapping[str, float], dropout: float = 0.0, **options: Any
) -> PeftLora:
    """PEFT's configuration with every module's own rank and `alpha / r`.

    Args:
        ranks: module → r.
        scales: module → alpha / r.
        dropout: PEFT's `lora_dropout`.
        options: reach PEFT, such as `init_lora_weights`.
    """
    from peft import LoraConfig as PeftLora

    alphas = {name: scales[name] * rank for name, rank in ranks.items()}
    r, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    return PeftLora(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=sorted(ranks),
        rank_pattern={name: rank for name, rank in ranks.items() if rank != r},
        alpha_pattern={name: own for name, own in alphas.items() if own != alpha},  # type: ignore[arg-type]
        bias="none",
        task_type="CAUSAL_LM",
        **options,
    )


def is_wrapped(model: Any) -> bool:
    """Whether PEFT wraps a model."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def add_lora(model: nn.Module, ranks: Mapping[str, int], lora: LoraConfig, **options: Any) -> Any:
    """Wraps a student in a PEFT LoRA.

    Args:
        model: the student; a tied head that is adapted gets a weight of its own.
        ranks: module → r.
        lora: alpha and dropout.
        options: reach PEFT, such as `init_lora_weights`.
    """
    from peft import get_peft_model

    untie(model, ranks)
    scales = {name: lora.scale(rank) for name, rank in ranks.items()}
    return get_peft_model(model, peft_config(ranks, scales, lora.dropout, **options))  # type: ignore[arg-type]


def inject(
    model: nn.Module,
    factors: Factors,
    lora: LoraConfig,
    ranks: Mapping[str, int] | None = None,
) -> Any:
    """Starts a LoRA from factors and subtracts their product from the base.

    The function at step 0 is unchanged: `W − s·B₀A₀ + s·B₀A₀ = W` (section 3.4 of the paper),
    with `s = alpha / r`. From weights in bfloat16, which would round the difference, nothing is
    subtracted: a second, frozen adapter is `−s·B₀A₀` in float32.

    Args:
        model: the student; its base weights are changed in place if they are float32.
        factors: initial A and B per student module.
        lora: alpha and dropout.
        ranks: every module that gets a LoRA; those without factors start as PEFT starts them. The
            factors' own modules and ranks when not given.

    Returns:
        A `PeftModel` whose adapter is trainable.
    """
    own = {name: factor.rank for name, factor in factors.items()}
    peft = add_lora(model, ranks or own, lora)
    with torch.no_grad():
        for name, factor in factors.items():
            layer = peft.base_model.model.get_submodule(name)
            a, b = _lora_weights(layer)
            a.copy_(factor.a.to(a))
            b.copy_(factor.b.to(b))
            base = layer.get_base_layer().weight
            if base.dtype == torch.float32:
                base.sub_(layer.get_delta_weight(ADAPTER))
    if factors and next(model.parameters()).dtype != torch.float32:
        _take_off(peft, factors, lora)
    return peft


def _take_off(peft: Any, factors: Factors, lora: LoraConfig) -> None:
    """Adds the frozen adapter `−s·B₀A₀`: what the trained one starts from, taken off again."""
    ranks = {name: factor.rank for name, factor in factors.items()}
    scales = {name: lora.scale(rank) for name, rank in ranks.items()}
    peft.add_adapter(STARTED, peft_config(ranks, scales))
    with torch.no_grad():
        for name, factor in factors.items():
            a, b = _lora_weights(peft.base_model.model.get_submodule(name), STARTED)
            a.copy_(factor.a.to(a))
            b.copy_(-factor.b.to(b))
    peft.base_model.set_adapter([ADAPTER, STARTED])
    for name, parameter in peft.named_parameters():
        if f".{STARTED}" in name:
            parameter.requires_grad_(False)


def untie(model: Any, modules: Iterable[str]) -> None:
    """Gives a tied head its own copy when embedding or head are to be changed apart."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {name for name, module in model.named_modules() if module in (embedding, head)}
    if head is None or head.weight is not embedding.weight or not names & set(modules):
        return
    head.weight = nn.Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = False


def _lora_weights(layer: Any, adapter: str = ADAPTER) -> tuple[Tensor, Tensor]:
    """A `[r, in]` and B `[out, r]` of a PEFT layer; an embedding's are parameters themselves."""
    if adapter in layer.lora_A:
        return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]


def read_factors(peft: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """The adapter's current `(A, B)` per module, detached copies."""
    layers = {
        name: module
        for name, module in peft.base_model.model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")
    }
    return {
        name: tuple(x.detach().clone() for x in _lora_weights(layer))  # type: ignore[misc]
        for name, layer in layers.items()
    }


def write_factors(peft: Any, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Sets the adapter's `(A, B)` per module: the inverse of `read_factors`."""
    with torch.no_grad():
        for name, values in factors.items():
            layer = peft.base_model.model.get_submodule(name)
            for parameter, value in zip(_lora_weights(layer), values, strict=True):
                parameter.copy_(value)


def stack_factors(
    trained: Mapping[str, tuple[Tensor, Tensor]], factors: Factors
) -> dict[str, tuple[Float[Tensor, "r2 in"], Float[Tensor, "out r2"]]]:
    """One rank-2r adapter for the untouched student: `[B, −B₀]·[A; A₀]`.

    A trained adapter saved alone belongs to the changed base; on the untouched student it is
    wrong. Modules that had no initial factors keep their rank.
    """
    stacked = {}
    for name, (a, b) in trained.items():
        if name in factors:
            a0, b0 = factors[name].a.to(a), factors[name].b.to(b)
            a, b = torch.cat([a, a0]), torch.cat([b, -b0], dim=1)
        stacked[name] = (a, b)
    return stacked


def save_adapter(
    folder: Path,
    weights: Mapping[str, tuple[Tensor, Tensor]],
    scales: Mapping[str, float],
    spec: ArchSpec,
    base: str,
    card: str,
) -> None:
    """Writes a PEFT folder: `adapter_config.json`, `adapter_model.safetensors`, `README.md`.

    The adapter is for the student as transformers loads it: factors of roles that share a stored
    module are put together (`nuggets.models.fused.stored_factors`).

    Args:
        folder: an existing folder.
        weights: module → `(A [r, in], B [out, r])`.
        scales: module → `alpha / r`; PEFT's alpha is `scale · r`.
        spec: of the student, to tell its embedding.
        base: name or path of the untouched student.
        card: text of the model card.
    """
    tensors = {}
    apart = spec.tied and not {spec.module("embed"), spec.module("head")}.isdisjoint(weights)
    weights, scales = stored_factors(weights, scales, spec)
    weights = {_named(spec, name): pair for name, pair in weights.items()}
    scales = {_named(spec, name): scale for name, scale in scales.items()}
    for name, (a, b) in weights.items():
        embedding = name == _named(spec, spec.module("embed"))
        kind, tail = ("lora_embedding_", "") if embedding else ("lora_", ".weight")
        prefix = f"base_model.model.{name}.{kind}"
        tensors[f"{prefix}A{tail}"] = a.cpu().float().contiguous()
        tensors[f"{prefix}B{tail}"] = b.cpu().float().contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    ranks = {name: a.shape[0] for name, (a, _) in weights.items()}
    transposed = any(matrix.transposed for matrix in spec.architecture.matrices)
    config = peft_config(ranks, scales, fan_in_fan_out=transposed)
    config.base_model_name_or_path, config.revision = at_revision(base)
    config.inference_mode = True
    config.target_modules = sorted(ranks)  # PEFT keeps a set, of no fixed order
    config.save_pretrained(str(folder))
    (folder / CARD).write_text(card + (TIED if apart else ""))


def _named(spec: ArchSpec, module: str) -> str:
    """A module as the untouched student names it."""
    return outer_name(module) if spec.wrapped else module


def untie_adapter(folder: Path, spec: ArchSpec, embedding: Callable[[], Tensor]) -> None:
    """Makes an adapter that PEFT alone merges right on a student whose head is its embedding.

    LoRA layers on two modules that share a weight are merged into the same weight, so the head is
    written as a whole, `W + s·BA` in float32, among PEFT's `modules_to_save`: it then has a weight
    of its own. Adapters that leave embedding and head alone, or of other students, stay as they
    are.

    Args:
        folder: what `save_adapter` wrote; changed in place.
        spec: of the student.
        embedding: gives the student's embedding `[vocab, hidden]`; asked for if it is needed.

    Raises:
        BadInput: if the head is all that the adapter changes, which PEFT cannot express.
    """
    config = json.loads((folder / CONFIG).read_text())
    targets, head = set(config["target_modules"]), spec.module("head")
    if not spec.tied or targets.isdisjoint({_named(spec, spec.module("embed")), head}):
        return
    if targets == {head}:
        raise BadInput(
            "This adapter changes nothing but the head, which is the student's embedding too, so "
            "PEFT would change both. Export the whole model with --merged."
        )
    tensors, whole = _adapter_tensors(folder), embedding().float().cpu()
    if head in targets:
        a, b = (tensors.pop(f"base_model.model.{head}.lora_{side}.weight") for side in "AB")
        alpha = config["alpha_pattern"].pop(head, config["lora_alpha"])
        whole = whole + alpha / config["rank_pattern"].pop(head, config["r"]) * (b @ a)
    tensors[f"base_model.model.{head}.weight"] = whole.contiguous()
    config |= {"target_modules": sorted(targets - {head}), "modules_to_save": [head]}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
    card = folder / CARD
    card.write_text(card.read_text().replace(TIED, "") + UNTIED)


def load_adapter(model: Any, folder: Path, name: str = ADAPTER) -> PeftModel:
    """Loads a PEFT folder on a student, strictly: every key, right shapes, finite values.

    Adapters name the modules that files hold, so the student's fused modules are put together.

    Args:
        model: the student, or the result of an earlier call, which then has one adapter more.
        folder: what `save_adapter` wrote.
        name: what the model calls the adapter.

    Raises:
        BadInput: if the file is missing, pickled or damaged, keys are missing or left over, or a
            value is not finite. The model may then be changed and should be dropped.
    """
    from peft import PeftModel

    stored = _adapter_tensors(folder)
    if bad := [key for key, tensor in stored.items() if not torch.isfinite(tensor).all()]:
        raise BadInput(f"The adapter in {folder} has NaN or infinite values in {bad[0]}.")
    try:
        with warnings.catch_warnings(), _for_text(model, folder, stored) as (folder, stored):
            warnings.simplefilter("ignore")  # PEFT only warns where the check below refuses
            if is_wrapped(model):
                model.load_adapter(str(folder), adapter_name=name)
                peft = model
            else:
                join_fused(model, ArchSpec.from_config(model.config.to_dict()))
                peft = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except (RuntimeError, ValueError) as problem:
        raise BadInput(f"The adapter in {folder} does not fit this model: {problem}") from None
    parts = [key.split(".") for key in peft.state_dict() if ".lora_" in key]
    expected = {".".join(p for p in key if p != name) for key in parts if name in key}
    if wrong := sorted(expected ^ set(stored)):
        what = "is missing" if wrong[0] in expected else "does not exist in the model"
        raise BadInput(f"The adapter in {folder} does not fit this model: {wrong[0]} {what}.")
    return peft


@contextmanager
def _for_text(
    model: Any, folder: Path, stored: dict[str, Tensor]
) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """The adapter under the names of a text model, where it was written for a wrapper of it."""
    if not names_a_wrapper(stored) or names_a_wrapper(name for name, _ in model.named_modules()):
        yield folder, stored
        return
    with TemporaryDirectory(prefix="nuggets-adapter-") as private:
        text = (folder / CONFIG).read_text().replace('"model.language_model.', '"model.')
        (Path(private) / CONFIG).write_text(text)
        inner = {name.replace(".model.language_model.", ".model."): x for name, x in stored.items()}
        save_file(inner, Path(private) / WEIGHTS, metadata={"format": "pt"})
        yield Path(private), inner


def _adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """What an adapter's file holds, its header checked first."""
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.is_file():
        if any(other.suffix in PICKLE_SUFFIXES for other in folder.glob("adapter_model.*")):
            raise BadInput(f"The adapter in {folder} is an {UNSAFE_PICKLE}.")
        raise BadInput(f"{folder} contains no adapter: {WEIGHTS} is missing.")
    if not (folder / CONFIG).is_file():
        raise BadInput(f"The adapter in {folder} has no {CONFIG}.")
    stored = {name: tensor.shape for name, tensor in read_header(file).items()}
    a = {name: shape for name, shape in stored.items() if _FIRST.search(name) and shape}
    whole = {name.removeprefix("base_model.model.").rpartition(".")[0] for name in stored}
    check_options(folder / CONFIG, {shape[0] for shape in a.values()}, whole)
    return load_file(file)
