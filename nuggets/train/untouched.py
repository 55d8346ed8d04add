"""The untouched student: whole beside the one that is trained, or lent out where two do not fit."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

from nuggets.compute.device import free_memory
from nuggets.sensitivity.footprint import has_room_for_two


class Untouched:
    """A student that no arm changes, from which every arm starts.

    Where two students find no room, the one that is there is given away to be trained, and read
    from its files again when somebody asks for it: the same bits, and one student in memory.
    """

    def __init__(self, model: Any = None, load: Callable[[], Any] | None = None) -> None:
        """Holds a student.

        Args:
            model: the student, in evaluation mode; loaded when first used if not given.
            load: reads it, the same bits every time; it is always copied when not given.
        """
        self._model, self._load = model, load

    @property
    def model(self) -> Any:
        """The student itself, which must not be changed."""
        if self._model is None:
            assert self._load is not None
            gc.collect()  # trained models are in cycles with their optimisers and wrappers
            self._model = self._load()
        return self._model

    def fresh(self) -> Any:
        """A student that may be changed: a copy, or the one there is."""
        if self.spare:
            return copy.deepcopy(self.model)
        given, self._model = self.model, None
        return given

    @property
    def spare(self) -> bool:
        """Whether the untouched student stays in memory beside a changed one."""
        if self._load is None:
            return True
        parameters = list(self.model.parameters())
        size = sum(each.numel() * each.element_size() for each in parameters)
        return has_room_for_two(size, free_memory(str(parameters[0].device)))
