"""Grounding DINO's official weights: the sizes that their keys tell, and the same in transformers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..checkpoint import numbered

#: The key that only a checkpoint of this model has.
MARK = "transformer.tgt_embed.weight"
#: Of official files: not used at inference, or computed.
UNUSED = ("label_enc.", "position_ids", "relative_position_index", "bert.pooler.")

_SWIN, _ENCODER, _DECODER = "model.backbone.conv_encoder.model.", "model.encoder.layers.", "model.decoder.layers."
#: Official name -> the name in transformers' published files, by patterns; the first that fits is taken.
RENAMED = (
    (r"^backbone\.0\.patch_embed\.proj\.", _SWIN + "embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", _SWIN + "embeddings.norm."),
    (r"^backbone\.0\.norm1\.", _SWIN + "hidden_states_norms.stage2."),
    (r"^backbone\.0\.norm2\.", _SWIN + "hidden_states_norms.stage3."),
    (r"^backbone\.0\.norm3\.", _SWIN + "hidden_states_norms.stage4."),
    (r"^backbone\.0\.(layers\.\d+\.blocks\.\d+)\.norm1\.", _SWIN + r"encoder.\1.layernorm_before."),
    (r"^backbone\.0\.(layers\.\d+\.blocks\.\d+)\.norm2\.", _SWIN + r"encoder.\1.layernorm_after."),
    (r"^backbone\.0\.(layers\.\d+\.blocks\.\d+)\.mlp\.fc1\.", _SWIN + r"encoder.\1.intermediate.dense."),
    (r"^backbone\.0\.(layers\.\d+\.blocks\.\d+)\.mlp\.fc2\.", _SWIN + r"encoder.\1.output.dense."),
    (r"^backbone\.0\.(layers\.\d+\.blocks\.\d+)\.attn\.proj\.", _SWIN + r"encoder.\1.attention.output.dense."),
    (r"^backbone\.0\.(layers\.\d+\.blocks\.\d+)\.attn\.(query|key|value)\.", _SWIN + r"encoder.\1.attention.self.\2."),
    (r"^backbone\.0\.(layers\.\d+\.blocks\.\d+)\.attn\.rel", _SWIN + r"encoder.\1.attention.self.rel"),
    (r"^backbone\.0\.layers\.", _SWIN + "encoder.layers."),
    (r"^bert\.", "model.text_backbone."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"^bbox_embed\.", "bbox_embed."),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.(level_embed|enc_output)", r"model.\1"),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    (r"^transformer\.decoder\.bbox_embed\.", "model.decoder.bbox_embed."),
    (r"^transformer\.encoder\.layers\.(\d+)\.self_attn\.", _ENCODER + r"\1.deformable_layer.self_attn."),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm1\.", _ENCODER + r"\1.deformable_layer.self_attn_layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.norm2\.", _ENCODER + r"\1.deformable_layer.final_layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.linear(\d)\.", _ENCODER + r"\1.deformable_layer.fc\2."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.norm1\.", _ENCODER + r"\1.text_enhancer_layer.layer_norm_before."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.norm2\.", _ENCODER + r"\1.text_enhancer_layer.layer_norm_after."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.linear(\d)\.", _ENCODER + r"\1.text_enhancer_layer.fc\2."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", _ENCODER + r"\1.text_enhancer_layer."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.gamma_v", _ENCODER + r"\1.fusion_layer.vision_param"),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.gamma_l", _ENCODER + r"\1.fusion_layer.text_param"),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.layer_norm_v\.", _ENCODER + r"\1.fusion_layer.layer_norm_vision."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.layer_norm_l\.", _ENCODER + r"\1.fusion_layer.layer_norm_text."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.attn\.(values_|out_|)v_proj\.",
     _ENCODER + r"\1.fusion_layer.attn.\2vision_proj."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.attn\.(values_|out_|)l_proj\.",
     _ENCODER + r"\1.fusion_layer.attn.\2text_proj."),
    (r"^transformer\.decoder\.layers\.(\d+)\.cross_attn\.", _DECODER + r"\1.encoder_attn."),
    (r"^transformer\.decoder\.layers\.(\d+)\.ca_text\.", _DECODER + r"\1.encoder_attn_text."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm1\.", _DECODER + r"\1.encoder_attn_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.catext_norm\.", _DECODER + r"\1.encoder_attn_text_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm2\.", _DECODER + r"\1.self_attn_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.norm3\.", _DECODER + r"\1.final_layer_norm."),
    (r"^transformer\.decoder\.layers\.(\d+)\.linear(\d)\.", _DECODER + r"\1.fc\2."),
    (r"^transformer\.decoder\.layers\.", _DECODER),
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a network, read off its weights."""

    swin_width: int
    swin_depths: tuple[int, ...]
    swin_heads: tuple[int, ...]
    swin_window: int
    width: int
    queries: int
    encoder_layers: int
    decoder_layers: int
    mlp: int
    levels: int
    text: tuple[tuple[str, int], ...]
    encoder_points: int
    decoder_points: int
    #: Not in the weights: the official configurations'.
    heads: int = 8


