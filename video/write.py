"""Write a clip as an mp4 that every player and browser opens, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import torch
from torch import Tensor

from ..files.writing import whole
from .audio import AudioTrack
from .clip import Audio, as_rate
from .colour import yuv420
from .timecode import TAG

_BT709 = 1  # primaries, transfer and matrix have the same number in the standard


def x264_options(crf: float) -> dict[str, str]:
    """Settings of x264 with which equal pictures give equal files on one machine.

    x264's AVX-512 code for its macroblock tree (core 165) reads past the end of a row where the picture is not a
    multiple of 256 wide, so that rates, and with them files, hang on what lies in memory there: 832x480 gave five files
    in six runs. With AVX2 there was one, for 2 to 6 % more time. Only where the processor has AVX-512 is it told so:
    elsewhere x264 would take the names as a promise of what the processor can do.
    """
    options = {"crf": str(crf), "preset": "medium"}
    if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        options["x264-params"] = "asm=avx2"
    return options


def write_clip(
    path: str | os.PathLike,
    frames: Tensor | Iterable[Tensor],
    fps: float | Fraction,
    audio: Audio | None = None,
    *,
    timecode: str | None = None,
    count: int | None = None,
    crf: float = 16.0,
) -> Path:
    """h264 (yuv420p, BT.709) and AAC in an mp4.

    Equal frames give equal files on one machine and version of PyAV, however busy it is (``x264_options``).
    The file appears under its name when it is complete: it is written beside it under
    another name and moved into place. Odd widths and heights, which yuv420p cannot hold,
    grow by one pixel that repeats the edge.

    Args:
        path: where to; missing folders are made.
        frames: [F, H, W, 3] in 0..1, or an iterable of [H, W, 3] for long clips.
        fps: frames per second.
        audio: sound, cut to the length of the picture.
        timecode: HH:MM:SS:FF of the first frame, in a track of its own and among the file's tags: hosts that write a
            file's packets anew keep its tags.
        count: number of frames of an iterable; only sound needs it.
        crf: x264's constant rate factor, 0 (lossless in 4:2:0) to 51; 16 shows no loss.

    Raises:
        ValueError: zero frames, wrong shape, or values that are not finite.
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    rate = as_rate(fps)
    with whole(path) as temporary:
        _encode(temporary, frames, rate, audio, count, crf, timecode)
    return path


def _encode(path: Path, frames: Tensor | Iterable[Tensor], rate: Fraction, audio: Audio | None, count: int | None,
            crf: float, timecode: str | None) -> None:  # fmt: skip
    count = len(frames) if isinstance(frames, Tensor) else count
    if audio is not None and count is None:
        raise ValueError("audio: sound needs a tensor of frames, or their count.")
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError("frames: a clip of zero frames cannot be written.")
    _check(first, first.shape)
    flags = "+faststart" if timecode is None else "+faststart+use_metadata_tags"
    with av.open(str(path), "w", format="mp4", options={"movflags": flags}) as output:
        if timecode is not None:
            output.metadata[TAG] = timecode
        stream = output.add_stream("libx264", rate=rate, options=x264_options(crf))
        stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
        stream.pix_fmt = "yuv420p"
        for target in ("color_primaries", "color_trc", "colorspace"):
            setattr(stream.codec_context, target, _BT709)
        track = AudioTrack(output, audio, Fraction(count or 0) / rate) if audio is not None else None
        for frame in chain([first], remaining):
            _check(frame, first.shape)
            output.mux(stream.encode(_picture(frame)))
        output.mux(stream.encode(None))
        if track is not None:
            track.write()


def _check(frame: Tensor, shape: torch.Size) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
        raise ValueError(f"frames: expected equal frames [H, W, 3], but got {list(frame.shape)}.")
    # A sum is several times quicker than a look at each value, and finite only where all of them are.
    if not frame.sum().isfinite() and not frame.isfinite().all():
        raise ValueError("frames: the pictures hold values that are not finite (NaN), so nothing was saved.")


def _picture(frame: Tensor) -> av.VideoFrame:
    image = frame.detach().cpu()
    odd = (0, image.shape[1] % 2, 0, image.shape[0] % 2)
    if any(odd):
        image = torch.nn.functional.pad(image.float().movedim(-1, 0)[None], odd, mode="replicate")[0].movedim(0, -1)
    return yuv420(image, _BT709)
