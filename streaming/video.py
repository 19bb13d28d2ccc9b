"""From a clip and its edit to a video file: windows on disk first, then the file with its sound and rate."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ..files.cache import limit_bytes, trim
from ..files.writing import NotSaved, write_bytes
from ..methods.stored import digest_of, locked, set_aside
from ..video.write import write_clip
from .run import Edit, Report, edit_windows
from .store import ENDING, WindowStore

if TYPE_CHECKING:
    from .source import Frames

log = logging.getLogger(__name__)

#: Folder of streamed edits inside that of finished and interrupted work.
FOLDER = "streams"
VIDEO, DIGEST, ABOUT = "edited.mp4", "edited.json", "about.json"


def edited_video(edit: Edit, clip: Frames, identity: str | None, cache: Path, size: int,
                 report: Report) -> tuple[Path, int]:  # fmt: skip
    """The edited clip as a file, with the source's rate, sound and timecode.

    A finished one is found again; windows of an interrupted one are used. Both are checked by their digests first.

    Args:
        edit: see ``run.Edit``.
        identity: hash of everything that decides its frames; None where it can not be told, so that nothing is found.
        cache: folder of finished and interrupted work.
        size: frames in a window.

    Returns:
        the file, and how many frames were made for it now.

    Raises:
        ValueError, OSError: one sentence; finished windows stay for the next try.
    """
    if identity is None:
        log.warning("guider: something on it has no content that can be compared, so that this edit begins anew when "
                    "it is queued again.")
    folder = cache / FOLDER / (identity or uuid4().hex)[:24]
    with locked(folder.with_suffix(".lock"), "streamed edit", lambda: report.update(0)):
        if (found := finished(folder)) is not None:
            report.update(clip.total)
            return found, 0
        trim(cache, limit_bytes(), keep=set(folder.glob("*")))
        tell_of_another(folder, clip)
        store = WindowStore(folder, identity or folder.name, clip.total)
        made = edit_windows(store, size, edit, report)
        return written(folder, store, clip), made


def tell_of_another(folder: Path, clip: Frames) -> None:
    """Note which file an edit is of, and say so where an interrupted one is of another file of the same name."""
    about = {"name": clip.name, "content": clip.content}
    for other in folder.parent.glob(f"*/{ABOUT}"):
        with suppress(OSError, ValueError):
            windows = len(list(other.parent.glob(f"*{ENDING}")))
            held = json.loads(other.read_text())
            if windows and held["name"] == about["name"] and held["content"] != about["content"]:
                log.warning("video: %s is another file than when an earlier edit of it was interrupted, so that it is "
                            "edited from its beginning; %d finished windows of the earlier one stay in %s.",
                            clip.name, windows, other.parent)
    write_bytes(folder / ABOUT, json.dumps(about).encode())


def finished(folder: Path) -> Path | None:
    """The finished video of an edit, if it is there as it was written."""
    path = folder / VIDEO
    try:
        if json.loads((folder / DIGEST).read_text()) == digest_of(path):
            return path
        set_aside(path, f"{path.name}: was changed or damaged since it was written.")
    except (OSError, ValueError):
        pass
    return None


def written(folder: Path, store: WindowStore, clip: Frames) -> Path:
    """The video of all finished windows, which go then, with the sound and the timecode of what was edited."""
    try:
        path = write_clip(folder / VIDEO, store.frames(), clip.fps, clip.sound(), timecode=clip.timecode,
                          count=store.total)  # fmt: skip
        write_bytes(folder / DIGEST, json.dumps(digest_of(path)).encode())
    except NotSaved as error:
        raise NotSaved(error.errno, f"{error} All {store.total} frames are finished and kept: make room, and queue the "
                       "edit again.") from error
    store.remove()
    return path
