"""A model's weights, read from safetensors one at a time, so that it is never in memory whole."""

from __future__ import annotations

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nuggets.disk.untrusted import damaged
from nuggets.errors import Damaged, Unsupported
from nuggets.models.architecture import ArchSpec
from nuggets.models.layout import canonical_name, place_of
from nuggets.models.references import ModelRef, weight_files
from nuggets.models.safetensors_headers import check_keys, read_header


class StoredWeights:
    """The weights of a model on disk, under the names they have in memory.

    A tensor is a view of the file: only what is looked at is read, so that taking a
    student-shaped window out of a teacher's matrix reads that window alone.

    Raises:
        Unsupported: for GGUF files, whose weights are packed.
        Damaged: if the weights are not exactly those that the config describes.
    """

    def __init__(self, ref: ModelRef, spec: ArchSpec) -> None:
        if ref.format == "gguf":
            raise Unsupported(
                f"The weights of {ref.source} are packed (GGUF) and cannot be read one by one. "
                "Use the original safetensors weights, or a machine that holds the whole model "
                "(sensitivity.method: hooks)."
            )
        check_keys(ref, spec)
        self._spec = spec
        self._matrices = {module for module, _, _ in spec.modules()}
        self._files = {
            canonical_name(spec, key): (path, key)
            for path in weight_files(ref)
            for key in read_header(path)
        }

    def has(self, module: str) -> bool:
        """Whether a module's weight is stored: a tied head's may be."""
        return f"{module}.weight" in self._files

    def weight(self, module: str) -> Tensor:
        """The weight of a module, `[out, in]`, in the stored number format."""
        return self.parameter(f"{module}.weight")

    def parameter(self, name: str) -> Tensor:
        """A parameter by its name in memory, in the stored number format.

        Raises:
            Damaged: if the file cannot be read.
        """
        module, _, kind = name.rpartition(".")
        if module not in self._matrices:
            return self._read(name)
        place = place_of(self._spec, module)
        tensor = self._read(f"{place.module}.{kind}")
        if place.transposed and kind == "weight":
            tensor = tensor.T
        return tensor if place.rows is None else tensor[torch.from_numpy(place.rows)]

    def _read(self, name: str) -> Tensor:
        path, key = self._files[name]
        try:
            # Opened each time: pages of a file that stays open count as this process's memory.
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(key)
        except (SafetensorError, OSError) as problem:
            raise damaged(path, str(problem)) from None

    def finite(self, name: str, source: str) -> Tensor:
        """As `parameter`, after a look at every value.

        Raises:
            Damaged: naming the tensor and how many of its values are not finite.
        """
        tensor = self.parameter(name)
        # Both propagate NaN: one pass and no copy, where isfinite makes a mask.
        if not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise Damaged(
                f"{name} of {source} holds {count:,} NaN or infinite values of "
                f"{tensor.numel():,}; the model is damaged."
            )
        return tensor
