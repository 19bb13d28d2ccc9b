"""One picture in a file as numbers: exact, alpha kept, and what they mean.

FFmpeg (PyAV) reads EXR and PNG of 16 bits, tifffile reads TIFF, Pillow the rest. The few EXR files that FFmpeg
would give wrong or not at all are read by OpenEXR's own library, where the user has it.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from . import exr

_CHANNELS = {"gbr": [2, 0, 1], "gbra": [2, 0, 1, 3], "gray": [0], "ya": [0, 1]}


@dataclass(frozen=True)
class Picture:
    """A picture as stored.

    Args:
        rgb: float32 [H, W, 3]; whole numbers are scaled to 0..1, floats are as they are.
        alpha: float32 [H, W], 1 where opaque; None where the file has none.
        kind: such as ``EXR half`` or ``PNG 16 bit``.
        linear: light, by the custom of its kind; else sRGB values.
        premultiplied: colours are multiplied by alpha, by the custom of its kind or the file's word.
        notes: what a user should know, in words.
    """

    rgb: Tensor
    alpha: Tensor | None
    kind: str
    linear: bool = False
    premultiplied: bool = False
    notes: tuple[str, ...] = field(default=())


def read_picture(path: Path, layer: str = "") -> Picture:
    """Read a file.

    Args:
        layer: of an EXR; "" takes the unnamed one, or else the first with colours.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, cut short, or of a kind that is not read; one sentence that names the file.
    """
    from PIL import UnidentifiedImageError

    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"{path.name}: there is no such picture.") from error
    try:
        picture = _read(path, data, layer)
    except _Refused as error:
        raise ValueError(f"{path.name}: {error}.") from error
    except (av.error.FFmpegError, UnidentifiedImageError, OSError, ValueError, SyntaxError, IndexError, KeyError,
            TypeError, struct.error, EOFError) as error:
        raise ValueError(f"{path.name}: this is no readable picture; it is cut short, damaged or of another "
                         "kind.") from error
    if not torch.isfinite(picture.rgb).all() or (picture.alpha is not None and not picture.alpha.isfinite().all()):
        raise ValueError(f"{path.name}: it holds NaN or infinite values; repair the frame where it was made.")
    return picture


class _Refused(Exception):
    """Why a whole file is not read, in words."""


def _read(path: Path, data: bytes, layer: str) -> Picture:
    if data[:4] == b"\x76\x2f\x31\x01":
        return _exr(path, data, layer)
    if layer:
        raise _Refused(f"layer '{layer}' is asked for, but only EXR files have layers; leave it empty")
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] == 16:
        return _of(_decoded("png", data, {}), 65535, "PNG 16 bit")
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    return _by_pillow(data)


def _of(values: np.ndarray, largest: float, kind: str, **meaning: Any) -> Picture:
    """From [H, W] or [H, W, channels]: gray, gray and alpha, RGB, RGB and alpha; scaled by ``largest``."""
    planes = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    planes = planes[..., None] if planes.ndim == 2 else planes
    planes = planes / largest if largest != 1 else planes
    channels = planes.shape[-1]
    if planes.ndim != 3 or channels not in (1, 2, 3, 4):
        raise _Refused(f"it has {channels} channels; save it with 1 (gray), 3 (RGB) or 4 (RGB and alpha)")
    colours = planes[..., :3] if channels > 2 else planes[..., :1].expand(-1, -1, 3)
    return Picture(colours.contiguous(), planes[..., -1].clone() if channels in (2, 4) else None, kind, **meaning)


def _decoded(codec: str, data: bytes, options: dict[str, str]) -> np.ndarray:
    """[H, W, channels] of a file by FFmpeg, with the numbers that it stores."""
    context = av.CodecContext.create(codec, "r")
    context.options = options
    frame = (context.decode(av.Packet(data)) + context.decode(None))[0]
    name = frame.format.name
    kind = np.dtype({"f16": "f2", "f32": "f4"}.get(name[-5:-2], "u2")).newbyteorder("<" if name.endswith("le") else ">")
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        wide = rows[: frame.height].copy().view(kind)
        channels = 1 if len(frame.planes) > 1 else len(frame.format.components)
        planes.append(wide[:, : frame.width * channels].reshape(frame.height, frame.width, channels))
    if len(planes) == 1:
        return planes[0]
    return np.concatenate([planes[i] for i in _CHANNELS["gbra" if len(planes) == 4 else "gbr"]], -1)


def _exr(path: Path, data: bytes, wanted: str) -> Picture:
    header = exr.read_header(data)
    layer = header.layer(wanted)
    if not header.complete:
        raise ValueError("cut short")
    if layer is None:
        has = ", ".join(name or "the unnamed one" for name in header.layers()) or "none with colours"
        raise _Refused(f"there is no layer '{wanted}'; it has {has}" if wanted else
                       f"it has no red, green and blue, but {', '.join(sorted(header.channels)[:6])}")
    colours = "RGB" if header.key(layer, "R") in header.channels else "Y"
    names = [header.key(layer, c) for c in colours + "A" if header.key(layer, c) in header.channels]
    depth = "half" if header.channels[names[0]] == exr.HALF else "float"
    notes = []
    others = [name or "the unnamed one" for name in header.layers() if name != layer]
    if layer or others:
        also = f"; there are also {', '.join(others)}" if others else ""
        notes.append(f"layer {layer or 'without a name'} is read{also}")
    if header.parts > 1:
        notes.append(f"the first of {header.parts} parts is read")
    if not header.rec709:
        notes.append("its primaries are not those of Rec. 709 (ACES, for one): taken as they are")
    reason = header.unreadable(layer)
    if reason:
        values = _by_openexr(path, names, reason)
    else:
        values = _decoded("exr", data, {"layer": layer} if layer else {})
    return _of(values, 1, f"EXR {depth}", linear=True, premultiplied=True, notes=tuple(notes))


def _by_openexr(path: Path, names: list[str], why: str) -> np.ndarray:
    """Channels of the first part on its display window, by OpenEXR's own library."""
    try:
        import OpenEXR
    except ImportError:
        raise _Refused(f"{why}, which is read where OpenEXR is installed (python -m pip install OpenEXR); or save it "
                       "as half or float with ZIP") from None
    with OpenEXR.File(str(path), separate_channels=True) as file:
        held, header = file.channels(), file.header()
        values = np.stack([held[name].pixels.astype(np.float32) for name in names], -1)
        shown, stored = (np.asarray(header[window], int) for window in ("displayWindow", "dataWindow"))
    canvas = np.zeros((*(shown[1] - shown[0] + 1)[::-1], values.shape[-1]), np.float32)
    begin, end = np.maximum(shown[0], stored[0]), np.minimum(shown[1], stored[1]) + 1
    if (end > begin).all():
        (x, y), (u, v), (width, height) = begin - shown[0], begin - stored[0], end - begin
        canvas[y : y + height, x : x + width] = values[v : v + height, u : u + width]
    return canvas


