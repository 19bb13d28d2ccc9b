"""A range of frames of a clip that is in memory already, by the rules of ``read``."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import torch
from torch import Tensor

from .clip import Audio, VideoClip, as_rate
from .geometry import Size, pixels, plan


def select_frames(
    frames: Tensor, fps: float | Fraction, audio: Audio | None = None, start: int = 0, count: int = 0,
    stride: int = 1, size: Size = None, *, fit: str = "crop", multiple: int = 1,
) -> VideoClip:
    """Frames ``start``, ``start + stride``, ... at another size, with the sound of that range.

    Args:
        frames: float32 [F, H, W, 3] in 0..1.
        count: number of frames in the result, 0 for all; fewer come where the clip ends.
        size, fit, multiple: see ``geometry.plan``.

    Raises:
        ValueError: no frames, or a start past the end.
    """
    if not 0 <= start < len(frames):
        raise ValueError(f"start: {start} is past the end; the video has {len(frames)} frames.")
    rate = as_rate(fps)
    chosen = frames[start::stride][: count or None]
    layout = plan(frames.shape[2], frames.shape[1], size, fit, multiple)
    if layout.scaled != (frames.shape[2], frames.shape[1]) or layout.canvas != layout.scaled:
        images = ((chosen.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        resized = [pixels(av.VideoFrame.from_ndarray(np.ascontiguousarray(i), format="rgb24"), layout) for i in images]
        chosen = torch.from_numpy(np.stack(resized)).float() / 255
    if audio is not None:
        hertz = audio["sample_rate"]
        begin, end = (round(Fraction(n) / rate * hertz) for n in (start, start + len(chosen) * stride))
        audio = {**audio, "waveform": audio["waveform"][..., begin:end]}
    return VideoClip(chosen, rate / stride, audio)
