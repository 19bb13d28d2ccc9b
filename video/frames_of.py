"""Frames of a host's VIDEO value, whether it lies in a file or in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from torch import Tensor

from .clip import VideoClip, as_rate
from .geometry import Size, centred, plan, resized
from .read import MEAN, check_range, read_clip


def frames_of(
    video: Any,
    start: int = 0,
    count: int = 0,
    stride: int = 1,
    size: Size = None,
    *,
    fit: str = "crop",
    multiple: int = 1,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    timing: str = MEAN,
    progress: Callable[[int, int], None] | None = None,
) -> VideoClip:
    """``read.read_clip`` for a VIDEO object.

    A VIDEO in a file (``get_stream_source``) is read from there, by its trim window if it has
    one, so that frames outside the range never reach memory. One that was made of tensors is
    sliced as it is: asked for a stream, the host would encode it first.

    Raises:
        TypeError: not a VIDEO.
        FileNotFoundError, ValueError, MemoryError: see ``read.read_clip``.
    """
    source = source_of(video)
    if source is None:
        return fitted_frames(video.get_components(), start, count, stride, size, fit, multiple, background)
    window = video.get_active_trim_window() if hasattr(video, "get_active_trim_window") else (0.0, 0.0)
    return read_clip(
        source, start, count, stride, size,
        fit=fit, multiple=multiple, background=background, window=window, timing=timing, progress=progress,
    )  # fmt: skip


def source_of(video: Any) -> str | io.BytesIO | None:
    """The file that a VIDEO lies in; None where it was made of tensors. Raises TypeError where it is no VIDEO."""
    if not hasattr(video, "get_components"):
        raise TypeError(f"video: expected a VIDEO, but got {type(video).__name__}.")
    # A class that inherits the host's default stream would encode its tensors for us.
    if "get_stream_source" not in vars(type(video)):
        return None
    try:
        return video.get_stream_source()
    except ValueError:  # standalone's VIDEO says so where it is in no file
        return None


def fitted_frames(
    parts: Any, start: int = 0, count: int = 0, stride: int = 1, size: Size = None, fit: str = "crop",
    multiple: int = 1, background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> VideoClip:
    """A range of a VIDEO's components, as ``read.read_clip`` gives it of a file."""
    check_range(start, count, stride)
    total = len(parts.images)
    if total == 0:
        raise ValueError("video: the clip has zero frames.")
    if start >= total:
        raise ValueError(f"video: start {start} is past the end; the clip has {total} frames.")
    frames = parts.images[start::stride][: count or None]
    frames = _over(frames, getattr(parts, "alpha", None), start, stride, background)
    fps = as_rate(parts.frame_rate) / stride
    return VideoClip(fitted(frames, size, fit, multiple, background), fps, _cut(parts, start, len(frames) / fps))


def _over(frames: Tensor, alpha: Tensor | None, start: int, stride: int, background: tuple) -> Tensor:
    """RGBA pictures, or RGB with a separate alpha, over the background."""
    if frames.shape[-1] == 4:
        frames, opaque = frames[..., :3], frames[..., 3:]
    elif alpha is not None and len(alpha):
        opaque = alpha[start::stride][: len(frames)].reshape(*frames.shape[:-1], 1)
    else:
        return frames.float()
    return frames * opaque + frames.new_tensor(background) * (1 - opaque)


def fitted(frames: Tensor, size: Size, fit: str = "crop", multiple: int = 1,
           background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    """Frames [F, H, W, 3] at a size, see ``geometry.plan``."""
    layout = plan(frames.shape[2], frames.shape[1], size, fit, multiple)
    width, height = layout.scaled
    return centred(resized(frames, height, width), layout.canvas, background)


def _cut(parts: Any, start: int, seconds: Fraction) -> dict | None:
    if not parts.audio:
        return None
    rate = int(parts.audio["sample_rate"])
    first = round(start / Fraction(parts.frame_rate) * rate)
    waveform = parts.audio["waveform"][..., first : first + round(seconds * rate)]
    return {"waveform": waveform, "sample_rate": rate} if waveform.shape[-1] else None
