"""Reading a video file, beside PyAV as one would call it by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...video.colour import yuv420
from .contest import Contest

FRAMES, HEIGHT, WIDTH, RATE = 60, 1080, 1920, 24
#: Mean difference of values in 0..1: PyAV rounds to 8 bits and places chroma coarsely.
READ_TOLERANCE = 0.01
#: The same where chroma is placed alike: what remains is the rounding to 8 bits.
EXACT_TOLERANCE = 0.002


def moving(frames: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A soft pattern with fine grain that moves by four pixels a frame, [F, H, W, 3] in 0..1."""
    wide = width + 4 * frames
    rows, columns = torch.arange(height)[:, None] / 90, torch.arange(wide)[None] / 130
    phases = torch.tensor([0.0, 2.1, 4.2])
    canvas = 0.45 + 0.2 * (rows[..., None] + phases).sin() + 0.2 * (columns[..., None] + phases * 1.3).cos()
    canvas += torch.rand(height, wide, 1, generator=torch.Generator().manual_seed(0)) * 0.06 - 0.03
    canvas.clamp_(0, 1)
    return torch.stack([canvas[:, 4 * index : 4 * index + width] for index in range(frames)])


def clip_file(folder: Path, frames: int, height: int, width: int) -> Path:
    """A file of ``moving`` in h264, quickly made."""
    import av

    path = folder / "clip.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options={"crf": "16", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # So that every reader takes the same matrix.
        for name in ("color_primaries", "color_trc", "colorspace"):
            setattr(stream.codec_context, name, 1)
        for frame in moving(frames, height, width):
            output.mux(stream.encode(yuv420(frame)))
        output.mux(stream.encode(None))
    return path


def by_hand(path: Path, **conversion: Any) -> Tensor:
    """All frames by PyAV's own conversion to 8-bit RGB, float32 [F, H, W, 3] in 0..1."""
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        pictures = [torch.from_numpy(reformatter.reformat(frame, format="rgb24", **conversion).to_ndarray())
                    for frame in container.decode(video=0)]  # fmt: skip
    return torch.stack(pictures).float().div_(255)


def exactly_by_hand(path: Path) -> Tensor:
    """The same with chroma between the stored samples and the matrix of the file, as this pack reads it."""
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return by_hand(path, interpolation=flags, src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG,
                   dst_color_range=ColorRange.JPEG)  # fmt: skip


def reading(
    folders: Mapping[str, Path], size: tuple[int, int, int] = (FRAMES, HEIGHT, WIDTH), exactly: bool = False
) -> Contest:  # fmt: skip
    """60 frames of 1920x1080; ``exactly``, beside PyAV with flags that place chroma as exactly."""
    from ...video.read import read_clip

    folder = tempfile.TemporaryDirectory(prefix="steadyedit-")
    path = clip_file(Path(folder.name), *size)
    peer, theirs, tolerance = (("PyAV as exactly", exactly_by_hand, EXACT_TOLERANCE) if exactly else
                               ("PyAV by hand", by_hand, READ_TOLERANCE))  # fmt: skip
    return Contest(f"reading {size[0]} frames of {size[2]}x{size[1]}", peer, lambda: read_clip(path).frames,
                   lambda: theirs(path), frames_apart, tolerance, weigh="resident", closing=folder.cleanup)  # fmt: skip


def frames_apart(ours: Tensor, theirs: Tensor) -> tuple[float, str]:
    """The mean difference of two clips."""
    if ours.shape != theirs.shape:
        return float("inf"), f"{list(ours.shape)} and {list(theirs.shape)}"
    apart = sum(float((a - b).abs().mean()) for a, b in zip(ours, theirs, strict=True)) / len(ours)
    return apart, f"frames {apart * 255:.2f} of 255 apart on average"
