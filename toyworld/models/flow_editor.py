"""The toy world's flow-matching editor: FLUX.1 Kontext's transformer, narrow, over the toy world's autoencoder.

Tokens are 2x2 patches of the noisy latents, then those of the source's (scaled) latents, which have index 1 on the
first axis of the positions, as the reference latents of FLUX.1 Kontext. Files have FLUX's own key names, which ComfyUI
reads; `to_diffusers` and `to_flux` rename. Text is `load_editor_text_encoder`'s, its first TOKENS tokens, and beside
it the hidden state at the end of the text. theta is 100, not 10000: pictures are 8 tokens wide.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from .tokenizer import EOS

#: diffusers' words
CONFIG: dict[str, Any] = dict(
    patch_size=1, in_channels=16, num_layers=1, num_single_layers=5, attention_head_dim=32, num_attention_heads=5,
    joint_attention_dim=96, pooled_projection_dim=96, guidance_embeds=False, axes_dims_rope=(8, 12, 12),
)
THETA, PATCH = 100, 2
#: the longest instruction of the toy world has 10 words
TOKENS = 16
#: noise levels lean to noise by s u / (1 + (s - 1) u)
SHIFT = 2.0

#: (FLUX's name, diffusers' names of its parts, stacked from above), as patterns with the number of the block as {}
DOUBLE = (
    ("double_blocks.{}.img_mod.lin", ("transformer_blocks.{}.norm1.linear",)),
    ("double_blocks.{}.txt_mod.lin", ("transformer_blocks.{}.norm1_context.linear",)),
    ("double_blocks.{}.img_attn.qkv", tuple(f"transformer_blocks.{{}}.attn.to_{x}" for x in "qkv")),
    ("double_blocks.{}.txt_attn.qkv", tuple(f"transformer_blocks.{{}}.attn.add_{x}_proj" for x in "qkv")),
    ("double_blocks.{}.img_attn.norm.query_norm", ("transformer_blocks.{}.attn.norm_q",)),
    ("double_blocks.{}.img_attn.norm.key_norm", ("transformer_blocks.{}.attn.norm_k",)),
    ("double_blocks.{}.txt_attn.norm.query_norm", ("transformer_blocks.{}.attn.norm_added_q",)),
    ("double_blocks.{}.txt_attn.norm.key_norm", ("transformer_blocks.{}.attn.norm_added_k",)),
    ("double_blocks.{}.img_attn.proj", ("transformer_blocks.{}.attn.to_out.0",)),
    ("double_blocks.{}.txt_attn.proj", ("transformer_blocks.{}.attn.to_add_out",)),
    ("double_blocks.{}.img_mlp.0", ("transformer_blocks.{}.ff.net.0.proj",)),
    ("double_blocks.{}.img_mlp.2", ("transformer_blocks.{}.ff.net.2",)),
    ("double_blocks.{}.txt_mlp.0", ("transformer_blocks.{}.ff_context.net.0.proj",)),
    ("double_blocks.{}.txt_mlp.2", ("transformer_blocks.{}.ff_context.net.2",)),
)
SINGLE = (
    ("single_blocks.{}.modulation.lin", ("single_transformer_blocks.{}.norm.linear",)),
    ("single_blocks.{}.linear1", (*(f"single_transformer_blocks.{{}}.attn.to_{x}" for x in "qkv"),
                                  "single_transformer_blocks.{}.proj_mlp")),
    ("single_blocks.{}.linear2", ("single_transformer_blocks.{}.proj_out",)),
    ("single_blocks.{}.norm.query_norm", ("single_transformer_blocks.{}.attn.norm_q",)),
    ("single_blocks.{}.norm.key_norm", ("single_transformer_blocks.{}.attn.norm_k",)),
)
ENDS = (
    ("img_in", ("x_embedder",)), ("txt_in", ("context_embedder",)),
    ("time_in.in_layer", ("time_text_embed.timestep_embedder.linear_1",)),
    ("time_in.out_layer", ("time_text_embed.timestep_embedder.linear_2",)),
    ("vector_in.in_layer", ("time_text_embed.text_embedder.linear_1",)),
    ("vector_in.out_layer", ("time_text_embed.text_embedder.linear_2",)),
    ("final_layer.adaLN_modulation.1", ("norm_out.linear",)), ("final_layer.linear", ("proj_out",)),
)


def names(state: dict) -> list[tuple[str, tuple[str, ...]]]:
    """(FLUX's name, diffusers' names of its parts) of the modules of a network as deep as `state`, by either's keys."""
    def depth(*prefixes: str) -> int:
        found = [re.match(rf"(?:{'|'.join(prefixes)})\.(\d+)\.", key) for key in state]
        return max((int(match[1]) + 1 for match in found if match), default=0)

    pairs: list[tuple[str, tuple[str, ...]]] = [*ENDS]
    for patterns, blocks in ((DOUBLE, depth("double_blocks", "transformer_blocks")),
                             (SINGLE, depth("single_blocks", "single_transformer_blocks"))):
        pairs += [(flux.format(i), tuple(part.format(i) for part in parts))
                  for i in range(blocks) for flux, parts in patterns]
    return pairs


