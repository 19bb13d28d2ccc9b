"""Read a range of a video file: a constant rate laid over any timestamps, with its sound.

The rule: a clip's rate is the file's mean rate, and frame k of the clip is what a player
shows in the middle of the k-th interval of length 1 / fps. A file of constant rate gives
each of its frames once, also where its clock is coarse (webm counts milliseconds); at a
variable rate frames are repeated or left out so that picture and sound stay together.
``TIMINGS`` has the two other ways to treat a variable rate.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from .audio import read_audio
from .clip import VideoClip
from .geometry import Size, pixels, plan
from .memory import check_memory
from .probe import VideoInfo, probe
from .source import Source, decoded, open_source, video_stream
from .timecode import moved

# Further back than the keyframe distance of nearly every encoder; see _frames_from.
_STEPS_BACK = (0, 2, 12)

#: The grid of the mean rate; of the finest, on which no picture is lost; or no grid: each picture once.
MEAN, FINEST, EVERY = "mean rate", "finest rate", "every picture"
TIMINGS = (MEAN, FINEST, EVERY)


@dataclass
class Report:
    """What happened while frames were read.

    Args:
        left_out: pictures in the range that no place of the grid shows.
        repeated: places that show the picture of the place before.
        pictures: pictures in the range.
        time: when the first frame of the result is shown, in seconds of the file's clock.
        place: of the grid, that the next picture begins at.
    """

    left_out: int = 0
    repeated: int = 0
    pictures: int = 0
    time: Fraction | None = None
    place: int = 0

    def count(self, place: int) -> None:
        """The next picture is shown up to before ``place``."""
        places = place - self.place
        self.pictures += 1
        self.left_out += places <= 0
        self.repeated += max(0, places - 1)
        self.place = place

    @property
    def varies(self) -> bool:
        """Whether pictures are lost or stand longer than one place."""
        return bool(self.left_out or self.repeated > 1)

    def notes(self, info: VideoInfo, timing: str) -> tuple[str, ...]:
        """What a user should know, in words."""
        if timing == EVERY and self.repeated:
            rate = f"{float(info.fps):.5g} a second"
            return (*info.notes, f"variable frame rate: each picture stands once, at {rate}, out of its own time")
        if self.varies:
            others = " and ".join(f"'{other}'" for other in TIMINGS if other != timing)
            return (*info.notes, f"{self.counted(info)}; timing also offers {others}")
        return info.notes

    def counted(self, info: VideoInfo) -> str:
        """How many pictures the grid of a variable rate loses and repeats, in words."""
        return (f"variable frame rate: on the grid of {float(info.fps):.5g} a second, {self.left_out} of "
                f"{self.pictures} pictures are left out and {self.repeated} repeated")


def read_clip(
    source: Source,
    start: int = 0,
    count: int = 0,
    stride: int = 1,
    size: Size = None,
    *,
    fit: str = "crop",
    multiple: int = 1,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    window: tuple[float, float] = (0.0, 0.0),
    timing: str = MEAN,
    progress: Callable[[int, int], None] | None = None,
) -> VideoClip:
    """Decode frames ``start``, ``start + stride``, ... and the sound of that range.

    Only the range is decoded (from the keyframe before it) and only the frames asked for
    are held in memory, once, at their final size.

    Args:
        source: path or binary file of anything that PyAV reads.
        start: first frame, counted on the constant-rate grid.
        count: number of frames in the result, 0 for all; fewer come where the clip ends.
        stride: take every stride-th frame; the rate falls by it, the sound stays.
        size, fit, multiple: see ``geometry.plan``. Rotation and pixel aspect are applied.
        background: RGB in 0..1 behind transparent pixels and around padded frames.
        window: (begin, length) in seconds of the part that counts as the clip; length 0
            means to the end.
        timing: one of ``TIMINGS``, where the file's rate is variable.
        progress: called with the frames read so far and expected; may raise to cancel.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no video, damaged or cut short before the range's end, zero frames,
            a start past the end, or settings out of range. One sentence each.
        MemoryError: the frames would not fit into memory.
    """
    check_range(start, count, stride, timing)
    info, report = probe(source, timing == FINEST), Report()
    expected = -(-max(1, _places(info, window) - start) // stride)
    expected = min(count or expected, expected)
    layout = plan(*info.shown, size, fit, multiple)
    frames, read, last = torch.empty(0), 0, None
    for frame in _chosen(source, start, count, stride, window, timing, info, report):
        if not read:
            check_memory(info.name, expected * 3 * layout.canvas[0] * layout.canvas[1])
            frames, reformatter = torch.empty(expected, *reversed(layout.canvas), 3), VideoReformatter()
        if read == len(frames):  # the header promised fewer
            frames = torch.cat([frames, torch.empty_like(frames[: max(8, read // 4)])])
        if frame is last:
            frames[read] = frames[read - 1]
        else:
            pixels(frame, layout, info.colour, background, reformatter=reformatter, out=frames[read])
        last, read = frame, read + 1
        if progress is not None:
            progress(read, max(read, expected))
    fps = info.fps / stride
    begin = report.time
    audio = read_audio(source, begin, begin + read / fps) if info.audio and begin is not None else None
    notes = report.notes(info, timing)
    for note in notes:
        logging.warning("%s: %s", info.name, note)
    # On another grid, or none, frames are not the ones that a timecode counts.
    known = info.timecode if timing == MEAN and begin is not None else None
    timecode = moved(known, info.fps, begin - info.begin if begin is not None else Fraction(0), stride)
    # A view would keep what was not filled.
    return VideoClip(frames if read == len(frames) else frames[:read].clone(), fps, audio, notes, timecode)


def _places(info: VideoInfo, window: tuple[float, float]) -> int:
    """How many frames of the constant rate a window has, by the header."""
    begin, length = (seconds * info.fps for seconds in window)
    rest = info.frames - begin
    return math.ceil((min(rest, length) if length else rest) - 0.5)


def count_pictures(source: Source, info: VideoInfo, origin: Fraction, start: int, places: int) -> Report:
    """What reading ``places`` of the grid of the mean rate would report, by the packets' times, without decoding.

    Args:
        origin: when place 0 begins, in seconds of the file's clock.
        start: first place.
    """
    with open_source(source) as container:
        stream = video_stream(container, info.name)
        shown = [packet.pts for packet in container.demux(stream)
                 if packet.size and not packet.is_discard and packet.pts is not None]  # fmt: skip
        times = sorted(time for time in (pts * stream.time_base for pts in shown) if time >= info.begin)
    report = Report(place=start)
    for end in [*times[1:], info.end]:
        place = -int(-((end - origin) * info.fps - Fraction(1, 2)) // 1)
        if place <= start and report.pictures == 0:
            continue
        report.count(place)
        if place >= start + places:
            break
    return report


def iter_frames(*where: Any, **settings: Any) -> Iterator[np.ndarray]:
    """``iter_pictures`` as uint8 [H, W, 3]."""
    for picture in iter_pictures(*where, **settings):
        yield (picture * 255).round_().to(torch.uint8).numpy()


def iter_pictures(
    source: Source,
    start: int = 0,
    count: int = 0,
    stride: int = 1,
    size: Size = None,
    *,
    fit: str = "crop",
    multiple: int = 1,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    window: tuple[float, float] = (0.0, 0.0),
    timing: str = MEAN,
    info: VideoInfo | None = None,
    report: Report | None = None,
) -> Iterator[Tensor]:
    """The frames of ``read_clip`` one by one, float32 [H, W, 3], for clips of any length.

    Args:
        info: what ``probe`` said of the source, if that is known already.
        report: is filled while reading.
    """
    check_range(start, count, stride, timing)
    info, report = info or probe(source, timing == FINEST), report or Report()
    layout, reformatter = plan(*info.shown, size, fit, multiple), VideoReformatter()
    last, picture = None, torch.empty(0)
    for frame in _chosen(source, start, count, stride, window, timing, info, report):
        if frame is not last:
            last, picture = frame, pixels(frame, layout, info.colour, background, reformatter=reformatter)
        yield picture


def _chosen(source: Source, start: int, count: int, stride: int, window: tuple[float, float], timing: str,
            info: VideoInfo, report: Report) -> Iterator[av.VideoFrame]:  # fmt: skip
    """The decoded frames that a range shows, one for each of its places: the same again where it stands longer."""
    origin = info.begin + Fraction(window[0]).limit_denominator(10**6)
    limit = origin + Fraction(window[1]).limit_denominator(10**6) if window[1] else None
    moments = _each(source, info, origin) if timing == EVERY else _grid(source, info, origin, start)
    given, end, report.place = 0, origin, start
    for index, shown, begin, end in moments:
        if limit is not None and begin >= limit:
            break
        report.count(-int(-((end - origin) * info.fps - Fraction(1, 2)) // 1))
        while not (count and given == count):
            wanted = start + given * stride
            if timing == EVERY:
                if index != wanted:
                    break
            else:
                moment = origin + (wanted + Fraction(1, 2)) / info.fps
                if moment >= end or (limit is not None and moment >= limit):
                    break
            if report.time is None:
                report.time = begin if timing == EVERY else origin + start / info.fps
            yield shown
            given += 1
        if (count and given == count) or (limit is not None and end >= limit):
            break
    else:
        _check_complete(info, start, given, end)
    if not given:
        frames = round(((limit or end) - origin) * info.fps)
        raise ValueError(f"{info.name}: start {start} is past the end; the clip has {frames} frames.")


def _grid(source: Source, info: VideoInfo, origin: Fraction, start: int) -> Iterator[tuple]:
    """(None, frame, begin, end) from the frame that place ``start`` shows."""
    before = origin
    for frame, end in _intervals(source, info, origin + (start + Fraction(1, 2)) / info.fps):
        yield None, frame, before, end
        before = end


def _each(source: Source, info: VideoInfo, origin: Fraction) -> Iterator[tuple]:
    """(number, frame, begin, end) of all frames from ``origin`` on."""
    before, number = info.begin, 0
    for frame, end in _intervals(source, info, info.begin):
        if (before + end) / 2 >= origin:
            yield number, frame, before, end
            number += 1
        before = end


def check_range(start: int, count: int, stride: int, timing: str = MEAN) -> None:
    """Raises ValueError, naming the setting, where a range makes no sense."""
    if timing not in TIMINGS:
        raise ValueError(f"timing: expected one of {', '.join(TIMINGS)}, but got {timing!r}.")
    for label, value, least in (("start", start, 0), ("count", count, 0), ("stride", stride, 1)):
        if value < least:
            raise ValueError(f"{label}: at least {least} is needed, but got {value}.")


def _intervals(source: Source, info: VideoInfo, moment: Fraction) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """(frame, end) for the frames shown from ``moment`` on; gaps show the frame before."""
    shown, end = None, info.begin
    # A deinterlacer looks at the frames around: it begins two further back.
    early = moment - 2 / info.fps if info.interlaced else moment
    for frame, time, length in _frames_from(source, info, early):
        if shown is not None and time > moment:
            yield shown, time
        # A last frame that says nothing, or something absurd, lasts as long as the others.
        shown, end = frame, time + (length if 0 < length * info.fps < 100 else 1 / info.fps)
    if shown is not None:
        yield shown, end


def _frames_from(
    source: Source, info: VideoInfo, moment: Fraction
) -> Iterator[tuple[av.VideoFrame, Fraction, Fraction]]:
    """(frame, time, stated length), the first at or before ``moment``.

    Some containers jump to the nearest frame, not to the keyframe before it, or cannot jump:
    the first frame's own timestamp decides whether a jump is good; else go back further,
    at last to the beginning.
    """
    jumps = [moment - back for back in _STEPS_BACK if info.seekable and moment - back > info.begin + 1]
    for jump in [*jumps, None]:
        with open_source(source) as container:
            stream = video_stream(container, info.name)
            stream.thread_type = "AUTO"
            if jump is not None:
                try:
                    container.seek(int(jump / stream.time_base), stream=stream)
                except av.error.FFmpegError:
                    continue
            time = info.begin - 1 / info.fps
            good = jump is None
            for frame in decoded(container, stream):
                # Frames that leave the decoder last know no time base of their own.
                time = time + 1 / info.fps if frame.pts is None else frame.pts * stream.time_base
                if not good and (frame.pts is None or time > moment):
                    break
                good = True
                yield frame, time, (getattr(frame, "duration", 0) or 0) * stream.time_base
            if good:
                return


def _check_complete(info: VideoInfo, start: int, given: int, end: Fraction) -> None:
    """Raise if the file ended before its header's promise and the range wanted more."""
    if info.promised_end is None:
        return
    there, promised = (max(0, round((moment - info.begin) * info.fps)) for moment in (end, info.promised_end))
    # Encoders round their promise up by a frame or two; a cut file lacks more.
    if promised - there > max(2, promised // 100):
        advice = f"; set count to {given} to use them" if given else ""
        raise ValueError(
            f"{info.name}: the file is cut short: of {promised} frames only the first {there} can be read"
            f" ({given} of them in the range from frame {start}{advice})."
        )
