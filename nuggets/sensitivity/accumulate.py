"""Per-sample scores of parameters, taken from their gradients one at a time and summed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from nuggets.data.samples import Encoded
from nuggets.errors import BadInput, NonFinite, NuggetsError
from nuggets.models.architecture import ArchSpec
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Compared, Score

Keep = Literal["full", "sums"]


@dataclass(eq=False)
class Accumulator:
    """Sums of one parameter's score over the samples seen so far.

    Attributes:
        name: of the parameter.
        keep_full: whether every entry is kept, or row and column sums only.
        full: float32, shaped as the parameter; None for vectors and where only sums are kept.
        rows: float64 `[out]`, where only sums are kept.
        cols: float64 `[in]`, likewise.
        per_sample: each sample's sum, float64: numbers of a CPU, scalars of a GPU.
    """

    name: str
    keep_full: bool
    full: Tensor | None = None
    rows: Tensor | None = None
    cols: Tensor | None = None
    per_sample: list[float | Tensor] = field(default_factory=list)

    @property
    def module(self) -> str:
        """The module that the parameter is the weight of."""
        return self.name.removesuffix(".weight")

    def add(self, score: Tensor) -> None:
        """Adds one sample's score (float32, shaped as the parameter)."""
        if score.ndim == 1:
            self.per_sample += _apart(score.double().sum())
            return
        # Inside one matrix float32 with torch's pairwise summation, between samples float64:
        # a whole float64 copy of the score would double the peak memory.
        rows = score.sum(dim=1).double()
        self.per_sample += _apart(rows.sum())
        if self.keep_full:  # its row and column sums are taken once, from the finished matrix
            self.full = score if self.full is None else self.full.add_(score)
        else:
            cols = score.sum(dim=0).double()
            self.rows = rows if self.rows is None else self.rows.add_(rows)
            self.cols = cols if self.cols is None else self.cols.add_(cols)

    def add_all(self, scores: Tensor) -> None:
        """Adds several samples' scores `[samples, *shape of the parameter]`."""
        rows = scores.sum(dim=-1).double()  # [samples, out]; of a vector's scores [samples]
        self.per_sample += _apart(rows if scores.ndim == 2 else rows.sum(dim=1))
        if scores.ndim == 2:
            return
        if self.keep_full:
            full = scores.sum(dim=0)
            self.full = full if self.full is None else self.full.add_(full)
        else:
            cols = scores.sum(dim=1).double().sum(dim=0)
            self.rows = rows.sum(dim=0) if self.rows is None else self.rows.add_(rows.sum(dim=0))
            self.cols = cols if self.cols is None else self.cols.add_(cols)


def _apart(sums: Tensor) -> list[float | Tensor]:
    """Each number by itself.

    On a CPU none is a tensor: one that outlives its sample keeps what is freed around it from being
    used again, .8 MB a sample and block (`python -m benchmarks --only states`). A GPU would have to
    wait for its numbers.
    """
    return sums.reshape(-1).tolist() if sums.device.type == "cpu" else list(sums.reshape(-1))


