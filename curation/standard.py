"""Any video, or folder of pictures, as a square clip of one of a few lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..video.geometry import centred, plan, resized
from ..video.probe import probe
from ..video.read import iter_pictures, read_clip
from ..video.write import write_clip
from .filters import small

#: Of a folder of pictures, which says nothing of it; DAVIS has it.
PICTURES_RATE = Fraction(24)
STILLS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Standard:
    """What was written: its number of frames and rate, and small pictures of all frames."""

    frames: int
    fps: Fraction
    pictures: list[Tensor]


def stills_in(folder: Path) -> list[Path]:
    """Pictures of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in STILLS and not path.name.startswith("."))


def standardise(source: Path, target: Path, size: int, lengths: Sequence[int]) -> Standard:
    """Write the first frames of a video as a square mp4: as many of ``lengths`` as it has.

    The picture is scaled until its shorter side is ``size`` and cut at the centre; nothing but the pictures stays.

    Raises:
        ValueError: it cannot be read, or is shorter than the shortest length.
    """
    if source.is_dir():
        stills, rate = stills_in(source), PICTURES_RATE
        total, name = len(stills), source.name
        frames = _of_stills(stills, size)
    else:
        info = probe(source)
        total, rate, name = info.frames, info.fps, info.name
        frames = iter_pictures(source, size=(size, size), info=info)
    count = max((length for length in lengths if length <= total), default=0)
    if not count:
        raise ValueError(f"{name}: has {total} frames; at least {min(lengths)} are needed.")
    pictures: list[Tensor] = []

    def noted() -> Iterator[Tensor]:
        for _, frame in zip(range(count), frames, strict=False):
            pictures.append(small(frame))
            yield frame

    write_clip(target, noted(), rate, count=count)
    if len(pictures) < count:
        target.unlink()
        raise ValueError(f"{name}: promises {count} frames, but only {len(pictures)} can be read.")
    return Standard(count, rate, pictures)


def _of_stills(paths: Sequence[Path], size: int) -> Iterator[Tensor]:
    from PIL import Image

    for path in paths:
        try:
            with Image.open(path) as picture:
                frame = torch.from_numpy(np.array(picture.convert("RGB"))).float()[None] / 255
        except OSError as error:
            raise ValueError(f"{path.name}: is no readable picture.") from error
        layout = plan(frame.shape[2], frame.shape[1], (size, size))
        width, height = layout.scaled
        yield centred(resized(frame, height, width), layout.canvas, (0.0, 0.0, 0.0))[0]


def spread(clip: Path, count: int = 8) -> Tensor:
    """So many frames of a clip, evenly spaced, [count, H, W, 3]."""
    frames = read_clip(clip).frames
    places = torch.linspace(0, len(frames) - 1, min(count, len(frames))).round().long()
    return frames[places]