def is_official(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are Grounding DINO's weights under the official names."""
    return MARK in weights


def shape_of(weights: Mapping[str, Tensor], heads: int = 8) -> Shape:
    """The sizes of official weights.

    Raises:
        KeyError: a key that tells a size is missing.
    """
    size = lambda key: tuple(weights[key].shape)  # noqa: E731
    stages = numbered(weights, r"^backbone\.0\.layers\.(\d+)\.")
    tables = [size(f"backbone.0.layers.{i}.blocks.0.attn.relative_position_bias_table") for i in range(stages)]
    levels = size("transformer.level_embed")[0]
    hidden = size("feat_map.weight")[1]
    vocabulary, places = size("bert.embeddings.word_embeddings.weight")[0], size(
        "bert.embeddings.position_embeddings.weight")[0]
    text = dict(hidden_size=hidden, vocab_size=vocabulary, max_position_embeddings=places,
                num_hidden_layers=numbered(weights, r"^bert\.encoder\.layer\.(\d+)\."),
                intermediate_size=size("bert.encoder.layer.0.intermediate.dense.weight")[0],
                # 64 channels a head, as in every published BERT
                num_attention_heads=max(1, hidden // 64))
    points = lambda name: size(name)[0] // (2 * levels * heads)  # noqa: E731
    return Shape(
        swin_width=size("backbone.0.patch_embed.proj.weight")[0],
        swin_depths=tuple(numbered(weights, rf"^backbone\.0\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)),
        swin_heads=tuple(table[1] for table in tables), swin_window=(round(tables[0][0] ** 0.5) + 1) // 2,
        width=size(MARK)[1], queries=size(MARK)[0], heads=heads, levels=levels, text=tuple(text.items()),
        encoder_layers=numbered(weights, r"^transformer\.encoder\.layers\.(\d+)\."),
        decoder_layers=numbered(weights, r"^transformer\.decoder\.layers\.(\d+)\."),
        mlp=size("transformer.decoder.layers.0.linear1.weight")[0],
        encoder_points=points("transformer.encoder.layers.0.self_attn.sampling_offsets.weight"),
        decoder_points=points("transformer.decoder.layers.0.cross_attn.sampling_offsets.weight"))


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names -> those of transformers' published files, which ``from_pretrained`` reads in every version.

    Joint query, key and value projections are cut in three.
    """
    out = {}
    for key, value in weights.items():
        if any(part in key for part in UNUSED):
            continue
        joint = re.match(r"^(.*(?:self_attn|ca_text))\.in_proj_(weight|bias)$|^(.*\.attn)\.qkv\.(weight|bias)$", key)
        if joint:
            stem, kind = joint[1] or joint[3], joint[2] or joint[4]
            for name, part in zip(("query", "key", "value"), value.chunk(3)):
                out[_renamed(f"{stem}.{name}.{kind}")] = part.contiguous()
        else:
            out[_renamed(key)] = value
    return out


def _renamed(key: str) -> str:
    for pattern, replacement in RENAMED:
        new, count = re.subn(pattern, replacement, key)
        if count:
            return new
    return key


def transformers_config(shape: Shape) -> Any:
    """``GroundingDinoConfig`` of these sizes."""
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    swin = SwinConfig(embed_dim=shape.swin_width, depths=list(shape.swin_depths), num_heads=list(shape.swin_heads),
                      window_size=shape.swin_window, image_size=384 if shape.swin_window > 7 else 224,
                      out_indices=[2, 3, 4])
    return GroundingDinoConfig(
        backbone_config=swin.to_dict(), text_config=BertConfig(**dict(shape.text)).to_dict(),
        d_model=shape.width, num_queries=shape.queries, num_feature_levels=shape.levels,
        encoder_layers=shape.encoder_layers, decoder_layers=shape.decoder_layers, encoder_ffn_dim=shape.mlp,
        decoder_ffn_dim=shape.mlp, encoder_attention_heads=shape.heads, decoder_attention_heads=shape.heads,
        encoder_n_points=shape.encoder_points, decoder_n_points=shape.decoder_points)
