"""The clip that a graph is rehearsed on, and pictures and masks that belong to it."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...video.clip import Audio
from ...video.write import write_clip

RATE, FRAMES_A_SECOND = 44100, 12
#: What it sounds, in Hz.
TONE = 440
HEIGHT, WIDTH = 96, 168
#: Half a side of the object, and the pixels that it moves by in a frame.
OBJECT, MOVES = 20, 4


def _object(frames: int) -> Tensor:
    """Where the object is: 1 inside of a square that moves to the right, [frames, height, width]."""
    mask = torch.zeros(frames, HEIGHT, WIDTH)
    for number in range(frames):
        middle = 40 + MOVES * number % (WIDTH - 80)
        mask[number, HEIGHT // 2 - OBJECT : HEIGHT // 2 + OBJECT, middle - OBJECT : middle + OBJECT] = 1
    return mask


def clip(frames: int) -> Tensor:
    """A bright square over a ground that is nowhere flat, [frames, height, width, 3]."""
    down, right = torch.linspace(0, 1, HEIGHT)[:, None], torch.linspace(0, 1, WIDTH)[None]
    ground = torch.stack([0.3 + 0.2 * down.expand(HEIGHT, WIDTH), 0.5 - 0.2 * right.expand(HEIGHT, WIDTH),
                          0.4 + 0.1 * torch.sin(12 * (down + right))], -1)
    colour = torch.tensor([0.2, 0.8, 0.3]) * (0.8 + 0.2 * torch.sin(20 * right))[..., None]
    inside = _object(frames)[..., None]
    return ground * (1 - inside) + colour * inside


def sound(frames: int) -> Audio:
    """A tone as long as the clip."""
    samples = RATE * frames // FRAMES_A_SECOND
    tone = 0.3 * torch.sin(torch.arange(samples) * (2 * torch.pi * TONE / RATE))
    return {"waveform": tone[None, None], "sample_rate": RATE}


def write_video(path: Path, frames: int) -> None:
    """The clip with its sound; a file called mask shows where the object is."""
    if "mask" in path.stem:
        write_clip(path, _object(frames)[..., None].expand(-1, -1, -1, 3), FRAMES_A_SECOND)
    else:
        write_clip(path, clip(frames), FRAMES_A_SECOND, sound(frames))


def write_picture(path: Path, frame: int) -> None:
    """A frame of the clip whose object has another colour."""
    inside = _object(frame + 1)[-1][..., None]
    picture = clip(frame + 1)[-1] * (1 - inside) + torch.tensor([0.8, 0.2, 0.7]) * inside
    Image.fromarray((picture * 255).round().byte().numpy()).save(path)
