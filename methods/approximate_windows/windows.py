"""How a clip is cut into overlapping windows, and how much each has of a frame: whole numbers and weights, no tensors
of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Which frames of the clip every window sees beside its own.
ANCHORS = ("none", "first", "keyframes")


@dataclass(frozen=True, eq=False)
class Window:
    """One window.

    Args:
        ids: the frames that one evaluation of it sees, ascending: the window's own, and the anchors that are not
            among them.
        anchors: of ``ids`` those that are anchors from elsewhere.
        own: places of the window's own frames in ``ids``.
        weights: of its answer for each of them, [len(own)], float64; for every frame of the clip those of all windows
            sum to 1.
    """

    ids: tuple[int, ...]
    anchors: tuple[int, ...]
    own: tuple[int, ...]
    weights: Tensor

    @property
    def frames(self) -> tuple[int, ...]:
        """The window's own."""
        return tuple(self.ids[place] for place in self.own)


def spans(frames: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """First frame and end of every window: as few windows as there can be, evenly spread, so that neighbours share
    ``overlap`` frames or more; one window where the clip is not longer than it.

    Raises:
        ValueError: a window is empty, or shares all of its frames.
    """
    if length < 1:
        raise ValueError(f"length: expected 1 frame or more in a window, but got {length}.")
    if not 0 <= overlap < length:
        raise ValueError(f"overlap: expected 0 to {length - 1}, fewer than a window's {length} frames, but got "
                         f"{overlap}.")
    if frames <= length:
        return [(0, frames)]
    count = -(-(frames - overlap) // (length - overlap))
    # Rounded half up in whole numbers, so that no window hangs on a float.
    starts = [(2 * i * (frames - length) + count - 1) // (2 * (count - 1)) for i in range(count)]
    return [(start, start + length) for start in starts]


def anchors_of(frames: int, anchors: str, keyframes: int) -> tuple[int, ...]:
    """Numbers of the frames that all windows share: none, the first, or ``keyframes`` of them evenly spread over the
    clip, first and last included.

    Raises:
        ValueError: unknown anchors, or no keyframe.
    """
    if anchors not in ANCHORS:
        raise ValueError(f"anchors: expected one of {', '.join(ANCHORS)}, but got {anchors!r}.")
    if keyframes < 1:
        raise ValueError(f"keyframes: expected 1 or more, but got {keyframes}.")
    if anchors == "none":
        return ()
    count = min(keyframes, frames)
    if anchors == "first" or count == 1:
        return (0,)
    return tuple((2 * i * (frames - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


def windows_of(frames: int, length: int, overlap: int, anchors: tuple[int, ...] = ()) -> list[Window]:
    """All windows of a clip.

    A window's share of a frame falls evenly towards an edge that has a neighbour, over as many frames as the two
    nearest windows share, and is then divided by the sum over all windows.

    Args:
        frames: of the clip.
        length: own frames of a window.
        overlap: frames that neighbours share at the least.
        anchors: see ``anchors_of``.

    Raises:
        ValueError: see ``spans``.
    """
    cut = spans(frames, length, overlap)
    raw = torch.zeros(len(cut), frames, dtype=torch.float64)
    for n, (start, stop) in enumerate(cut):
        left = cut[n - 1][1] - start + 1 if n else 1
        right = stop - cut[n + 1][0] + 1 if n + 1 < len(cut) else 1
        for i in range(start, stop):
            raw[n, i] = min(1.0, (i - start + 1) / left, (stop - i) / right)
    shares = raw / raw.sum(0)
    found = []
    for n, (start, stop) in enumerate(cut):
        beside = tuple(i for i in anchors if not start <= i < stop)
        ids = tuple(sorted((*range(start, stop), *beside)))
        own = tuple(place for place, i in enumerate(ids) if start <= i < stop)
        found.append(Window(ids, beside, own, shares[n, start:stop]))
    return found
