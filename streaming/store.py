"""Finished windows on disk: each says what it is, is checked before it is used, and goes on after a kill."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..methods.stored import store, stored

KIND = {"kind": "window of an edited clip", "version": 1}
ENDING = ".window"
FRAMES = "frames"


@dataclass(frozen=True)
class Window:
    """Frames ``first`` .. ``first + count - 1`` of a clip."""

    first: int
    count: int

    @property
    def stop(self) -> int:
        """Behind its last frame."""
        return self.first + self.count


@dataclass(frozen=True)
class WindowStore:
    """The finished windows of one edit.

    Args:
        folder: of this edit alone.
        identity: hash of everything that decides its frames. The size of windows does not: those of another size
            are used where they fit.
        total: frames of the clip.
    """

    folder: Path
    identity: str
    total: int

    def keep(self, window: Window, frames: Tensor) -> None:
        """Write a finished window, whole or not at all, as it will go into the video: 8 bits.

        Raises:
            OSError: one sentence with the reason, such as a full disk; earlier windows stay.
        """
        pictures = (frames.clamp(0, 1) * 255).round().to(torch.uint8)
        store(self._path(window), {FRAMES: pictures}, self._description(window))

    def finished(self) -> list[Window]:
        """What is there and whole, in order, without overlaps. What is damaged, of another edit or of another machine
        is set aside with a sentence in the log."""
        found: list[Window] = []
        for window in sorted(self._named(), key=lambda window: (window.first, -window.count)):
            fits = window.stop <= self.total and (not found or window.first >= found[-1].stop)
            if fits and self._held(window) is not None:
                found.append(window)
        return found

    def has(self, window: Window) -> bool:
        """Whether a file of it is there; ``finished`` and ``frames`` say whether it is whole."""
        return self._path(window).is_file()

    def missing(self, size: int) -> list[Window]:
        """The frames that no finished window has, in windows of at most ``size``."""
        gaps, at = [], 0
        for window in [*self.finished(), Window(self.total, 0)]:
            gaps += [Window(first, min(size, window.first - first)) for first in range(at, window.first, size)]
            at = window.stop
        return gaps

    def frames(self) -> Iterator[Tensor]:
        """All frames of the clip, float32 [H, W, 3] in 0..1, one window in memory at a time.

        Raises:
            ValueError: a window is damaged or missing since ``missing`` was asked.
        """
        at = 0
        while at < self.total:
            here = sorted((window.count for window in self._named() if window.first == at), reverse=True)
            found = (self._held(Window(at, count)) for count in here)
            pictures = next((pictures for pictures in found if pictures is not None), None)
            if pictures is None:
                raise ValueError(f"video: its edited frames from {at} on were damaged on the disk; queue the edit "
                                 "again, and they alone are made anew.")
            yield from (picture.float() / 255 for picture in pictures)
            at += len(pictures)

    def room(self, window: Window) -> Path:
        """A folder for what a window's edit keeps while it is at work."""
        return self.folder / f"{window.first:07}+{window.count}"

    def remove(self) -> None:
        """Remove all windows."""
        for path in self.folder.glob(f"*{ENDING}"):
            path.unlink(missing_ok=True)

    def _held(self, window: Window) -> Tensor | None:
        found = stored(self._path(window), self._description(window))
        return None if found is None else found[0][FRAMES]

    def _named(self) -> list[Window]:
        names = (re.fullmatch(rf"(\d+)\+(\d+)\{ENDING}", path.name) for path in self.folder.glob(f"*{ENDING}"))
        return [Window(int(match[1]), int(match[2])) for match in names if match]

    def _path(self, window: Window) -> Path:
        return self.folder / f"{window.first:07}+{window.count}{ENDING}"

    def _description(self, window: Window) -> dict[str, Any]:
        return {**KIND, "edit": self.identity, "first": window.first, "count": window.count}