class Hooks:
    """Hooks on parameters that score each gradient the moment it is complete, and free it.

    At most one gradient lives beside the accumulators. Use as a context: on leaving, the hooks are
    gone and every parameter is as it was, without a gradient.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], score: Score, keep: Keep) -> None:
        self.sums = {name: Accumulator(name, keep == "full") for name in parameters}
        self._parameters, self._score = parameters, score

    def __enter__(self) -> Hooks:
        self._before = {name: p.requires_grad for name, p in self._parameters.items()}
        self._handles = [self._attach(name, p) for name, p in self._parameters.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(self._before[name])
            parameter.grad = None

    def _attach(self, name: str, parameter: nn.Parameter) -> Any:
        parameter.requires_grad_(True)
        parameter.grad = None

        def take(owner: Tensor) -> None:
            # Set to None before it is scored: the score may then overwrite it, and the next
            # sample does not add to it (|Σ g| is not Σ |g|).
            gradient, owner.grad = owner.grad, None
            assert gradient is not None
            self.sums[name].add(self._score.of(owner.detach(), gradient, name))

        # After accumulation: a tied weight's gradient is then the sum over its uses, and it can be
        # taken away. A hook on the tensor comes before, and the gradient would stay in memory.
        return parameter.register_post_accumulate_grad_hook(take)

    def check_fired(self, index: int) -> None:
        """Every parameter must have been scored exactly once per sample, 0 to `index`.

        Raises:
            NuggetsError: naming a parameter that was not.
        """
        # Else its sensitivity would be 0, and nobody would know that it was never measured.
        silent = [name for name, sums in self.sums.items() if len(sums.per_sample) != index + 1]
        if silent:
            raise NuggetsError(
                f"{len(silent)} of {len(self.sums)} parameters received no gradient for seed "
                f"sample {index}, first {silent[0]!r}. The model may be offloaded or partly "
                "frozen; load all of it on one device."
            )


@dataclass(eq=False)
class MapParts:
    """A sensitivity map in the making: what finished parameters left behind, as NumPy arrays."""

    full: dict[str, Float[ndarray, "_ _"]] = field(default_factory=dict)
    rows: dict[str, Float[ndarray, " _"]] = field(default_factory=dict)
    cols: dict[str, Float[ndarray, " _"]] = field(default_factory=dict)
    totals: dict[str, Float[ndarray, " n_samples"]] = field(default_factory=dict)

    def begin(self, spec: ArchSpec, names: Sequence[str], n_samples: int) -> None:
        """Learns which parameters will come, before the first; in memory nothing is to be done."""

    def take(self, sums: Iterable[Accumulator]) -> None:
        """Takes what finished accumulators hold, and empties them.

        Raises:
            NonFinite: if a parameter's score is not finite, naming it.
        """
        for done in sums:
            # Any NaN or infinity in a score reaches its total: the entries need no look.
            each = [torch.as_tensor(number, dtype=torch.float64) for number in done.per_sample]
            totals = torch.stack(each).cpu().numpy()
            if not np.isfinite(totals).all():
                raise NonFinite(
                    f"The sensitivity of {done.name!r} is NaN or infinite; check the model's "
                    "weights."
                )
            self.totals[done.name] = totals
            if done.full is not None:
                # Taken out at once: where parts go to disk, one matrix is alive at a time.
                matrix, done.full = done.full.cpu().numpy(), None
                self.take_matrix(done.module, matrix)
            elif done.rows is not None and done.cols is not None:
                self.rows[done.module] = done.rows.cpu().numpy()
                self.cols[done.module] = done.cols.cpu().numpy()

    def take_matrix(self, module: str, matrix: Float[ndarray, "_ _"]) -> None:
        """Takes one finished full map and its sums."""
        self.rows[module] = matrix.sum(axis=1, dtype=np.float64)
        self.cols[module] = matrix.sum(axis=0, dtype=np.float64)
        self.keep_full(module, matrix)

    def keep_full(self, module: str, matrix: Float[ndarray, "_ _"]) -> None:
        """Keeps one full map, in memory; `nuggets.sensitivity.map_writer` keeps it on disk."""
        self.full[module] = matrix

    def finish(
        self, spec: ArchSpec, kind: str, names: Sequence[str], meta: Mapping[str, Any]
    ) -> SensitivityMap:
        """The map, its parameters and modules in the order of `names`."""
        # Streaming finishes parameters from the head down; a map has them in the model's order.
        totals = np.stack([self.totals[name] for name in names], axis=1)  # [samples, parameters]
        order = [module for name in names if (module := name.removesuffix(".weight")) in self.rows]
        return SensitivityMap(
            spec,
            kind,
            {module: self.rows[module] for module in order},
            {module: self.cols[module] for module in order},
            {module: self.full[module] for module in order if module in self.full},
            tuple(names),
            totals,
            dict(meta),
        )


def check_asked(encoded: Sequence[Encoded], score: Score | None) -> None:
    """Refuses what cannot be summed over samples.

    Raises:
        BadInput: if there is no sample, or the score compares finished maps.
    """
    if not encoded:
        raise BadInput("No seed samples were given; at least one is needed.")
    if isinstance(score, Compared):
        raise BadInput(
            f"The score {score.kind} compares finished maps and is no sum over samples. Measure a "
            "map of each skill and compare them: nuggets.sensitivity.comparing.compare_maps."
        )


def check_loss(loss: Tensor, index: int) -> None:
    """Refuses a loss that is not finite.

    Raises:
        NonFinite: naming the sample.
    """
    if not torch.isfinite(loss):
        raise NonFinite(f"The loss of seed sample {index} is {loss.item()}, so nothing was saved.")


def _has_peers() -> bool:
    """Whether this process is one of several that share out the samples."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def share_of(n_samples: int) -> range:
    """Which samples this process takes: all of them unless it is one of several."""
    if not _has_peers():
        return range(n_samples)
    return range(dist.get_rank(), n_samples, dist.get_world_size())


def add_up(
    sums: Mapping[str, Accumulator], parameters: Mapping[str, nn.Parameter], n_samples: int
) -> None:
    """Gives every process the sums over all samples, in place; alone, nothing is to be done."""
    if not _has_peers():
        return
    samples = share_of(n_samples)
    for name, local in sums.items():  # every process in the same order: `all_reduce` pairs calls
        weight = parameters[name]
        # Totals are per sample: each process fills in its own, and the sum puts them together.
        totals = torch.zeros(n_samples, dtype=torch.float64, device=weight.device)
        for sample, total in zip(samples, local.per_sample, strict=True):
            totals[sample] = total
        dist.all_reduce(totals)
        local.per_sample = list(totals)
        if weight.ndim == 1:
            continue
        if local.keep_full:
            local.full = _summed(local.full, weight.shape, torch.float32, weight.device)
        else:
            local.rows = _summed(local.rows, weight.shape[:1], torch.float64, weight.device)
            local.cols = _summed(local.cols, weight.shape[1:], torch.float64, weight.device)


def _summed(
    local: Tensor | None, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The sum over all processes; one with no sample adds nothing."""
    # It must take part all the same: the others wait for it.
    whole = torch.zeros(shape, dtype=dtype, device=device) if local is None else local
    dist.all_reduce(whole)
    return whole
