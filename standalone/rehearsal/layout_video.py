"""The diffusion transformers of Wan 2.1 and 2.2 I2V, Wan 2.1 VACE and HunyuanVideo I2V v1, by their makers' names."""

from __future__ import annotations

from .layout import Layout

#: Two heads of 128, which is the width of a head in both models. The true widths are 5120 and 3072.
WIDTH = 256
#: Width of what the text encoders and CLIP vision give.
TEXT, POOLED, VISION = 4096, 768, 1280
FREQUENCIES = 256


def wan(blocks: int = 6, image: bool = True, inputs: int = 36, latent: int = 16) -> Layout:
    """Wan I2V: 16 channels of noise, 4 of the mask, 16 of the image. Wan 2.2 has no way for CLIP vision (``image``)."""
    layout = Layout()
    layout.conv("patch_embedding", WIDTH, inputs, 1, 2, 2)
    for name, seen in (("text_embedding", TEXT), ("time_embedding", FREQUENCIES)):
        layout.linear(f"{name}.0", WIDTH, seen)
        layout.linear(f"{name}.2", WIDTH, WIDTH)
    layout.linear("time_projection.1", 6 * WIDTH, WIDTH)
    for number in range(blocks):
        _wan_block(layout, f"blocks.{number}", image)
    layout["head.modulation"] = (1, 2, WIDTH)
    layout.linear("head.head", 4 * latent, WIDTH)
    if image:
        layout.norm("img_emb.proj.0", VISION)
        layout.linear("img_emb.proj.1", VISION, VISION)
        layout.linear("img_emb.proj.3", WIDTH, VISION)
        layout.norm("img_emb.proj.4", WIDTH)
    return layout


def _wan_block(layout: Layout, block: str, image: bool) -> None:
    """One transformer block of Wan."""
    layout[f"{block}.modulation"] = (1, 6, WIDTH)
    for attention in ("self_attn", "cross_attn"):
        for part in ("q", "k", "v", "o"):
            layout.linear(f"{block}.{attention}.{part}", WIDTH, WIDTH)
        layout.norm(f"{block}.{attention}.norm_q", WIDTH, bias=False)
        layout.norm(f"{block}.{attention}.norm_k", WIDTH, bias=False)
    if image:
        layout.linear(f"{block}.cross_attn.k_img", WIDTH, WIDTH)
        layout.linear(f"{block}.cross_attn.v_img", WIDTH, WIDTH)
        layout.norm(f"{block}.cross_attn.norm_k_img", WIDTH, bias=False)
    layout.norm(f"{block}.norm3", WIDTH)
    layout.linear(f"{block}.ffn.0", 2 * WIDTH, WIDTH)
    layout.linear(f"{block}.ffn.2", WIDTH, 2 * WIDTH)


def vace(blocks: int = 6, beside: int = 3) -> Layout:
    """Wan VACE: text to video, and blocks beside every other one that read 96 channels.

    They are what is kept and what changes, 16 each, and the mask's 8x8 pixels of a cell.
    """
    layout = wan(blocks, image=False, inputs=16)
    layout.conv("vace_patch_embedding", WIDTH, 96, 1, 2, 2)
    for number in range(beside):
        block = f"vace_blocks.{number}"
        _wan_block(layout, block, image=False)
        if number == 0:
            layout.linear(f"{block}.before_proj", WIDTH, WIDTH)
        layout.linear(f"{block}.after_proj", WIDTH, WIDTH)
    return layout


def _refiner(layout: Layout) -> None:
    """HunyuanVideo's way in for the text."""
    layout.linear("txt_in.input_embedder", WIDTH, TEXT)
    layout.linear("txt_in.t_embedder.mlp.0", WIDTH, FREQUENCIES)
    layout.linear("txt_in.t_embedder.mlp.2", WIDTH, WIDTH)
    layout.linear("txt_in.c_embedder.linear_1", WIDTH, TEXT)
    layout.linear("txt_in.c_embedder.linear_2", WIDTH, WIDTH)
    for number in range(2):
        block = f"txt_in.individual_token_refiner.blocks.{number}"
        layout.linear(f"{block}.adaLN_modulation.1", 2 * WIDTH, WIDTH)
        layout.norm(f"{block}.norm1", WIDTH)
        layout.norm(f"{block}.norm2", WIDTH)
        layout.linear(f"{block}.self_attn_qkv", 3 * WIDTH, WIDTH)
        layout.linear(f"{block}.self_attn_proj", WIDTH, WIDTH)
        layout.linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH)
        layout.linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)


def hunyuan(double: int = 3, single: int = 3, inputs: int = 33, latent: int = 16) -> Layout:
    """HunyuanVideo I2V v1: 16 channels of noise, 16 of the image, 1 of the mask."""
    layout, head = Layout(), 128
    layout.conv("img_in.proj", WIDTH, inputs, 1, 2, 2)
    layout.linear("time_in.mlp.0", WIDTH, FREQUENCIES)
    layout.linear("time_in.mlp.2", WIDTH, WIDTH)
    layout.linear("vector_in.in_layer", WIDTH, POOLED)
    layout.linear("vector_in.out_layer", WIDTH, WIDTH)
    _refiner(layout)
    for number in range(double):
        for stream in ("img", "txt"):
            name = f"double_blocks.{number}.{stream}"
            layout.linear(f"{name}_mod.linear", 6 * WIDTH, WIDTH)
            layout.linear(f"{name}_attn_qkv", 3 * WIDTH, WIDTH)
            layout.norm(f"{name}_attn_q_norm", head, bias=False)
            layout.norm(f"{name}_attn_k_norm", head, bias=False)
            layout.linear(f"{name}_attn_proj", WIDTH, WIDTH)
            layout.linear(f"{name}_mlp.fc1", 4 * WIDTH, WIDTH)
            layout.linear(f"{name}_mlp.fc2", WIDTH, 4 * WIDTH)
    for number in range(single):
        name = f"single_blocks.{number}"
        layout.linear(f"{name}.linear1", 7 * WIDTH, WIDTH)
        layout.linear(f"{name}.linear2", WIDTH, 5 * WIDTH)
        layout.norm(f"{name}.q_norm", head, bias=False)
        layout.norm(f"{name}.k_norm", head, bias=False)
        layout.linear(f"{name}.modulation.linear", 3 * WIDTH, WIDTH)
    layout.linear("final_layer.linear", 4 * latent, WIDTH)
    layout.linear("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    return layout
