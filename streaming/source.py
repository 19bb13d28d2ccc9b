"""Frames of a VIDEO by their numbers, a few at a time: memory does not grow with the clip."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..methods.content_hash import content_hash
from ..methods.stored import digest_of
from ..video.audio import read_audio
from ..video.clip import as_rate
from ..video.frames_of import fitted_frames, source_of
from ..video.geometry import for_a_model
from ..video.probe import VideoInfo, probe
from ..video.read import check_range, count_pictures, iter_pictures
from ..video.source import Source, name_of
from ..video.timecode import moved


@dataclass
class FileFrames:
    """Frames ``start``, ``start + stride``, ... of a video file.

    Args:
        source: path or binary file.
        start, count, stride: as ``video.read.read_clip`` has them; count 0 takes all.
        geometry: its settings size, fit, multiple and background.
        window: (begin, length) in seconds of the part that counts as the clip; length 0: to the end.

    Raises:
        FileNotFoundError, ValueError: see ``video.probe.probe``; a start past the end.
    """

    source: Source
    start: int = 0
    count: int = 0
    stride: int = 1
    geometry: Mapping[str, Any] = field(default_factory=dict)
    window: tuple[float, float] = (0.0, 0.0)
    info: VideoInfo = field(init=False)
    total: int = field(init=False)
    fps: Fraction = field(init=False)
    notes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        check_range(self.start, self.count, self.stride)
        self.info = probe(self.source)
        there = self._places()
        if self.start >= there:
            raise ValueError(f"{self.info.name}: start {self.start} is past the end; the clip has {there} frames.")
        rest = -(-(there - self.start) // self.stride)
        self.total = min(self.count or rest, rest)
        self.fps = self.info.fps / self.stride
        places = (self.total - 1) * self.stride + 1
        report = count_pictures(self.source, self.info, self._origin, self.start, places)
        self.notes = (*self.info.notes, *([report.counted(self.info)] if report.varies else ()))
        for note in self.notes:
            logging.warning("%s: %s", self.info.name, note)
        self._stamp = self._now()

    def read(self, first: int, count: int) -> Iterator[Tensor]:
        """Frames ``first``, ..., float32 [H, W, 3] in 0..1.

        Raises:
            ValueError: the file was written again since it was opened.
        """
        if self._now() != self._stamp:
            raise ValueError(f"video: {name_of(self.source)} was changed while it was being edited; queue the edit "
                             "again, and it begins anew with the changed file.")
        return iter_pictures(self.source, self.start + first * self.stride, count, self.stride, window=self.window,
                             info=self.info, **self.geometry)

    def sound(self) -> Any:
        """AUDIO of the whole range, or None."""
        begin = self._origin + self.start / self.info.fps
        return read_audio(self.source, begin, begin + self.total / self.fps) if self.info.audio else None

    @cached_property
    def content(self) -> str | None:
        """Hash of what the frames are taken from."""
        if isinstance(self.source, (str, os.PathLike)):
            return digest_of(Path(self.source))
        self.source.seek(0)
        return hashlib.sha256(self.source.read()).hexdigest()

    def identity(self) -> Any:
        """What decides its frames, JSON-able: the file by its content, not by its name."""
        return [self.content, self.start, self.count, self.stride, sorted((k, v) for k, v in self.geometry.items()),
                list(self.window)]  # fmt: skip

    @property
    def name(self) -> str:
        """Of the file, with its folder where it lies in one."""
        return os.fspath(self.source) if isinstance(self.source, (str, os.PathLike)) else name_of(self.source)

    @property
    def has_sound(self) -> bool:
        """Whether there is any."""
        return self.info.audio

    @property
    def timecode(self) -> str | None:
        """HH:MM:SS:FF of the first frame, where the file has one."""
        return moved(self.info.timecode, self.info.fps, self._origin - self.info.begin + self.start / self.info.fps,
                     self.stride)  # fmt: skip

    @property
    def _origin(self) -> Fraction:
        return self.info.begin + Fraction(self.window[0]).limit_denominator(10**6)

    def _places(self) -> int:
        """Places of the grid: those whose middle lies inside."""
        end = self.info.end
        if self.window[1]:
            end = min(end, self._origin + Fraction(self.window[1]).limit_denominator(10**6))
        return max(1, int(-(-((end - self._origin) * self.info.fps - Fraction(1, 2)) // 1)))

    def _now(self) -> tuple[int, int] | None:
        if not isinstance(self.source, (str, os.PathLike)):
            return None
        status = os.stat(self.source)
        return status.st_mtime_ns, status.st_size


@dataclass
class HeldFrames:
    """The same of a VIDEO that was made of tensors, which are in memory already."""

    parts: Any
    start: int = 0
    count: int = 0
    stride: int = 1
    geometry: Mapping[str, Any] = field(default_factory=dict)
    total: int = field(init=False)
    fps: Fraction = field(init=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_range(self.start, self.count, self.stride)
        there = len(self.parts.images)
        if self.start >= there:
            raise ValueError(f"video: start {self.start} is past the end; the clip has {there} frames.")
        rest = -(-(there - self.start) // self.stride)
        self.total = min(self.count or rest, rest)
        self.fps = as_rate(self.parts.frame_rate) / self.stride

    def read(self, first: int, count: int) -> Iterator[Tensor]:
        """As ``FileFrames.read``."""
        return iter(self._clip(first, count).frames)

    def sound(self) -> Any:
        """As ``FileFrames.sound``."""
        return self._clip(0, self.total).audio

    @cached_property
    def content(self) -> str | None:
        """As ``FileFrames.content``."""
        return content_hash([content_hash(image) for image in self.parts.images])

    def identity(self) -> Any:
        """As ``FileFrames.identity``."""
        return [self.content, self.start, self.count, self.stride,
                sorted(self.geometry.items()), float(self.parts.frame_rate)]  # fmt: skip

    name = "the video"
    #: The host's tensors have none.
    timecode = None

    @property
    def has_sound(self) -> bool:
        """Whether there is any."""
        return bool(self.parts.audio)

    def _clip(self, first: int, count: int) -> Any:
        return fitted_frames(self.parts, self.start + first * self.stride, count, self.stride, **self.geometry)


Frames = FileFrames | HeldFrames


def frames_from(video: Any, start: int = 0, count: int = 0, stride: int = 1, **shape: Any) -> Frames:
    """The frames of a VIDEO value.

    Args:
        shape: arguments of ``video.geometry.for_a_model``.

    Raises:
        TypeError: not a VIDEO.
        FileNotFoundError, ValueError: as ``FileFrames``.
    """
    source, geometry = source_of(video), for_a_model(**shape)
    if source is None:
        return HeldFrames(video.get_components(), start, count, stride, geometry)
    window = video.get_active_trim_window() if hasattr(video, "get_active_trim_window") else (0.0, 0.0)
    return FileFrames(source, start, count, stride, geometry, window)
