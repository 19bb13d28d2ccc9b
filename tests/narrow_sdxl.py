"""SDXL's topology in narrow: its stages, depths and embeddings, with random weights."""

from __future__ import annotations

import torch
from shared import shared

TEXT, POOLED = 64, 32
#: Depth of the transformers on the way down, as in SDXL base: none, 2, 10; here none, 1, 2.
DEPTHS = (0, 1, 2)
CHANNELS = (32, 64, 128)


@shared
def unet():
    """A ``UNet2DConditionModel``, the same in every test."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(3)
    return UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=CHANNELS, layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, *DEPTHS[1:]], attention_head_dim=[1, 2, 4], use_linear_projection=True,
        cross_attention_dim=TEXT, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=POOLED + 6 * 256,
    ).eval().requires_grad_(False)  # fmt: skip


def conditioning(seed: int = 1, prompts: int = 1, **sizes: int):
    """Random text and pooled text; ``sizes`` as CLIPTextEncodeSDXL writes them."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(prompts, 77, TEXT, generator=generator)
    return [[text, {"pooled_output": torch.randn(prompts, POOLED, generator=generator), **sizes}]]
