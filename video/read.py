"""Read a range of a video file: a constant rate laid over any timestamps, with its sound.

The rule: a clip's rate is the file's mean rate, and frame k of the clip is what a player
shows in the middle of the k-th interval of length 1 / fps. A file of constant rate gives
each of its frames once, also where its clock is coarse (webm counts milliseconds); at a
variable rate frames are repeated or left out so that picture and sound stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np
import torch

from .audio import read_audio
from .clip import VideoClip
from .geometry import Size, pixels, plan, shown_size
from .probe import VideoInfo, first_frame, probe
from .source import Source, decoded, open_source, video_stream

# Further back than the keyframe distance of nearly every encoder; see _frames_from.
_STEPS_BACK = (0, 2, 12)


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
    progress: Callable[[int, int], None] | None = None,
) -> VideoClip:
    """Decode frames ``start``, ``start + stride``, ... and the sound of that range.

    Only the range is decoded (from the keyframe before it) and only the frames asked for
    are held in memory, at their final size.

    Args:
        source: path or binary file of anything that PyAV reads.
        start: first frame, counted on the constant-rate grid.
        count: number of frames in the result, 0 for all; fewer come where the clip ends.
        stride: take every stride-th frame; the rate falls by it, the sound stays.
        size, fit, multiple: see ``geometry.plan``. Rotation and pixel aspect are applied.
        background: RGB in 0..1 behind transparent pixels and around padded frames.
        window: (begin, length) in seconds of the part that counts as the clip; length 0
            means to the end.
        progress: called with the frames read so far and expected; may raise to cancel.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no video, damaged or cut short before the range's end, zero frames,
            a start past the end, or settings out of range. One sentence each.
        MemoryError: the frames would not fit into memory.
    """
    info = probe(source)
    check_range(start, count, stride)
    expected = -(-max(1, info.frames - start) // stride)
    expected = min(count or expected, expected)
    frames: list[np.ndarray] = []
    images = iter_frames(
        source, start, count, stride, size, fit=fit, multiple=multiple, background=background, window=window, info=info
    )
    for image in images:
        if not frames:
            _check_memory(info.name, image.size * expected)
        frames.append(image)
        if progress is not None:
            progress(len(frames), max(len(frames), expected))
    fps = info.fps / stride
    begin = info.begin + Fraction(window[0]).limit_denominator(10**6) + start / info.fps
    audio = read_audio(source, begin, begin + len(frames) / fps) if info.audio else None
    return VideoClip(_as_tensor(frames), fps, audio)


def iter_frames(
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
    info: VideoInfo | None = None,
) -> Iterator[np.ndarray]:
    """The frames of ``read_clip`` one by one, uint8 [H, W, 3], for clips of any length."""
    check_range(start, count, stride)
    info = info or probe(source)
    origin = info.begin + Fraction(window[0]).limit_denominator(10**6)
    limit = origin + Fraction(window[1]).limit_denominator(10**6) if window[1] else None
    frame = first_frame(source)
    with open_source(source) as container:
        aspect = video_stream(container, info.name).sample_aspect_ratio
    layout = plan(*shown_size(frame, aspect), size, fit, multiple)

    given, end = 0, origin
    for shown, end in _intervals(source, info, origin + (start + Fraction(1, 2)) / info.fps):
        image = None  # converted when a moment falls on it: frames that a stride skips cost nothing
        while not (count and given == count):
            moment = origin + (start + given * stride + Fraction(1, 2)) / info.fps
            if moment >= end or (limit is not None and moment >= limit):
                break
            if image is None:
                image = pixels(shown, layout, background)
            yield image
            given += 1
        if (count and given == count) or (limit is not None and end >= limit):
            break
    else:
        _check_complete(info, start, given, end)
    if not given:
        frames = round(((limit or end) - origin) * info.fps)
        raise ValueError(f"{info.name}: start {start} is past the end; the clip has {frames} frames.")


def check_range(start: int, count: int, stride: int) -> None:
    """Raises ValueError, naming the setting, where a range makes no sense."""
    for label, value, least in (("start", start, 0), ("count", count, 0), ("stride", stride, 1)):
        if value < least:
            raise ValueError(f"{label}: at least {least} is needed, but got {value}.")


def _intervals(source: Source, info: VideoInfo, moment: Fraction) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """(frame, end) for the frames shown from ``moment`` on; gaps show the frame before."""
    shown, end = None, info.begin
    for frame, time, length in _frames_from(source, info, moment):
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
                yield frame, time, (frame.duration or 0) * stream.time_base
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


def _check_memory(name: str, values: int) -> None:
    import psutil

    # uint8 frames are freed one by one while the float32 result fills.
    needed, free = 5 * values, psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"{name}: the frames asked for need {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are"
            " free; set a smaller count or size, or a larger stride."
        )


def _as_tensor(frames: list[np.ndarray]) -> torch.Tensor:
    result = torch.empty((len(frames), *frames[0].shape), dtype=torch.float32)
    for index in range(len(frames)):
        torch.div(torch.from_numpy(frames[index]), 255.0, out=result[index])
        frames[index] = None  # type: ignore[call-overload]  # its memory is free from here on
    return result
