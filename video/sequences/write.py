"""Frames into numbered files, each whole or not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from ...files.writing import write_bytes
from ..hdr import linear, srgb
from .read import LINEAR, SRGB, is_linear

#: (ending, codec, numbers stored, codec's options) by what a user chooses.
KINDS = {
    "PNG 8 bit": (".png", "png", 255, {}),
    "PNG 16 bit": (".png", "png", 65535, {}),
    "EXR half": (".exr", "exr", 0, {"format": "half", "compression": "zip16"}),
    "EXR float": (".exr", "exr", 0, {"format": "float", "compression": "zip16"}),
}
LARGEST_HALF = 65504.0


def ending(kind: str) -> str:
    """Of a kind's files."""
    return KINDS[kind][0]


def write_sequence(
    paths: Sequence[Path],
    frames: Tensor,
    alpha: Tensor | None,
    kind: str,
    *,
    images: str = SRGB,
    files: str = "by its kind",
    multiply: bool = False,
    keep_finished: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write a file a frame; returns what was done, in words.

    EXR float stores the numbers bit for bit, half rounds to nearest; PNG rounds to 1/255 or 1/65535 and is cut to
    0..1. Colours are converted only where ``images`` and ``files`` differ.

    Args:
        frames: [F, H, W, 3].
        alpha: [F or 1, H, W], 1 where opaque; None for files without.
        images: what the frames are, ``SRGB`` or ``LINEAR``.
        files: what is to be stored: "by its kind" (EXR light, PNG sRGB), ``SRGB`` or ``LINEAR``.
        multiply: multiply colours by alpha.
        keep_finished: frames stay when an error or a cancel ends the work; else those are removed again.
        progress: called with the frames written so far and their number; may raise to cancel.

    Raises:
        ValueError: values that the kind cannot hold; one sentence that names the frame.
        OSError: as ``files.writing.whole``.
    """
    _, _, largest, _ = KINDS[kind]
    stored, given = is_linear(not largest, files), images == LINEAR
    done, low, high = [], 0.0, 1.0
    try:
        for index, path in enumerate(paths):
            colours = frames[index].detach().cpu().float()
            opaque = None if alpha is None else alpha[min(index, len(alpha) - 1)].detach().cpu().float()
            _check(path, colours, opaque)
            if stored != given:
                colours = linear(colours) if stored else srgb(colours)
            if multiply and opaque is not None:
                colours = colours * opaque[..., None]
            low, high = min(low, float(colours.min())), max(high, float(colours.max()))
            if kind == "EXR half" and max(high, -low) > LARGEST_HALF:
                raise ValueError(f"images: {path.name} would hold {max(high, -low):.6g}, but half ends at 65504; "
                                 "choose EXR float.")
            data = encoded(colours if opaque is None else torch.cat([colours, opaque[..., None]], -1), kind)
            new = not path.exists()
            write_bytes(path, data)
            done += [path] * new
            if progress is not None:
                progress(index + 1, len(paths))
    except BaseException:
        for path in () if keep_finished else done:
            with suppress(OSError):
                path.unlink()
        raise
    state = "as given" if stored == given else f"brought to {LINEAR if stored else SRGB}"
    notes = [f"{kind}, {LINEAR if stored else SRGB}: {state}"]
    if alpha is not None:
        notes.append("alpha; colours are multiplied by it" if multiply else "alpha; colours are as given")
    if largest and (low < 0 or high > 1):
        notes.append(f"values from {low:.4g} to {high:.4g} are cut to 0 and 1; EXR keeps them")
    return notes


def _check(path: Path, colours: Tensor, opaque: Tensor | None) -> None:
    if not torch.isfinite(colours).all() or (opaque is not None and not torch.isfinite(opaque).all()):
        raise ValueError(f"images: {path.name} would hold values that are not finite (NaN); check what made it.")


def encoded(picture: Tensor, kind: str) -> bytes:
    """A file's bytes of float32 [H, W, 3 or 4]."""
    _, codec, largest, options = KINDS[kind]
    alpha = picture.shape[-1] == 4
    if largest:
        deep = largest > 255
        values = (picture.double().clamp(0, 1) * largest).round().numpy().astype(">u2" if deep else "u1")
        return _encode(codec, [values], ("rgba" if alpha else "rgb") + (("64be" if alpha else "48be") if deep else (
            "" if alpha else "24")), options)
    # FFmpeg cuts what half cannot hold: rounded here, nothing is left to cut.
    values = (picture.half().float() if kind == "EXR half" else picture).numpy()
    planes = [np.ascontiguousarray(values[..., i : i + 1]) for i in ((1, 2, 0, 3) if alpha else (1, 2, 0))]
    return _encode(codec, planes, "gbrapf32le" if alpha else "gbrpf32le", options)


def _encode(codec: str, planes: list[np.ndarray], form: str, options: dict[str, str]) -> bytes:
    height, width = planes[0].shape[:2]
    frame = av.VideoFrame(width, height, form)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.buffer_size // plane.line_size, plane.line_size), np.uint8)
        packed = np.ascontiguousarray(values).view(np.uint8).reshape(height, -1)
        rows[:height, : packed.shape[1]] = packed
        plane.update(rows)
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.options = width, height, form, options
    context.time_base, context.sample_aspect_ratio = Fraction(1, 25), Fraction(1)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
