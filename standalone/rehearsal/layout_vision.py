"""CLIP vision's files, always of the true size: the host knows them by their number of layers alone."""

from __future__ import annotations

from .layout import Layout


def clip_vision(width: int, layers: int, mlp: int, tokens: int, projection: int, patch: int = 14) -> Layout:
    """A ViT of ``tokens`` patches and one more."""
    layout = Layout({
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": (tokens + 1, width),
    })
    layout.norm("vision_model.pre_layrnorm", width)
    for number in range(layers):
        layer = f"vision_model.encoder.layers.{number}"
        layout.norm(f"{layer}.layer_norm1", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layout.linear(f"{layer}.self_attn.{part}", width, width)
        layout.norm(f"{layer}.layer_norm2", width)
        layout.linear(f"{layer}.mlp.fc1", mlp, width)
        layout.linear(f"{layer}.mlp.fc2", width, mlp)
    layout.norm("vision_model.post_layernorm", width)
    layout.linear("visual_projection", projection, width, bias=False)
    return layout


def huge() -> Layout:
    """ViT-H, which Wan 2.1 looks with."""
    return clip_vision(1280, 32, 5120, 16 * 16, 1024)


def llava() -> Layout:
    """ViT-L at 336 pixels and LLaVA's projector, which HunyuanVideo looks with."""
    layout = clip_vision(1024, 24, 4096, 24 * 24, 768)
    layout.linear("multi_modal_projector.linear_1", 4096, 1024)
    layout.linear("multi_modal_projector.linear_2", 4096, 4096)
    return layout
