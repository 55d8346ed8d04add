"""Models on the Hugging Face hub: their files, or a sentence that says why not.

Honours HF_HOME, HF_TOKEN and HF_HUB_OFFLINE, as huggingface_hub reads them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from nuggets.errors import BadInput
from nuggets.progress import Progress

MODEL_FILES = ("*.json", "*.safetensors", "tokenizer.model", "merges.txt", "vocab.txt", "*.jinja")
"""What is downloaded of a model: never a pickle, never code."""
UNREAD_FILES = ("*/*", "consolidated*")
"""Of these, what is the same model once more: other formats in folders, Mistral's own layout."""

T = TypeVar("T")


def hub_file(hub_id: str, revision: str | None, name: str) -> Path | None:
    """One file of a hub model in the local cache, downloaded if need be; None if it has none.

    Raises:
        BadInput: if the model cannot be reached; the sentence says why and what to do.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    def fetch() -> Path | None:
        here = not reachable()
        try:
            return Path(hf_hub_download(hub_id, name, revision=revision, local_files_only=here))
        except RemoteEntryNotFoundError:
            return None
        except LocalEntryNotFoundError:
            # Of a model that was downloaded, all files are there: this one does not exist.
            if cached_folder(hub_id, revision) is None:
                raise
            return None

    return _told(hub_id, revision, fetch)


def hub_folder(hub_id: str, revision: str | None, progress: Progress | None = None) -> Path:
    """The local folder of a hub model, downloaded if need be.

    Args:
        hub_id: `org/name`.
        revision: branch, tag or commit; None is the default branch.
        progress: receives the bytes of the download, and can cancel it.

    Raises:
        BadInput: if the model cannot be reached; the sentence says why and what to do.
    """
    from huggingface_hub import snapshot_download

    def fetch() -> Path:
        told = _bars(hub_id, progress) if progress is not None else None
        return Path(
            snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=list(MODEL_FILES),
                ignore_patterns=list(UNREAD_FILES),
                tqdm_class=told,
            )
        )

    return _told(hub_id, revision, fetch)


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def reachable() -> bool:
    """Whether the hub answers; asked once a minute, and never where HF_HUB_OFFLINE is set.

    huggingface_hub itself tries five times, for half a minute and for every file, before it looks
    into the cache.
    """
    from huggingface_hub import constants

    if offline():
        return False
    return _answers(constants.ENDPOINT, int(time.monotonic() // 60))


@lru_cache(maxsize=2)
def _answers(endpoint: str, minute: int) -> bool:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=10)
    except (_http_error(), OSError):
        return False
    return True


def _bars(hub_id: str, progress: Progress) -> Any:
    """A class of progress bars for huggingface_hub that draw nothing and tell `progress`.

    The hub makes one bar for bytes that came in and one for bytes on disk, and moves them from
    several threads; the one that is ahead is told.
    """
    from tqdm import tqdm

    lock, bars = Lock(), []

    class Told(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)
            self.moved = kwargs.get("initial") or 0
            if kwargs.get("unit") == "B":
                bars.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            with lock:
                progress.check_cancelled()
                self.moved += n or 0
                if self in bars:
                    done, total = (
                        max(getattr(b, x) or 0 for b in bars) for x in ("moved", "total")
                    )
                    progress.progress(min(done, total), total, f"downloading {hub_id}")
            return None

    return Told


def cached_folder(hub_id: str, revision: str | None) -> Path | None:
    """The local folder of a hub model with weights in the cache, or None; never downloads."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if any(folder.glob("*.safetensors")) else None


def hub_shapes(hub_id: str, revision: str | None) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → `(dtype, shape)` of a hub model's weights, from their headers alone.

    Raises:
        BadInput: if the model cannot be reached or has no safetensors weights.
    """
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import (
        LocalEntryNotFoundError,
        NotASafetensorsRepoError,
        SafetensorsParsingError,
    )

    def fetch() -> dict[str, tuple[str, tuple[int, ...]]]:
        if not reachable():
            raise LocalEntryNotFoundError(hub_id)
        try:
            files = get_safetensors_metadata(hub_id, revision=revision).files_metadata
        except (NotASafetensorsRepoError, SafetensorsParsingError):
            raise BadInput(
                f"{hub_id} has no readable safetensors weights. Choose another revision or convert "
                "the model to safetensors."
            ) from None
        return {
            name: (str(info.dtype), tuple(info.shape))
            for file in files.values()
            for name, info in file.tensors.items()
        }

    return _told(hub_id, revision, fetch)


def hub_licence(hub_id: str, revision: str | None) -> str:
    """What a model's page says of its licence; empty where it or the hub does not."""
    from huggingface_hub import HfApi

    if not reachable():
        return ""
    found = _told(hub_id, revision, lambda: HfApi().model_info(hub_id, revision=revision))
    return str(getattr(found.card_data, "license", None) or "")