def _tiff(data: bytes) -> Picture:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, pages = file.pages[0], len(file.pages)
        kind, photometric = np.dtype(page.dtype or "V1"), page.photometric
        form = getattr(photometric, "name", str(photometric))
        if form not in ("RGB", "MINISBLACK") or kind.str[1:] not in ("u1", "u2", "f2", "f4"):
            raise _Refused(f"TIFF of {form}, {kind}, is not read; save it as RGB with 8 or 16 bits, or as float")
        extra = [int(sample) for sample in page.extrasamples]
        try:
            values = page.asarray()
        except (ValueError, RuntimeError, ImportError):
            if page.predictor not in (1, 2) or kind.kind != "u" or page.compression != 5:
                raise
            values = None  # LZW: tifffile asks for another library, FFmpeg has it
    if values is None:
        values = _decoded("tiff", data, {}) if kind.itemsize == 2 else np.asarray(_opened(data)[0])
    if page.planarconfig == 2 and values.ndim == 3:
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[-1] in (2, 4) and extra[:1] not in ([1], [2]):
        values = values[..., :-1]  # a channel that is not said to be alpha
    bits = f"{8 * kind.itemsize} bit" if kind.kind == "u" else ("half" if kind.itemsize == 2 else "float")
    notes = (f"the first of {pages} pages is read",) if pages > 1 else ()
    picture = _of(values, {"u1": 255, "u2": 65535}.get(kind.str[1:], 1), f"TIFF {bits}", linear=kind.kind == "f",
                  premultiplied=extra[:1] == [1], notes=notes)
    return picture if picture.alpha is not None else replace(picture, premultiplied=False)


def _opened(data: bytes) -> tuple[Any, str]:
    """A Pillow image that is loaded, upright, and its format."""
    from PIL import Image, ImageOps

    image = Image.open(io.BytesIO(data))
    kind = image.format or "picture"
    image.load()
    return ImageOps.exif_transpose(image), kind


def _by_pillow(data: bytes) -> Picture:
    image, kind = _opened(data)
    notes = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append("the first of its moving pictures is read")
    if image.info.get("icc_profile") and b"sRGB" not in image.info["icc_profile"]:
        notes.append("its colour profile is not applied: taken as sRGB")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        notes.append(f"{image.mode} is brought to RGB")
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    values = np.asarray(image.convert("RGBA" if clear else "RGB"))
    return _of(values, 255, f"{kind} 8 bit", notes=tuple(notes))
