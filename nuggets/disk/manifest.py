"""The sha256 manifest of a committed folder: writing it, and refusing whatever differs."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from nuggets.errors import Damaged, NuggetsError

MANIFEST = "manifest.json"
_ADVICE = (
    "The folder is incomplete or was changed, and is not used; delete it and compute it again."
)


def write_manifest(root: Path) -> None:
    """Lists every file under `root` with its sha256.

    Raises:
        NuggetsError: if something there is not a plain file; links could lead out of the folder.
    """
    digests = {}
    for name, path in _entries(root).items():
        digest = _digest(path)
        if digest is None:
            raise NuggetsError(f"{name!r} in {root} is not a plain file; commit only plain files.")
        digests[name] = digest
    (root / MANIFEST).write_bytes(_canonical(digests))


def verify_folder(path: Path) -> None:
    """Checks a committed folder against its manifest.

    Raises:
        Damaged: naming the first file that is missing, added or altered.
    """
    listed = _read(path)
    found = _entries(path)
    found.pop(MANIFEST, None)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise Damaged(f"{name!r} is missing in {path}. {_ADVICE}")
        if name not in listed:
            raise Damaged(f"{name!r} was added to {path} after its commit. {_ADVICE}")
        digest = _digest(found[name])
        if digest is None or digest != listed[name]:
            raise Damaged(
                f"{name!r} in {path} does not match its sha256 in the manifest. {_ADVICE}"
            )


def _read(root: Path) -> dict[str, str]:
    path = root / MANIFEST
    try:
        data = path.read_bytes()
        files = json.loads(data)["sha256"]
        # Only the exact bytes that we would write are accepted: no flip goes unnoticed.
        if isinstance(files, dict) and data == _canonical(files):
            return files
    except OSError as error:
        reason = error.strerror or str(error)
        raise Damaged(f"{path} cannot be read: {reason}. {_ADVICE}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} is not a manifest. {_ADVICE}") from error
    raise Damaged(f"{path} was changed. {_ADVICE}")


def _canonical(digests: dict[str, str]) -> bytes:
    return (json.dumps({"version": 1, "sha256": digests}, sort_keys=True, indent=1) + "\n").encode()


def _entries(root: Path) -> dict[str, Path]:
    """Everything below `root` that is not a real folder; links are never followed."""
    paths: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        paths += [Path(folder, name) for name in names]
        paths += [Path(folder, name) for name in subfolders if Path(folder, name).is_symlink()]
    return {path.relative_to(root).as_posix(): path for path in paths}


def _digest(path: Path) -> str | None:
    """The sha256 of a plain file; None for a link, pipe or device, which are never opened."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