def send_model(repo: str, folder: Path, private: bool) -> str:
    """Sends a folder as a new model, and returns its address; nothing there is overwritten.

    Raises:
        BadInput: without a token that may write, if the model exists and has files or another
            visibility, or if the hub refuses.
    """
    from huggingface_hub import HfApi, errors, get_token

    if offline():
        raise BadInput("HF_HUB_OFFLINE is set. Unset it to publish.")
    if get_token() is None:
        raise BadInput("No access token was found. Set HF_TOKEN, or run `hf auth login`.")
    hub = HfApi()
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        there = hub.model_info(repo)
        names = {file.rfilename for file in there.siblings or ()} - {".gitattributes"}
        if names or there.private is not private:
            what = (
                f"has {len(names)} files"
                if names
                else "is not private"
                if private
                else "is private"
            )
            raise BadInput(f"{repo} exists and {what}. Choose a new name; nothing was sent.")
        hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Made by Nuggets")
    except (_http_error(), errors.HFValidationError, OSError) as problem:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        if status in (401, 403):
            raise BadInput(
                f"Your token may not write to {repo}. Set HF_TOKEN to one that may, or run "
                "`hf auth login`."
            ) from None
        raise BadInput(hub_sentence(problem, repo, None)) from None
    return f"https://huggingface.co/{repo}"


def _told(hub_id: str, revision: str | None, fetch: Callable[[], T]) -> T:
    """Runs a hub call and turns what can go wrong into a sentence."""
    from huggingface_hub import errors

    try:
        return fetch()
    except (_http_error(), errors.HFValidationError, OSError) as problem:
        raise BadInput(hub_sentence(problem, hub_id, revision)) from None


def _http_error() -> type[Exception]:
    """The HTTP client's own base error; which client it is depends on huggingface_hub's version."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def hub_sentence(problem: Exception, hub_id: str, revision: str | None) -> str:
    """What went wrong with a hub model, and what to do about it."""
    from huggingface_hub import constants, errors, get_token

    page = f"https://huggingface.co/{hub_id}"
    log_in = "Set HF_TOKEN, or run `hf auth login`"
    status = getattr(getattr(problem, "response", None), "status_code", None)
    if status == 401 and get_token() is not None:
        return f"The Hub does not accept your token, so {hub_id} cannot be read. {log_in} again."
    if isinstance(problem, errors.GatedRepoError):
        if get_token() is None:
            return f"{hub_id} is gated and no token was found. {log_in}, then accept {page}."
        return (
            f"{hub_id} is gated, and its licence has not been accepted with your token. Accept it "
            f"at {page}."
        )
    if isinstance(problem, errors.RevisionNotFoundError):
        return f"{hub_id} has no revision {revision!r}. See {page}/commits."
    if isinstance(problem, errors.RepositoryNotFoundError):
        hint = f" If it is private: {log_in}." if get_token() is None else ""
        return f"There is no folder or Hub model {hub_id!r}. Check the spelling.{hint}"
    if isinstance(problem, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return (
            f"{hub_id} is not in the local cache and HF_HUB_OFFLINE is set. "
            "Unset it to download the model, or give a local folder."
        )
    if isinstance(problem, errors.LocalEntryNotFoundError):
        return (
            f"{hub_id} is not in the local cache and the Hub cannot be reached. Check the network."
        )
    if isinstance(problem, errors.HFValidationError):
        return f"{hub_id!r} is not a valid Hub id. Write org/name or org/name@revision."
    if isinstance(problem, errors.HfHubHTTPError):
        return f"The Hub refused {hub_id}: HTTP status {problem.response.status_code}."
    if isinstance(problem, _http_error()):
        return f"The Hub did not answer for {hub_id} ({type(problem).__name__}). Check the network."
    return f"Downloading {hub_id} failed: {getattr(problem, 'strerror', None) or problem}."
