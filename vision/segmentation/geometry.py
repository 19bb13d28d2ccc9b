"""How Segment Anything sees a frame: its longest side scaled to the network's, the rest padded.

A frame [h, w] becomes [round(s h), round(s w)] with s = side / max(h, w), in the upper left
corner of a square; masks go the way back. (segment-anything, ``ResizeLongestSide`` and
``Sam.postprocess_masks``.)
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

#: ImageNet's mean and deviation of 0..255 pixels, as the checkpoints were trained with.
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)


def scaled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) with the longer one scaled to ``side``."""
    scale = side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def as_pixels(frame: Tensor) -> Image.Image:
    """An IMAGE frame [h, w, 3] in 0..1 as an 8-bit picture."""
    return Image.fromarray((frame[..., :3].detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def normalised(picture: Image.Image) -> Tensor:
    """(pixels - mean) / deviation, [3, h, w] float32."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


def squares(frames: Tensor, side: int) -> Tensor:
    """IMAGE [n, h, w, 3] -> the network's input [n, 3, side, side] float32 on the CPU.

    Resized as 8-bit pictures by Pillow, as the networks were trained: a resize in float differs
    by half a gray level, which moves borders.
    """
    height, width = scaled_size(frames.shape[1], frames.shape[2], side)
    small = [normalised(as_pixels(frame).resize((width, height), Image.BILINEAR)) for frame in frames]
    return pad(torch.stack(small), (0, side - width, 0, side - height))


def to_square(coordinates: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Pixels [..., 2] x, y of a frame (height, width) in the network's input."""
    height, width = scaled_size(*size, side)
    return coordinates * coordinates.new_tensor([width / size[1], height / size[0]])


def from_square(logits: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Logits [k, c, m, m] of the square, at the frame's size (height, width)."""
    height, width = scaled_size(*size, side)
    full = interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    return interpolate(full[..., :height, :width], size, mode="bilinear", align_corners=False)
