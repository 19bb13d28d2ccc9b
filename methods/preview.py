"""A small picture of a running training: a sample above the loss curve."""

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
#: Width of the picture in pixels, about that of a node in an editor: its numbers are read there.
PANEL = 320
LINE, AXIS, PAPER, INK = (38, 92, 180), (150, 150, 150), (250, 250, 250), (50, 50, 50)
#: Height of its numbers: Nodes 2.0 shows sample and curve in 200 pixels, at two fifths of their size.
TEXT = 26


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
    """The smoothed loss over the planned ``total`` steps, with its highest value, the last one and the step."""
    from PIL import Image, ImageDraw, ImageFont

    font, margin = ImageFont.load_default(TEXT), 8
    top, bottom = margin + TEXT + 8, PANEL * 5 // 8 - TEXT - 10
    picture = Image.new("RGB", (PANEL, bottom + TEXT + 10), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.line([(margin, top), (margin, bottom), (PANEL - margin, bottom)], fill=AXIS)
    draw.text((margin, bottom + 4), f"step {len(losses)} of {total}", INK, font)
    curve = smoothed(losses)
    if curve:
        highest = max(curve)
        points = [(margin + (PANEL - 2 * margin) * i / max(total - 1, 1),
                   bottom - (bottom - top) * value / (highest or 1.0)) for i, value in enumerate(curve)]
        draw.line(points if len(points) > 1 else points * 2, fill=LINE, width=2)
        draw.text((margin, margin - 2), f"max {highest:.3g}", INK, font)
        draw.text((PANEL - margin, margin - 2), f"loss {curve[-1]:.3g}", LINE, font, anchor="ra")
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


def middle_frame(latents: Tensor) -> Tensor:
    """The middle frame of a clip's latents as a clip of one frame.

    Args:
        latents: [frames, channels, height, width], or of a video model [clips, channels, frames, height, width].
    """
    if latents.ndim == 5:
        latents = latents[len(latents) // 2 :][:1]
        middle = latents.shape[2] // 2
        return latents[:, :, middle : middle + 1]
    return latents[len(latents) // 2 :][:1]


def rough_picture(latent: Tensor) -> Image:
    """``latent_to_rgb`` of one frame as ``middle_frame`` gives it: where the host does not know its model's colours."""
    from PIL import Image

    return Image.fromarray(latent_to_rgb(latent[0, :, 0] if latent.ndim == 5 else latent[0]).numpy())


def training_preview(sample: Image, losses: Sequence[float], total: int) -> Image:
    """A picture of a sample, at the preview's width, above the loss curve."""
    from PIL import Image

    scale = PANEL / max(sample.size)
    sample = sample.resize((max(1, round(sample.width * scale)), max(1, round(sample.height * scale))), Image.BICUBIC)
    curve = loss_curve(losses, total)
    picture = Image.new("RGB", (PANEL, sample.height + curve.height), PAPER)
    picture.paste(sample, ((PANEL - sample.width) // 2, 0))
    picture.paste(curve, (0, sample.height))
    return picture
