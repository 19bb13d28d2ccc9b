"""From stored pixels to RGB as it is shown, and from RGB to what h264 stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from .hdr import HLG, PQ, tone_mapped

# swscale only resamples here, without a change of matrix or range. Bits of its flags: bicubic or
# area, then accurate rounding and chroma between pixels. Plain numbers, for older versions of PyAV.
_BICUBIC, _AREA, _EXACT = 0x4, 0x20, 0x40000 | 0x2000
FULL = 2
#: Pixels that are converted at a time: what belongs to them stays in the processor's cache.
_BLOCK = 1 << 17

#: (red's, blue's) share of luma by the matrix's number in the standard, ITU-T H.273.
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
         9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}  # fmt: skip
_YCGCO = 8
_NAMES = {1: "BT.709", 6: "BT.601"}
_UNTAGGED = (0, 2, 3)
_WIDE = 9  # primaries of BT.2020
_TRANSFERS = {PQ: "PQ", HLG: "HLG"}


@dataclass(frozen=True)
class Colour:
    """How a file's numbers are meant.

    Args:
        matrix: number of the matrix in ITU-T H.273.
        full: luma goes from 0 to 255, not from 16 to 235.
        transfer, primaries: their numbers in H.273; 2 where the file does not say.
        guessed: the file names no matrix, so that the convention decided.
    """

    matrix: int
    full: bool
    transfer: int = 2
    primaries: int = 2
    guessed: bool = False

    @property
    def notes(self) -> list[str]:
        """What a user should know of the conversion, in words."""
        notes = []
        if self.guessed:
            notes.append(f"the file names no colour matrix: read as {_NAMES[self.matrix]}, by its size")
        if self.transfer in _TRANSFERS:
            notes.append(f"HDR ({_TRANSFERS[self.transfer]}): brought to SDR, reference white (203 nits) to 96 %")
        elif self.primaries == _WIDE:
            notes.append("BT.2020 primaries in SDR: taken as they are, so colours look paler than on a wide screen")
        return notes


def colour_of(frame: av.VideoFrame, context: av.VideoCodecContext) -> Colour:
    """What the frame says of its colours, or the stream; untagged HD is BT.709 as in players, SD is BT.601."""
    def declared(name: str) -> int:
        of_frame = getattr(frame, name, 2)  # older versions of PyAV know some of these of the stream alone
        return int(of_frame if of_frame not in _UNTAGGED else getattr(context, name, 2) or 2)

    matrix, yuv = declared("colorspace"), not _is_rgb(frame)
    hd = frame.width >= 1280 or frame.height > 576
    known = matrix in _LUMA or matrix == _YCGCO
    full = int(frame.color_range or context.color_range or 0) == FULL or frame.format.name.startswith("yuvj")
    if frame.format.name.startswith("gray") and int(frame.color_range or 0) != 1:
        full = True
    return Colour(matrix if known else (1 if hd else 6), full, declared("color_trc"), declared("color_primaries"),
                  guessed=yuv and not known and not frame.format.name.startswith(("gray", "yuvj")))


def rgb(
    frame: av.VideoFrame, colour: Colour, width: int, height: int, *, reformatter: VideoReformatter | None = None,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The picture at a size, float32 [H, W, 3] in 0..1, transparency left aside.

    R' = Y' + 2 (1 - Kr) Cr, B' = Y' + 2 (1 - Kb) Cb, G' = (Y' - Kr R' - Kb B') / (1 - Kr - Kb),
    in float32 without rounding in between (ITU-R BT.601, BT.709, BT.2020).

    Args:
        reformatter: of all frames of a clip, so that the filters of its size are made once.
        out: float32 [H, W, 3] that the picture is written into, and that is returned.
    """
    deep = max(component.bits for component in frame.format.components) > 8
    flags = (_AREA if width * height < frame.width * frame.height else _BICUBIC) | _EXACT
    if frame.format.name.endswith(("f32le", "f32be")):
        form, largest = "gbrpf32le", 1.0
    elif _is_rgb(frame):
        form, largest = ("gbrp16le", 65535.0) if deep else ("gbrp", 255.0)
    else:
        # In 16 bits where chroma lies between stored samples and is not to be rounded: written again, it is what was
        # stored. Whole chroma of 8 bits stays: swscale would stretch its luma to 65535.
        halved = frame.format.chroma_width(64) < 64 or frame.format.chroma_height(64) < 64
        form, largest = ("yuv444p16le", 256.0) if deep or halved else ("yuv444p", 1.0)
    stated = FULL if colour.full else 1
    image = (reformatter or VideoReformatter()).reformat(
        frame, width, height, form, interpolation=flags,
        src_colorspace=5, dst_colorspace=5, src_color_range=stated, dst_color_range=stated,
    )  # fmt: skip
    picture = torch.empty(height, width, 3) if out is None else out
    bits = max(component.bits for component in frame.format.components)
    matrix, offset = _to_rgb(colour.matrix, colour.full, largest, bits)
    weights, starts = matrix.T.tolist(), offset.unbind()
    rows = max(1, _BLOCK // width)
    for top in range(0, height, rows):
        planes, block = _rows(image, top, top + rows), picture[top : top + rows]
        if form.startswith("gbrp"):
            for channel, values in zip((1, 2, 0), planes, strict=True):
                torch.div(values, largest, out=block[..., channel])
        else:
            _combine(planes, weights, starts, block)
        if colour.transfer in _TRANSFERS:
            block.copy_(tone_mapped(block, colour.transfer, wide=colour.primaries == _WIDE))
        else:
            block.clamp_(0, 1)
    return picture


def _combine(
    planes: Sequence[Tensor], weights: Sequence[Sequence[float]], starts: Sequence[Tensor], out: Tensor
) -> None:  # fmt: skip
    """starts[c] + sum of weights[c][p] planes[p] into ``out[..., c]``; planes Y, Cb, Cr of [H, W].

    One pass a term: a product of matrices with three columns is several times slower.
    """
    luma, *chroma = planes
    for channel, (of_luma, *of_chroma) in enumerate(weights):
        value = torch.add(starts[channel], luma, alpha=of_luma)
        *others, last = [(part, weight) for part, weight in zip(chroma, of_chroma, strict=True) if weight]
        for part, weight in others:
            value.add_(part, alpha=weight)
        torch.add(value, last[0], alpha=last[1], out=out[..., channel])


def yuv420(image: Tensor, matrix: int = 1, full: bool = False) -> av.VideoFrame:
    """RGB float [H, W, 3], taken as of 0..1, even sides, as a frame of yuv420p; the inverse of ``rgb``.

    A chroma sample lies on every second column and halfway between two rows, where h264 and its players have it
    (ITU-T H.264, E.2.1, type 0): half a pixel to the side, colours would creep with every generation.
    """
    to_rgb, offset = _to_rgb(matrix, full, 1.0, 8)
    back = torch.linalg.inv(to_rgb.double())
    weights, starts = back.T.tolist(), (-offset.double() @ back).float().unbind()
    height, width = image.shape[:2]
    packed = torch.empty(height * 3 // 2, width, dtype=torch.uint8)
    chroma = torch.empty(2, height, width // 2)
    rows = max(1, _BLOCK // width)
    for top in range(0, height, rows):
        block = slice(top, min(height, top + rows))
        colours = [image[block, :, channel].float().clamp(0, 1) for channel in range(3)]
        luma, *others = (_weighted(colours, *term) for term in zip(weights, starts, strict=True))
        packed[block] = luma.round_().clamp_(0, 255)
        for plane, values in zip(chroma, others, strict=True):
            plane[block] = _every_second_column(values)
    for plane, values in zip(packed[height:].view(2, height // 2, width // 2), chroma, strict=True):
        plane.copy_(_between_rows(values).round_().clamp_(0, 255))
    return av.VideoFrame.from_ndarray(packed.numpy(), format="yuv420p")


def _weighted(planes: Sequence[Tensor], weights: Sequence[float], start: Tensor) -> Tensor:
    """start + sum of weights[p] planes[p]."""
    value = torch.add(start, planes[0], alpha=weights[0])
    for plane, weight in zip(planes[1:], weights[1:], strict=True):
        value.add_(plane, alpha=weight)
    return value


# Both are of third order: what the reader interpolates from their outcome, they give back, up to fine detail.
def _every_second_column(chroma: Tensor) -> Tensor:
    """[H, W] on its even columns by the half-band filter [-1, 0, 9, 16, 9, 0, -1] / 32."""
    wide = torch.nn.functional.pad(chroma[None], (3, 3), mode="replicate")[0]
    far, near, middle = ((wide[:, 3 - side : 3 - side + chroma.shape[1] : 2],
                          wide[:, 3 + side : 3 + side + chroma.shape[1] : 2]) for side in (3, 1, 0))  # fmt: skip
    return (middle[0] / 2).add_(torch.add(*near), alpha=9 / 32).sub_(torch.add(*far), alpha=1 / 32)


def _between_rows(chroma: Tensor) -> Tensor:
    """[H, W] halfway between each two rows by [-1, 9, 9, -1] / 16."""
    tall = torch.cat([chroma[:1], chroma, chroma[-1:]])
    first, second, third, fourth = (tall[start : start + chroma.shape[0] - 1 : 2] for start in range(4))
    return torch.add(second, third).mul_(9 / 16).sub_(torch.add(first, fourth), alpha=1 / 16)


@cache
def _to_rgb(matrix: int, full: bool, unit: float, bits: int) -> tuple[Tensor, Tensor]:
    """(3x3, offset) so that [Y, Cb, Cr] @ matrix + offset is RGB in 0..1; ``unit`` is a step of 8 bits."""
    if matrix == _YCGCO:
        weights = torch.tensor([[1, -1, 1], [1, 1, 0], [1, -1, -1]], dtype=torch.float64)
    else:
        red, blue = _LUMA[matrix]
        green = 1 - red - blue
        weights = torch.tensor([
            [1, 0, 2 * (1 - red)],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 2 * (1 - blue), 0],
        ], dtype=torch.float64)  # fmt: skip
    largest = (2**bits - 1) / 2 ** (bits - 8)  # of full range, in steps of 8 bits
    luma, chroma, black = (largest, largest, 0.0) if full else (219.0, 224.0, 16.0)
    scale = torch.tensor([luma, chroma, chroma], dtype=torch.float64) * unit
    combined = (weights / scale).T
    offset = -torch.tensor([black, 128.0, 128.0], dtype=torch.float64) * unit @ combined
    return combined.float().contiguous(), offset.float()


def _rows(frame: av.VideoFrame, top: int, bottom: int) -> list[Tensor]:
    """Rows of three planes of equal size as float32 [H, W]."""
    kind = np.dtype({"gbrpf32le": "<f4"}.get(frame.format.name, "<u2" if frame.format.name.endswith("16le") else "u1"))
    rows = []
    for plane in frame.planes:
        values = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
        rows.append(torch.from_numpy(values[top : min(bottom, frame.height), : frame.width].astype(np.float32)))
    return rows


def _is_rgb(frame: av.VideoFrame) -> bool:
    return bool(frame.format.is_rgb) or frame.format.name.startswith(("pal8", "xyz", "bayer", "mono"))
