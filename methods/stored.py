"""What is kept on disk between runs: it names itself, it is checked when it is read, and one process works at a time.

A file that is damaged, belongs to something else or holds values that are not finite is set aside under another name,
with a warning that gives its path, and the work is done again: a fault on the disk costs time, never a result.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from .finite import finite
from .tensor_file import read_tensors, write_tensors

log = logging.getLogger(__name__)

#: Where a stored file has its value in the metadata.
KEY = "steadyedit_stored"
#: Seconds between two looks at a lock that another process holds.
WAIT = 0.5


def store(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any], value: Any = None) -> None:
    """Write tensors and a JSON value as a file that says what it is.

    Args:
        description: JSON-able; what ``stored`` must be given to find the file again, such as kind, version and the
            hash of everything that decides the content.

    Raises:
        OSError: one sentence with the reason; no partial file is left.
        ValueError: a tensor is not finite.
    """
    check_tensors(path, tensors)
    write_tensors(path, tensors, KEY, {"description": dict(description), "value": value})


def stored(path: Path, description: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any] | None:
    """What ``store`` wrote under this description; None where there is none. What is no such file is set aside."""
    if not path.is_file():
        return None
    try:
        tensors, held = read_tensors(path, KEY, digest=True)
        if not isinstance(held, dict) or held.get("description") != dict(description):
            raise ValueError(f"{path.name}: was kept for something else.")
        check_tensors(path, tensors)
    except ValueError as error:
        set_aside(path, str(error))
        return None
    return tensors, held["value"]


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a file's tensor holds NaN or infinite values."""
    for name, tensor in tensors.items():
        if not finite(tensor):
            raise ValueError(f"{Path(path).name}: {name} holds values that are not finite.")


def set_aside(path: Path, why: str) -> None:
    """Rename a file or folder that cannot be used, and warn with its path."""
    aside = path.with_name(path.name + ".damaged")
    try:
        if aside.is_dir():
            shutil.rmtree(aside)
        path.replace(aside)
        log.warning("%s It is set aside as %s, and the work is done again.", why, aside)
    except OSError as error:
        log.warning("%s %s is not used, and the work is done again (%s).", why, path, error.strerror or error)


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits; read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def locked(path: Path, work: str, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The only process, and the only thread, inside the ``with`` that names this path.

    Args:
        path: of the lock file, which goes afterwards. Who waited should look for the other's result first.
        work: what is being waited for, for the log.
        wait: called twice a second while another one is inside; may raise to give up, by a cancel for one.
    """
    from filelock import FileLock, Timeout

    lock = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        warned = False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=WAIT)
            except Timeout:
                if not warned:
                    log.warning("%s: another process is at work on the same; waiting for it (%s).", work, path)
                warned = True
                wait()
    except (NotImplementedError, OSError) as error:
        # A folder that takes no files, or a file system without locks: nothing will be kept, or two may do the same.
        log.warning("%s: no lock in %s (%s); going on without one.", work, path.parent, error)
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                # Who waits opens it anew at every look. In the moment between, two could come in: that costs work only,
                # since every file is written as a whole.
                path.unlink(missing_ok=True)
            lock.release()