def halves_swapped(name: str, value: torch.Tensor) -> torch.Tensor:
    """The last modulation is (shift, scale) to FLUX and (scale, shift) to diffusers."""
    return torch.cat(value.chunk(2)[::-1]) if name.startswith("final_layer.adaLN") else value


def flux_key(name: str, kind: str) -> str:
    """FLUX's key of a module's "weight" or "bias"; what norms multiply by is a "scale" there."""
    return f"{name}.scale" if name.endswith("_norm") and kind == "weight" else f"{name}.{kind}"


def to_flux(state: dict) -> dict:
    """A transformer's tensors by diffusers' names -> by FLUX's, norms under the name that hosts read ("scale")."""
    found: dict[str, torch.Tensor] = {}
    for flux, parts in names(state):
        for kind in ("weight", "bias"):
            if f"{parts[0]}.{kind}" in state:
                value = torch.cat([state[f"{part}.{kind}"] for part in parts])
                found[flux_key(flux, kind)] = halves_swapped(flux, value)
    return found


def to_diffusers(state: dict) -> dict:
    """The way back from `to_flux`."""
    width = state["img_in.weight"].shape[0]
    found: dict[str, torch.Tensor] = {}
    for flux, parts in names(state):
        for kind in ("weight", "bias"):
            key = flux_key(flux, kind)
            if key in state:
                value = halves_swapped(flux, state[key])
                sizes = [width] * (len(parts) - 1)
                pieces = value.split([*sizes, len(value) - sum(sizes)])
                found |= {f"{part}.{kind}": piece for part, piece in zip(parts, pieces)}
    return found


def build(**changes):
    """Untrained diffusers FluxTransformer2DModel; `changes` of its settings."""
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(**{**CONFIG, **changes})
    kind = type(network.pos_embed)  # diffusers always gives it 10000
    network.register_module("pos_embed", kind(theta=THETA, axes_dim=network.config.axes_dims_rope))
    return network


def patches(latents: torch.Tensor) -> torch.Tensor:
    """[B,C,h,w] -> tokens [B, h/2 w/2, 4C], channels before places in a patch."""
    count, channels, height, width = latents.shape
    cut = latents.view(count, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(count, height * width // PATCH**2, channels * PATCH**2)


def unpatched(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The way back from `patches`; height, width of the latents."""
    channels = tokens.shape[-1] // PATCH**2
    cut = tokens.view(len(tokens), height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), channels, height, width)


def positions(height: int, width: int) -> torch.Tensor:
    """(index, row, column) of the tokens of latents of that size, noisy ones (index 0), then the source's (1)."""
    rows, columns = height // PATCH, width // PATCH
    grid = torch.zeros(2, rows, columns, 3)
    grid[1, ..., 0] = 1
    grid[..., 1], grid[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return grid.view(-1, 3)


def velocity(network, latents: torch.Tensor, source: torch.Tensor, sigma: torch.Tensor, text: torch.Tensor,
             pooled: torch.Tensor) -> torch.Tensor:
    """v [B,4,h,w] at scaled latents z_s and noise levels sigma [B], the source's scaled latents as reference; text
    [B,TOKENS,96], pooled [B,96]."""
    height, width = latents.shape[-2:]
    tokens = torch.cat([patches(latents), patches(source)], 1)
    found = network(hidden_states=tokens, encoder_hidden_states=text, pooled_projections=pooled, timestep=sigma,
                    img_ids=positions(height, width), txt_ids=torch.zeros(text.shape[1], 3)).sample
    return unpatched(found[:, :tokens.shape[1] // 2], height, width)


def embed_text(encoder, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Text [B,TOKENS,96] and pooled [B,96] of token ids [B,77]."""
    hidden = encoder(ids).last_hidden_state
    return hidden[:, :TOKENS], hidden[torch.arange(len(ids)), (ids == EOS).int().argmax(1)]
