"""A small picture of a running tuning: a latent in rough colours beside the loss curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

# Least-squares map from the four SD1.x latent channels to RGB in -1 .. 1, known from latent
# previewers; it costs nothing where a VAE decode would stall the training.
LATENT_TO_RGB = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
PANEL = 192
LINE, AXIS, PAPER = (38, 92, 180), (150, 150, 150), (250, 250, 250)


def latent_to_rgb(latent: Tensor) -> Tensor:
    """Rough colours of one latent.

    Args:
        latent: [channels, height, width] in the U-Net's scale. Other than four channels are
            shown as the gray of their mean.

    Returns:
        uint8 [height, width, 3] on the CPU.
    """
    latent = latent.detach().float().cpu()
    if latent.shape[0] != 4:
        latent = latent.mean(0, keepdim=True).expand(4, -1, -1)
    rgb = torch.einsum("chw,cr->hwr", latent, torch.tensor(LATENT_TO_RGB))
    return ((rgb.nan_to_num() + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def smoothed(losses: Sequence[float], window: int = 25) -> list[float]:
    """Running mean: a one-timestep-per-step loss is too noisy to read bare."""
    sums = [0.0]
    for loss in losses:
        sums.append(sums[-1] + loss)
    return [(sums[i + 1] - sums[max(0, i + 1 - window)]) / min(i + 1, window) for i in range(len(losses))]


def loss_curve(losses: Sequence[float], total: int) -> Image:
    """The smoothed loss over the planned ``total`` steps, as a picture of PANEL x PANEL pixels."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (PANEL, PANEL), PAPER)
    draw = ImageDraw.Draw(picture)
    margin, bottom = 8, PANEL - 20
    draw.line([(margin, margin), (margin, bottom), (PANEL - margin, bottom)], fill=AXIS)
    curve = smoothed(losses)
    if curve:
        top = max(curve) or 1.0
        points = [
            (
                margin + (PANEL - 2 * margin) * i / max(total - 1, 1),
                bottom - (bottom - margin - 6) * value / top,
            )
            for i, value in enumerate(curve)
        ]
        draw.line(points if len(points) > 1 else points * 2, fill=LINE, width=2)
        draw.text((margin, bottom + 4), f"step {len(losses)}/{total}  loss {curve[-1]:.4f}", fill=(60, 60, 60))
    return picture


def numbered(images: Tensor, labels: Sequence[str], chosen: int | None = None) -> Tensor:
    """An IMAGE batch with a label in each one's corner, the chosen one's on dark ground.

    Args:
        images: [n, height, width, channels] in 0..1; not changed.
    """
    from PIL import Image, ImageDraw

    shown = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        picture = Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        draw = ImageDraw.Draw(picture)
        left, top, right, bottom = draw.textbbox((3, 1), label)
        ground, ink = ((20, 60, 160), "white") if number == chosen else (PAPER, "black")
        draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill=ground)
        draw.text((3, 1), label, fill=ink)
        shown.append(torch.from_numpy(np.array(picture)))
    return torch.stack(shown).float() / 255


def training_preview(latents: Tensor, losses: Sequence[float], total: int) -> Image:
    """The middle frame of a sample beside the loss curve.

    Args:
        latents: [frames, channels, height, width], or of a video model [1, channels, frames, height, width], in the
            model's scale.
    """
    from PIL import Image

    if latents.ndim == 5:
        latents = latents[0].movedim(1, 0)

    sample = Image.fromarray(latent_to_rgb(latents[len(latents) // 2]).numpy())
    scale = PANEL / max(sample.size)
    sample = sample.resize((max(1, round(sample.width * scale)), max(1, round(sample.height * scale))), Image.BICUBIC)
    picture = Image.new("RGB", (2 * PANEL, PANEL), PAPER)
    picture.paste(sample, ((PANEL - sample.width) // 2, (PANEL - sample.height) // 2))
    picture.paste(loss_curve(losses, total), (PANEL, 0))
    return picture
