"""Videos of several methods, paired by their names and written anew so that their pictures alone tell them apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path

from ..video.listing import videos_in
from ..video.probe import VideoInfo, probe
from ..video.read import iter_pictures
from ..video.write import write_clip


@dataclass(frozen=True)
class Video:
    """One method's result for one clip; method -1 is the source."""

    method: int
    clip: str
    path: Path
    info: VideoInfo

    @property
    def seconds(self) -> Fraction:
        return self.info.frames / self.info.fps


def collect(folders: Sequence[Path], names: Sequence[str], problem: Callable[[str], None]) -> dict[str, list[Video]]:
    """Videos of each clip that two methods or more have, in the order of the folders.

    Args:
        folders: one a method. names: theirs, for what is told.
        problem: called with a sentence on what is left out, and why.

    Raises:
        ValueError: no such folder, or two videos of a folder share a name.
    """
    found: dict[str, list[Video]] = {}
    for method, (folder, name) in enumerate(zip(folders, names, strict=True)):
        for clip, path in by_clip(folder).items():
            try:
                found.setdefault(clip, []).append(Video(method, clip, path, probe(path)))
            except (ValueError, OSError) as error:
                problem(f"{name}: {error} It is left out.")
                found.setdefault(clip, [])
    for clip in sorted(found):
        if len(videos := found[clip]) < 2:
            missing = [name for method, name in enumerate(names) if all(video.method != method for video in videos)]
            problem(f"{clip}: left out, since it has nothing to be compared with in {', '.join(missing)}.")
            del found[clip]
    return dict(sorted(found.items()))


def by_clip(folder: Path) -> dict[str, Path]:
    """The videos of a folder by their names without the ending.

    Raises:
        ValueError: no such folder, or two videos share a name.
    """
    found: dict[str, Path] = {}
    for path in videos_in(folder):
        if path.stem in found:
            raise ValueError(f"{folder}: {found[path.stem].name} and {path.name} have one name; keep one of them.")
        found[path.stem] = path
    return found


def unequal(videos: Sequence[Video], names: Sequence[str]) -> str:
    """How the times differ that they play for, in words; nothing where that is half a frame at the most."""
    shortest, longest = min(videos, key=lambda v: v.seconds), max(videos, key=lambda v: v.seconds)
    if longest.seconds - shortest.seconds <= Fraction(1, 2) / max(longest.info.fps, shortest.info.fps):
        return ""
    return ", ".join(f"{names[v.method]} {v.info.frames} frames in {float(v.seconds):.2f} s" for v in videos)


def write_blind(source: Path, path: Path, seconds: Fraction) -> str:
    """Write a video as h264 without sound, title or date; returns a digest of the file.

    Every video is encoded in the same way, so that neither codec nor tags tell a method. Equal pictures at an equal
    rate give equal files.

    Args:
        seconds: how much of it at the most.

    Raises:
        ValueError: the video cannot be read.
    """
    info = probe(source)
    count = min(info.frames, max(1, round(seconds * info.fps)))
    write_clip(path, iter_pictures(source, count=count, info=info), info.fps)
    # When a file was written would tell which folder it comes from.
    os.utime(path, (0, 0))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pairs_of(videos: Sequence[Video], against_first: bool) -> list[tuple[Video, Video]]:
    """All pairs of methods, or those with the first method alone."""
    return [(a, b) for a, b in combinations(videos, 2) if not against_first or a.method == 0]
