"""Reading answers off single words of two models. Imports torch."""

from __future__ import annotations

from nuggets.alignment.readability import Readability, readability
from nuggets.errors import BadInput
from nuggets.models.pair import ModelPair, check_vocabularies
from nuggets.planning.datasets import load_datasets
from nuggets.planning.machine import resolve_device_name
from nuggets.progress import Progress
from nuggets.recipe import DataConfig
from nuggets.stages.measuring import Loaded


def probe_words(
    pair: ModelPair, data: DataConfig, device: str = "auto", progress: Progress | None = None
) -> Readability:
    """What a linear probe reads off the words of a pair: fitted on training, asked on test items.

    Raises:
        BadInput: if no answer of the training samples comes again in the test.
    """
    check_vocabularies(pair, "a probe of words")
    samples = load_datasets(data, (), ())
    models = {
        name: Loaded(model, resolve_device_name(device), progress=progress)
        for name, model in (("teacher", pair.teacher), ("student", pair.student))
    }
    encode = models["teacher"].encode
    fit, test = (
        encode(found, 2048, data.format)
        for found in (samples.train(0), [*samples.test, *samples.validation])
    )
    with models["teacher"].threads():
        loaded = {name: (found.model, found.spec) for name, found in models.items()}
        found = readability(loaded, fit, test)
    if found is None:
        raise BadInput(
            f"Nothing of {samples.label} can be read off single words: its questions do not "
            "differ, or none of its training answers comes again in the test. Choose a relation "
            "such as king, whose answers come again."
        )
    return found
