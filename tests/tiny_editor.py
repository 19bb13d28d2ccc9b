"""A tiny random U-Net of diffusers, float64, as text-to-image model or as image editor, and clips for it."""

from __future__ import annotations

import torch
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.registry import build

BACKEND = DiffusersBackend()
TEXT, SIDE = 12, 6
CONFIG = {
    "sample_size": SIDE, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (16,),
    "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",),
    "cross_attention_dim": TEXT, "attention_head_dim": 2, "norm_num_groups": 4,
}  # fmt: skip


def tiny(in_channels: int = 8, dtype: torch.dtype = torch.float64) -> DiffusersModel:
    """A MODEL from a fixed seed."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(in_channels=in_channels, **CONFIG).eval().requires_grad_(False).to(dtype)
    return DiffusersModel(unet)


def swapped(model: DiffusersModel, **settings) -> DiffusersModel:
    """The MODEL with gather-swap."""
    return BACKEND.attach(model, build("gather-swap", BACKEND.sites(model), settings))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def text(seed: int, texts: int = 1, image: torch.Tensor | None = None):
    """CONDITIONING, with an image where one is given."""
    return [[normal(seed, texts, 7, TEXT), {} if image is None else {"concat_latent_image": image}]]


def clip_image(frames: int) -> torch.Tensor:
    """The clip to edit, as raw latents."""
    return normal(50, frames, 4, SIDE, SIDE)


def start(frames: int, sigma: torch.Tensor, seed: int = 60) -> torch.Tensor:
    """One initial noise for all frames, at ``sigma``."""
    return (sigma * normal(seed, 1, 4, SIDE, SIDE)).repeat(frames, 1, 1, 1)


def conditions(frames: int, texts: int = 1):
    """cond1, cond2, negative of InstructPix2Pix."""
    image = clip_image(frames)
    return text(1, texts, image), text(2, image=image), text(2)
