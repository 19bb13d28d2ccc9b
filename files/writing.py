"""Writing a file as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed: no lock is needed
    fcntl = None  # type: ignore[assignment]

#: Names of files on the way, beside the file that they will be.
TEMPORARY = ".steadyedit-*.part"

_swept: set[str] = set()


class NotSaved(OSError):
    """A file could not be written; ``str()`` is one sentence, ``errno`` the system's number."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; what was written there is moved to ``path`` when the ``with`` ends without an error.

    Readers never see half a file. What a killed process left in the folder is removed.

    Raises:
        NotSaved: one sentence with the reason (a full disk, no permission, a name too long). No partial file
            and no new folder stays behind, and an earlier file under this name is untouched.
    """
    path = Path(path)
    new_folders, temporary, lock = [], None, None
    try:
        new_folders = [folder for folder in (path.parent, *path.parents[1:]) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        if str(path.parent) not in _swept:
            _swept.add(str(path.parent))
            sweep(path.parent)
        temporary, lock = _reserve(path.parent)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        new_folders = []
    except OSError as error:
        # An error over another file, such as one that is read meanwhile, speaks for itself.
        if isinstance(error, NotSaved) or error.filename not in (None, str(temporary), *map(str, path.parents)):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise NotSaved(error.errno, f"{path.name}: could not be saved in {path.parent} ({reason}); "
                       "nothing was left behind.") from error
    finally:
        if lock is not None:
            os.close(lock)
        with suppress(OSError):
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        for folder in new_folders:
            with suppress(OSError):
                folder.rmdir()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file by ``whole``; raises as it does."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def sweep(folder: Path) -> int:
    """Remove what processes that are gone were writing in a folder; returns how many files."""
    removed = 0
    for path in folder.glob(TEMPORARY):
        with suppress(OSError):
            lock = _locked(path)
            if lock is not None or fcntl is None:
                path.unlink()
                removed += 1
            if lock is not None:
                os.close(lock)
    return removed


def _reserve(folder: Path) -> tuple[Path, int | None]:
    """A new temporary file and the lock that says that its writer lives."""
    while True:
        path = folder / TEMPORARY.replace("*", uuid4().hex[:12])
        path.touch(exist_ok=False)
        # Between the two a sweeper may take it.
        with suppress(BlockingIOError, FileNotFoundError):
            lock = _locked(path)
            if path.exists():
                return path, lock
            if lock is not None:
                os.close(lock)


def _locked(path: Path) -> int | None:
    """An open, locked file; None where the system has no such locks.

    Raises:
        BlockingIOError: another holds it.
    """
    if fcntl is None:
        return None
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            raise
        return None
