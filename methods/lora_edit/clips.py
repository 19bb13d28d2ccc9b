"""The paper's low-cost option: a clip as shorter ones that overlap by a frame."""

from __future__ import annotations

from .packing import check_frames


def clip_ranges(frames: int, length: int, overlap: int = 1) -> list[range]:
    """Frames of each short clip: 49 in clips of 13 are 0-12, 12-24, 24-36 and 36-48.

    A last clip that would reach beyond the end begins earlier, so that all have one length.

    Args:
        frames: 4N + 1, of the whole clip.
        length: 4N + 1, of a short one; 0, or one that is not shorter, leaves the clip whole.
        overlap: 4N + 1, frames that neighbours share at the least.

    Raises:
        ValueError: one of them is not 4N + 1, or the overlap is no smaller than a clip.
    """
    check_frames("video", frames)
    if length <= 0 or length >= frames:
        return [range(frames)]
    check_frames("clip_length", length)
    if length == 1:
        raise ValueError("clip_length: clips of 1 frame hold no motion; use 5 or more, or 0 for the whole clip.")
    check_frames("overlap", overlap)
    if overlap >= length:
        raise ValueError(f"overlap: expected fewer than the {length} frames of a clip, but got {overlap}.")
    starts = range(0, frames - overlap, length - overlap)
    return [range(start, start + length) for start in (min(start, frames - length) for start in starts)]
