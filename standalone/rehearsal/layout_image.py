"""The diffusion transformers of Qwen-Image-Edit and of FLUX.1, which edit pictures."""

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


def lightning(blocks: int = 1, rank: int = 4) -> Layout:
    """A LoRA on Qwen-Image's attention."""
    layout = Layout()
    for number in range(blocks):
        for part in ("to_q", "to_k", "to_v"):
            name = f"diffusion_model.transformer_blocks.{number}.attn.{part}"
            layout[f"{name}.lora_down.weight"], layout[f"{name}.lora_up.weight"] = (rank, WIDTH), (WIDTH, rank)
    return layout


#: Two heads of 128; the true width of FLUX.1 is 3072, and the host reads it off the file.
FLUX = 256
T5, POOLED = 4096, 768


def flux(double: int = 2, single: int = 2) -> Layout:
    """Picture and text in two streams that attend to each other, then in one."""
    layout = Layout()
    layout.linear("img_in", FLUX, PATCH)
    layout.linear("txt_in", FLUX, T5)
    for name, seen in (("time_in", FREQUENCIES), ("guidance_in", FREQUENCIES), ("vector_in", POOLED)):
        layout.linear(f"{name}.in_layer", FLUX, seen)
        layout.linear(f"{name}.out_layer", FLUX, FLUX)
    for number in range(double):
        for stream in ("img", "txt"):
            name = f"double_blocks.{number}.{stream}"
            layout.linear(f"{name}_mod.lin", 6 * FLUX, FLUX)
            layout.linear(f"{name}_attn.qkv", 3 * FLUX, FLUX)
            for part in ("query", "key"):
                layout[f"{name}_attn.norm.{part}_norm.scale"] = (HEAD,)
            layout.linear(f"{name}_attn.proj", FLUX, FLUX)
            layout.linear(f"{name}_mlp.0", 4 * FLUX, FLUX)
            layout.linear(f"{name}_mlp.2", FLUX, 4 * FLUX)
    for number in range(single):
        name = f"single_blocks.{number}"
        layout.linear(f"{name}.linear1", 7 * FLUX, FLUX)
        layout.linear(f"{name}.linear2", FLUX, 5 * FLUX)
        for part in ("query", "key"):
            layout[f"{name}.norm.{part}_norm.scale"] = (HEAD,)
        layout.linear(f"{name}.modulation.lin", 3 * FLUX, FLUX)
    layout.linear("final_layer.linear", PATCH, FLUX)
    layout.linear("final_layer.adaLN_modulation.1", 2 * FLUX, FLUX)
    return layout
