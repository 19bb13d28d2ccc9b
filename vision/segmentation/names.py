"""Segment Anything 1's official weights: the size that their keys tell, and the same in transformers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..checkpoint import numbered

#: Official name -> transformers', by patterns in order; the first two kinds of MLP count their layers anew.
RENAMED = (
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
     "prompt_encoder.shared_embedding.positional_embedding"),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
)
#: The key that only a checkpoint of this model has.
MARK = "image_encoder.patch_embed.proj.weight"
GAUSSIAN = "prompt_encoder.shared_embedding.positional_embedding"


@dataclass(frozen=True)
class Shape:
    """Sizes of a network, read off its weights; ``global_layers`` attend to the whole picture."""

    side: int
    patch: int
    width: int
    depth: int
    heads: int
    window: int
    global_layers: tuple[int, ...]
    mlp: int
    channels: int
    decoder_depth: int
    decoder_mlp: int
    masks: int
    score_depth: int
    score_width: int
    #: Not in the weights: the official code's, and any network's that this pack trains.
    decoder_heads: int = 8


def is_official(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are Segment Anything 1's weights under the official names."""
    return MARK in weights


def shape_of(weights: Mapping[str, Tensor]) -> Shape:
    """The sizes of official weights.

    Raises:
        KeyError: a key that tells a size is missing.
    """
    width, patch = weights[MARK].shape[0], weights[MARK].shape[-1]
    grid = weights["image_encoder.pos_embed"].shape[1]
    depth = numbered(weights, r"^image_encoder\.blocks\.(\d+)\.")
    spans = [weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    whole = 2 * grid - 1
    # Where all layers have the grid's span no window is smaller than it.
    windows = [(span[0] + 1) // 2 for span in spans if span[0] != whole]
    decoder = "mask_decoder.transformer.layers"
    return Shape(
        side=grid * patch, patch=patch, width=width, depth=depth, heads=width // spans[0][1],
        window=windows[0] if windows else 0,
        global_layers=tuple(i for i, span in enumerate(spans) if span[0] == whole),
        mlp=weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        channels=weights["image_encoder.neck.0.weight"].shape[0],
        decoder_depth=numbered(weights, rf"^{re.escape(decoder)}\.(\d+)\."),
        decoder_mlp=weights[f"{decoder}.0.mlp.lin1.weight"].shape[0],
        masks=weights["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        score_depth=numbered(weights, r"^mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        score_width=weights["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0])


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names -> those of transformers' ``SamModel``. The tensors are the same ones."""
    last: dict[str, int] = {}  # of each small MLP
    for key in weights:
        if found := _mlp(key):
            last[found[1]] = max(last.get(found[1], 0), int(found[2]))
    out = {}
    for key, value in weights.items():
        out[_renamed(key, last)] = value
    # transformers keeps the prompt encoder's Fourier matrix under a second name, too.
    out["shared_image_embedding.positional_embedding"] = out[GAUSSIAN]
    return out


def _mlp(key: str) -> re.Match | None:
    return re.match(r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.", key)


def _renamed(key: str, last: Mapping[str, int]) -> str:
    if found := _mlp(key):
        number, final = int(found[2]), last[found[1]]
        place = {0: "proj_in", final: "proj_out"}.get(number, f"layers.{number - 1}")
        return f"{found[1]}.{place}.{key[found.end():]}"
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def official_names(shape: Shape) -> list[str]:
    """Every key of official weights of this size."""
    both = lambda *stems: [f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")]  # noqa: E731
    keys = ["image_encoder.pos_embed", *both("image_encoder.patch_embed.proj")]
    for i in range(shape.depth):
        block = f"image_encoder.blocks.{i}"
        keys += [*both(f"{block}.norm1", f"{block}.attn.qkv", f"{block}.attn.proj", f"{block}.norm2",
                       f"{block}.mlp.lin1", f"{block}.mlp.lin2"), f"{block}.attn.rel_pos_h", f"{block}.attn.rel_pos_w"]
    neck, prompts, decoder = "image_encoder.neck", "prompt_encoder", "mask_decoder"
    keys += [f"{neck}.0.weight", *both(f"{neck}.1"), f"{neck}.2.weight", *both(f"{neck}.3")]
    keys += [f"{prompts}.pe_layer.positional_encoding_gaussian_matrix", f"{prompts}.not_a_point_embed.weight",
             f"{prompts}.no_mask_embed.weight", *(f"{prompts}.point_embeddings.{i}.weight" for i in range(4)),
             *both(*(f"{prompts}.mask_downscaling.{i}" for i in (0, 1, 3, 4, 6)))]
    attention = lambda stem: both(*(f"{stem}.{name}_proj" for name in ("q", "k", "v", "out")))  # noqa: E731
    for i in range(shape.decoder_depth):
        layer = f"{decoder}.transformer.layers.{i}"
        keys += both(*(f"{layer}.norm{n}" for n in (1, 2, 3, 4)), f"{layer}.mlp.lin1", f"{layer}.mlp.lin2")
        for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            keys += attention(f"{layer}.{name}")
    keys += attention(f"{decoder}.transformer.final_attn_token_to_image")
    keys += both(f"{decoder}.transformer.norm_final_attn", *(f"{decoder}.output_upscaling.{i}" for i in (0, 1, 3)))
    keys += [f"{decoder}.iou_token.weight", f"{decoder}.mask_tokens.weight"]
    for i in range(shape.masks + 1):
        keys += both(*(f"{decoder}.output_hypernetworks_mlps.{i}.layers.{n}" for n in range(3)))
    return keys + both(*(f"{decoder}.iou_prediction_head.layers.{n}" for n in range(shape.score_depth)))


def to_official(weights: Mapping[str, Tensor], official: list[str]) -> dict[str, Tensor]:
    """transformers' names -> the official ones, which ``official`` lists (``official_names``)."""
    theirs = list(to_transformers(dict.fromkeys(official)))[: len(official)]
    return {ours: weights[name] for ours, name in zip(official, theirs)}


def transformers_config(shape: Shape) -> Any:
    """``SamConfig`` of these sizes, with the official code's layer norms."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=shape.width, output_channels=shape.channels, num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads, image_size=shape.side, patch_size=shape.patch, mlp_dim=shape.mlp,
        window_size=shape.window, global_attn_indexes=list(shape.global_layers), num_pos_feats=shape.channels // 2)
    prompt = SamPromptEncoderConfig(hidden_size=shape.channels, image_size=shape.side, patch_size=shape.patch)
    decoder = SamMaskDecoderConfig(
        hidden_size=shape.channels, mlp_dim=shape.decoder_mlp, num_hidden_layers=shape.decoder_depth,
        num_attention_heads=shape.decoder_heads, num_multimask_outputs=shape.masks,
        iou_head_depth=shape.score_depth, iou_head_hidden_dim=shape.score_width,
        # transformers' default of 1e-6 is not the official decoder's.
        layer_norm_eps=1e-5)
    return SamConfig(vision_config=vision.to_dict(), prompt_encoder_config=prompt.to_dict(),
                     mask_decoder_config=decoder.to_dict())
