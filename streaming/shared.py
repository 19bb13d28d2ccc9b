"""One edit's windows among several processes: each takes the next that no other one is at work on.

A process holds a window's lock while it is at work on it, and a lock goes with its process: what a dead one leaves is
taken up by another, with the steps that it had kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .store import Window, WindowStore

#: Seconds between two looks at windows that others are at work on.
WAIT = 0.2


def taken(store: WindowStore, windows: Sequence[Window], wait: Callable[[], None]) -> Iterator[Window]:
    """Windows for this process, one at a time, until all are finished by whomever.

    Args:
        windows: the same for all processes.
        wait: called while others are at work on all that is left; may raise to give up.

    Raises:
        OSError: the folder takes no locks; one sentence.
    """
    from filelock import FileLock, Timeout

    left = list(windows)
    while left := [window for window in left if not store.has(window)]:
        if not store.folder.is_dir():
            return  # whoever wrote the video has removed the windows
        for window in left:
            lock = FileLock(lock_of(store, window))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            except (NotImplementedError, OSError) as error:
                raise OSError(f"{store.folder.parent}: takes no locks of files ({error}), by which several processes "
                              "share out their work; choose another --output, or one process.") from error
            try:
                if not store.has(window):
                    yield window
            finally:
                lock.release()
            break
        else:
            wait()
            time.sleep(WAIT)


def lock_of(store: WindowStore, window: Window) -> Path:
    """The file whose lock a window's process holds."""
    return store.room(window).with_suffix(".lock")
