"""Erasing weights by maps and measuring what is left. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

from nuggets.data.samples import Encoded, Sample
from nuggets.disk.commit import make_folder
from nuggets.disk.home import cache_dir
from nuggets.disk.outputs import output_folder
from nuggets.erasure.measure import Subject, means_over
from nuggets.erasure.orders import (
    Entries,
    block_weights,
    drawn_places,
    entries_by,
    least_first,
    parts_of,
)
from nuggets.erasure.report import ErasureReport
from nuggets.erasure.streamed import StreamedSubject
from nuggets.errors import BadInput
from nuggets.models.streamed import StreamedModel
from nuggets.planning.cache import MapRequest
from nuggets.planning.erasing import EraseRequest
from nuggets.progress import InMemoryProgress, Progress
from nuggets.sensitivity.hooks import compute_sensitivity
from nuggets.sensitivity.map_writer import MapWriter
from nuggets.sensitivity.maps import SensitivityMap
from nuggets.sensitivity.scores import Compared, Score, score_name
from nuggets.sensitivity.selected_entries import top_entries
from nuggets.sensitivity.several_samples import samples_per_pass
from nuggets.sensitivity.streaming import stream_sensitivity
from nuggets.stages.measuring import Loaded, keep_result, measure_map, streams
from nuggets.train.export import save_model

Places = Int[ndarray, " k"]


def measure_erasure(request: EraseRequest, progress: Progress | None = None) -> ErasureReport:
    """The erasure of a job: the cached one, or measured now and cached."""
    if (found := request.find()) is not None:
        return found
    folder = request.folder
    eraser = Eraser(request, progress)
    report = eraser.report(folder.name)
    keep_result(report.save, folder, request.model)
    return report


def erase_to(
    request: EraseRequest, out: Path, save: bool = False, progress: Progress | None = None
) -> ErasureReport:
    """Writes the report into a new folder; with `save` also the model, erased as far as it goes.

    That is by the first score and the largest fraction. The user's model stays as it is.

    Raises:
        BadInput: The erased model is to be saved, but cannot be.
    """
    if save and request.job.ablation == "mean":
        raise BadInput(
            "A model whose erased weights contribute their mean needs biases that its architecture "
            "may not have, so it is not saved. Leave out --save, or write --ablation zero."
        )
    eraser = Eraser(request, progress) if save else None
    if eraser is not None and eraser.streamed:
        raise BadInput(
            f"{request.job.model} does not fit into memory, as it has to where it is saved with "
            "weights erased. Leave out --save, or use a smaller model or another device."
        )
    report = measure_erasure(request, progress)
    with output_folder(out) as folder:
        report.save(folder)
        if eraser is not None:
            eraser.save_erased(folder / "model", report)
    return report


class Eraser:
    """One loaded model on the way to its report."""

    def __init__(self, request: EraseRequest, progress: Progress | None) -> None:
        self.request, self.job = request, request.job
        self.progress: Progress = progress or InMemoryProgress()
        first = request.maps[0]
        self.loaded = Loaded(request.model, first.device, first.config.dtype, progress)
        self.spec = self.loaded.spec
        self.n_weights = block_weights(self.spec)
        self.counts = [max(1, round(f * self.n_weights)) for f in self.job.fractions]
        self.guess = math.log(self.spec.vocab_size)
        self.items = {name: self._encode(each) for name, each in request.items.items()}
        self.seeds = [self._encode(each.samples) for each in request.maps]
        self.dtype: torch.dtype = getattr(torch, first.config.dtype)
        tokens = [len(ids) for each in (*self.items.values(), *self.seeds) for ids, _ in each]
        self.streamed = streams(self.loaded, first.config, tokens)
        self.scratch = ""  # where drawn maps are while they are looked at, if they do not fit

    def _encode(self, samples: list[Sample]) -> list[Encoded]:
        return self.loaded.encode(samples, self.job.max_length, self.job.data.format)

    def subject(self) -> Subject:
        """The model with its items, whole or block by block.

        Raises:
            BadInput: for a mean ablation of a model that does not fit into memory.
        """
        mean = self.job.ablation == "mean"
        if not self.streamed:
            means = means_over(self.loaded.model, self.spec, self.seeds[1:]) if mean else None
            return Subject(self.loaded.model, self.spec, self.items, self.progress, means)
        if mean:
            raise BadInput(
                f"{self.loaded.name} does not fit into memory, and block by block weights can only "
                "be erased to 0. Write --ablation zero, or use a smaller model or another device."
            )
        self.progress.log(f"{self.loaded.name} is measured one block at a time, from its files.")
        stream = StreamedModel(self.loaded.ref, self.dtype, self.loaded.device)
        return StreamedSubject(stream, self.items, self.progress)

    def report(self, digest: str) -> ErasureReport:
        """Measures everything."""
        with self.loaded.threads():
            subject = self.subject()
            untouched = subject.outcomes()
            self._check_known(untouched)
            maps = [measure_map(each, None, self.loaded) for each in self.request.maps]
            parts = parts_of(maps[0], self.job.parts)
            curves: dict[str, list[ndarray]] = {}
            total = self.job.n_maps * (len(self.job.scores) + 3) + 1 + len(parts)
            done = 0
            make_folder(cache_dir())
            for draw in range(self.job.n_maps):
                with TemporaryDirectory(dir=cache_dir(), prefix=".tmp-") as self.scratch:
                    if draw:
                        maps = [self._drawn(r, draw, at) for at, r in enumerate(self.request.maps)]
                    for name, places in self._orders(subject, maps, draw):
                        curve = subject.curve(places, self.counts, self.guess)
                        curves.setdefault(name, []).append(curve)
                        done += 1
                        self.progress.progress(done, total, f"curves and parts: {name}")
            subject.keep_states()
            without = np.zeros((len(parts), *untouched.shape))
            for place, part in enumerate(parts):
                without[place] = subject.without(part)
                self.progress.progress(done + place + 1, total, f"curves and parts: {part.name}")
        return ErasureReport(
            skills={name: len(each) for name, each in self.items.items()},
            fractions=self.job.fractions,
            counts=tuple(self.counts),
            guess=self.guess,
            untouched=untouched,
            curves={name: np.stack(each) for name, each in curves.items()},
            parts=tuple(parts),
            without=without,
            meta=self._meta(digest),
        )

    def _orders(
        self, subject: Subject, maps: Sequence[SensitivityMap], draw: int
    ) -> Iterator[tuple[str, Places]]:
        """Every order of one draw of the seed samples; magnitude knows no samples."""
        k = self.counts[-1]
        for score in self.job.scores:
            yield score_name(score), _top(self._entries(score, maps, draw), k)
        other = list(self.items)[1]
        yield f"theta_grad of {other}", _top(maps[1].blocks(), k)
        yield "random", drawn_places(self.spec, k, [self.job.seed, draw])
        yield "least", _top(least_first(maps[0]), k)
        if draw == 0:
            yield "magnitude", _top(subject.magnitudes(), k)

    def _entries(self, score: Score, maps: Sequence[SensitivityMap], draw: int) -> Entries:
        if isinstance(score, Compared) or score == self.request.maps[0].config.score:
            return entries_by(score, [maps[at] for at in self.request.compared(score)])
        request = self.request.map_by(score)
        own = self._drawn(request, draw, 0) if draw else measure_map(request, None, self.loaded)
        return entries_by(score, [own])

    def _drawn(self, request: MapRequest, draw: int, skill: int) -> SensitivityMap:
        """A skill's map from as many seed samples, drawn from its own with replacement."""
        encoded, rng = self.seeds[skill], np.random.default_rng([self.job.seed, draw, skill])
        chosen = [encoded[at] for at in rng.integers(len(encoded), size=len(encoded))]
        tokens = [len(ids) for ids, _ in chosen]
        per_pass = samples_per_pass(self.spec, self.loaded.parameters, tokens)
        score = request.config.score
        self.progress.check_cancelled()
        if self.streamed:
            parts = MapWriter(Path(mkdtemp(dir=self.scratch)))
            ref, device = self.loaded.ref, self.loaded.device
            return stream_sensitivity(
                ref, chosen, score, "full", self.dtype, device, parts, spill=Path(self.scratch)
            )
        return compute_sensitivity(
            self.loaded.model, self.spec, chosen, score, "full", per_pass=per_pass
        )

    def _check_known(self, untouched: ndarray) -> None:
        """Refuses skills on which the whole model is no better than guessing."""
        start = 0
        for name, items in self.items.items():
            loss = untouched[0, start : start + len(items)].mean()
            start += len(items)
            if loss >= self.guess:
                raise BadInput(
                    f"{self.loaded.name} does not know {name}: its loss of {loss:.2f} per token "
                    f"is no better than guessing ({self.guess:.2f}), so nothing can be erased. "
                    "Choose another task."
                )

    def _meta(self, digest: str) -> dict[str, Any]:
        first = self.request.maps[0]
        return {
            "model": self.job.model,
            "digest": digest,
            "n_weights": self.n_weights,
            "n_seed_samples": len(first.samples),
            "dtype": first.config.dtype,
            "device": first.device,
            "seed": self.job.seed,
            "ablation": self.job.ablation,
        }

    def save_erased(self, folder: Path, report: ErasureReport) -> None:
        """Writes the model with the first score's weights at 0, by the largest fraction.

        The whole model has to fit into memory.
        """
        score, k = self.job.scores[0], self.counts[-1]
        card = (
            f"# `{self.job.model}` with {k:,} weights set to 0\n\nThose that the score "
            f"`{score_name(score)}` puts first for {report.skill}, of {self.n_weights:,} weights "
            "in the matrices of its layers.\n"
        )
        with self.loaded.threads():
            maps = [measure_map(each, None, self.loaded) for each in self.request.maps]
            subject = Subject(self.loaded.model, self.spec, self.items)
            with subject.erased(_top(self._entries(score, maps, 0), k)):
                save_model(self.loaded.model, self.loaded.tokenizer, folder, card)


def _top(entries: Entries, k: int) -> Places:
    return top_entries(entries, k)[1]
