"""The diffusion transformer of Qwen-Image-Edit, which edits the first frame in LoRA-Edit's graphs."""

from __future__ import annotations

from .layout import Layout

#: 24 heads of 128: the host reads the number of blocks off a file, and takes the rest as it is in the true one.
WIDTH, HEAD = 3072, 128
#: Width of what the text encoder gives, of the time's frequencies, and of a patch of 2x2 latents of 16 channels.
TEXT, FREQUENCIES, PATCH = 3584, 256, 64


def qwen(blocks: int = 1) -> Layout:
    """Picture and text in two streams that attend to each other."""
    layout = Layout()
    layout.linear("img_in", WIDTH, PATCH)
    layout.norm("txt_norm", TEXT, bias=False)
    layout.linear("txt_in", WIDTH, TEXT)
    layout.linear("time_text_embed.timestep_embedder.linear_1", WIDTH, FREQUENCIES)
    layout.linear("time_text_embed.timestep_embedder.linear_2", WIDTH, WIDTH)
    for number in range(blocks):
        block = f"transformer_blocks.{number}"
        for part in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            layout.linear(f"{block}.attn.{part}", WIDTH, WIDTH)
        for part in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            layout.norm(f"{block}.attn.{part}", HEAD, bias=False)
        for stream in ("img", "txt"):
            layout.linear(f"{block}.{stream}_mod.1", 6 * WIDTH, WIDTH)
            layout.linear(f"{block}.{stream}_mlp.net.0.proj", 4 * WIDTH, WIDTH)
            layout.linear(f"{block}.{stream}_mlp.net.2", WIDTH, 4 * WIDTH)
    layout.linear("norm_out.linear", 2 * WIDTH, WIDTH)
    layout.linear("proj_out", PATCH, WIDTH)
    return layout
