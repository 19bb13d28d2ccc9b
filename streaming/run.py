"""A clip edited window by window: what is missing is made, kept at once, and told as it goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ..files.writing import NotSaved
from .shared import taken

if TYPE_CHECKING:
    from PIL.Image import Image

    from .store import Window, WindowStore

#: Longer side of the preview in pixels.
SIDE = 512


class Report(Protocol):
    """Told how many frames are done; raises the host's own exception where the user cancelled."""

    def update(self, value: int, preview: Any = None) -> None: ...


#: ``edit(window, part, room) -> frames [count, H, W, 3]``; calls ``part`` with the share of its work that is done, from
#: 0 to 1, which raises where the user cancelled. The folder ``room`` is its own, also when it is tried again.
Edit = Callable[["Window", Callable[[float], None], Path], Tensor]


def edit_windows(store: WindowStore, size: int, edit: Edit, report: Report,
                 shared: Sequence[Window] | None = None) -> int:
    """Make and keep the frames that no finished window has.

    Args:
        size: frames in a window, beside those that ride along.
        edit: see ``Edit``.
        shared: what was missing when several processes began on it together; see ``shared.taken``.

    Returns:
        how many frames were made here; the others were there, or others made them.

    Raises:
        ValueError: a window came out with another number of frames.
        OSError: a window can not be kept, for a full disk, say. All earlier ones are.
    """
    missing = store.missing(size) if shared is None else shared
    made = 0

    def finished() -> int:
        return store.total - sum(window.count for window in missing if not store.has(window))

    done = finished()
    report.update(done)
    for window in missing if shared is None else taken(store, shared, lambda: report.update(finished())):
        done = finished()

        def part(share: float, before: int = done, window: Window = window) -> None:
            report.update(before + int(share * window.count))

        try:
            frames = edit(window, part, store.room(window))
            if len(frames) != window.count:
                raise ValueError(f"video: {window.count} frames went in and {len(frames)} came out, so it cannot be "
                                 "edited in windows.")
            store.keep(window, frames)
        except NotSaved as error:
            raise NotSaved(error.errno, f"{error} The {done} frames that are finished are kept: make room, and queue "
                           "the edit again.") from error
        shutil.rmtree(store.room(window), ignore_errors=True)
        made += window.count
        done = finished()
        report.update(done, picture(frames[-1]))
    if shared is not None:
        report.update(store.total)
    return made


def picture(frame: Tensor) -> Image:
    """A frame [H, W, 3] in 0..1 as a small picture."""
    from PIL import Image

    shown = Image.fromarray((frame.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy())
    shown.thumbnail((SIDE, SIDE))
    return shown
