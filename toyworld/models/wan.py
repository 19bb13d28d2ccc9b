"""The toy world's image-to-video model: Wan 2.1's transformer and video autoencoder, narrow.

Files have Wan's own key names, which ComfyUI reads; `to_diffusers` and `to_wan` rename. The transformer has I2V's 36
input channels (16 noise, 4 mask, 16 condition) and, like Wan 2.2's I2V models, no branch for CLIP vision: ComfyUI
builds that branch for embeddings of 1280 channels only, and diffusers then counts on 512 tokens of text.
"""

from __future__ import annotations

import re
from typing import Any

from .wan_vae import MEAN, STD

#: diffusers' words; the latents' mean and deviation are Wan 2.1's
VAE_CONFIG: dict[str, Any] = dict(
    base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
    temperal_downsample=[False, True, True], latents_mean=list(MEAN), latents_std=list(STD),
)
CONFIG: dict[str, Any] = dict(
    patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=32, in_channels=36, out_channels=16, text_dim=96,
    freq_dim=256, ffn_dim=384, num_layers=8, cross_attn_norm=True, qk_norm="rms_norm_across_heads", eps=1e-6,
)
#: sigmas lean to noise, s u / (1 + (s - 1) u): Wan's value for small frames
SHIFT = 3.0

#: (Wan's, diffusers') parts of a transformer's names, in the order in which they are replaced
TRANSFORMER_NAMES = (
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("head.modulation", "scale_shift_table"), (".modulation", ".scale_shift_table"), ("head.head.", "proj_out."),
    ("self_attn.", "attn1."), ("cross_attn.", "attn2."), (".q.", ".to_q."), (".k.", ".to_k."), (".v.", ".to_v."),
    (".o.", ".to_out.0."), ("ffn.0.", "ffn.net.0.proj."), ("ffn.2.", "ffn.net.2."),
    ("norm2.", "norm0."), ("norm3.", "norm2."), ("norm0.", "norm3."),  # the two models count norms differently
)  # fmt: skip
VAE_NAMES = (
    (r"^conv1\.", "quant_conv."), (r"^conv2\.", "post_quant_conv."), (r"coder\.conv1\.", "coder.conv_in."),
    (r"head\.0\.", "norm_out."), (r"head\.2\.", "conv_out."), (r"middle\.0\.", "mid_block.resnets.0."),
    (r"middle\.1\.", "mid_block.attentions.0."), (r"middle\.2\.", "mid_block.resnets.1."),
    (r"residual\.0\.", "norm1."), (r"residual\.2\.", "conv1."), (r"residual\.3\.", "norm2."),
    (r"residual\.6\.", "conv2."), (r"shortcut\.", "conv_shortcut."), (r"downsamples\.", "down_blocks."),
    (r"upsamples\.(\d+)\.", lambda found: _up_block(int(found[1]))),
)  # fmt: skip


def _up_block(index: int) -> str:
    level, place = divmod(index, 4)
    return f"up_blocks.{level}." + (f"resnets.{place}." if place < 3 else "upsamplers.0.")


def to_diffusers(state: dict) -> dict:
    """A transformer's tensors by Wan's names -> by diffusers'."""
    return {_renamed(key, TRANSFORMER_NAMES): value for key, value in state.items()}


def to_wan(state: dict) -> dict:
    """The way back from `to_diffusers`."""
    back = tuple((theirs, ours) for ours, theirs in reversed(TRANSFORMER_NAMES) if ours != "head.modulation")
    return {"head.modulation" if key == "scale_shift_table" else _renamed(key, back): value
            for key, value in state.items()}


def _renamed(key: str, names: tuple) -> str:
    for old, new in names:
        key = key.replace(old, new)
    return key


def vae_to_diffusers(state: dict) -> dict:
    """A video autoencoder's tensors by Wan's names -> by diffusers'."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in VAE_NAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed


def build(**changes):
    """Untrained diffusers WanTransformer3DModel of images to video; `changes` of its settings."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(**{**CONFIG, **changes})


def build_vae():
    """Untrained diffusers AutoencoderKLWan, f=8, four frames a latent but for the first, 16 channels."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(**VAE_CONFIG)
