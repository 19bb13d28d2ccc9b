"""Stable Diffusion 1.x as one checkpoint, InstructPix2Pix, and a ControlNet, under the names of CompVis' code."""

from __future__ import annotations

from .layout import Layout

#: The host knows Stable Diffusion 1.x by this width of the first level and of the text.
WIDTH, TEXT = 320, 768
#: All levels as wide as the first; the true ones are 1, 2, 4 and 4 times as wide.
NARROW = (1, 1, 1, 1)
BLOCKS = 2
#: Levels with attention.
ATTENDING = 3


def _resblock(layout: Layout, name: str, narrow: int, wide: int) -> None:
    layout.norm(f"{name}.in_layers.0", narrow)
    layout.conv(f"{name}.in_layers.2", wide, narrow, 3, 3)
    layout.linear(f"{name}.emb_layers.1", wide, 4 * WIDTH)
    layout.norm(f"{name}.out_layers.0", wide)
    layout.conv(f"{name}.out_layers.3", wide, wide, 3, 3)
    if narrow != wide:
        layout.conv(f"{name}.skip_connection", wide, narrow, 1, 1)


def _transformer(layout: Layout, name: str, width: int) -> None:
    layout.norm(f"{name}.norm", width)
    layout.conv(f"{name}.proj_in", width, width, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, context in (("attn1", width), ("attn2", TEXT)):
        for part, seen in (("to_q", width), ("to_k", context), ("to_v", context)):
            layout.linear(f"{block}.{attention}.{part}", width, seen, bias=False)
        layout.linear(f"{block}.{attention}.to_out.0", width, width)
    layout.linear(f"{block}.ff.net.0.proj", 8 * width, width)
    layout.linear(f"{block}.ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        layout.norm(f"{block}.norm{number}", width)
    layout.conv(f"{name}.proj_out", width, width, 1, 1)


def _down(channels: int, widths: tuple[int, ...]) -> tuple[Layout, list[int]]:
    """The way down with the middle, and the width of each thing that the way up joins."""
    layout, skips, number, now = Layout(), [WIDTH], 1, WIDTH
    layout.linear("time_embed.0", 4 * WIDTH, WIDTH)
    layout.linear("time_embed.2", 4 * WIDTH, 4 * WIDTH)
    layout.conv("input_blocks.0.0", WIDTH, channels, 3, 3)
    for level, wide in enumerate(widths):
        for _ in range(BLOCKS):
            _resblock(layout, f"input_blocks.{number}.0", now, wide)
            if level < ATTENDING:
                _transformer(layout, f"input_blocks.{number}.1", wide)
            now, number = wide, number + 1
            skips.append(now)
        if level < len(widths) - 1:
            layout.conv(f"input_blocks.{number}.0.op", now, now, 3, 3)
            number += 1
            skips.append(now)
    _resblock(layout, "middle_block.0", now, now)
    _transformer(layout, "middle_block.1", now)
    _resblock(layout, "middle_block.2", now, now)
    return layout, skips


def unet(channels: int = 4, factors: tuple[int, ...] = NARROW) -> Layout:
    """The denoiser; InstructPix2Pix has 8 input channels."""
    widths = tuple(WIDTH * factor for factor in factors)
    layout, skips = _down(channels, widths)
    number, now = 0, widths[-1]
    for level, wide in reversed(list(enumerate(widths))):
        for block in range(BLOCKS + 1):
            _resblock(layout, f"output_blocks.{number}.0", now + skips.pop(), wide)
            if level < ATTENDING:
                _transformer(layout, f"output_blocks.{number}.1", wide)
            if level and block == BLOCKS:
                layout.conv(f"output_blocks.{number}.{2 if level < ATTENDING else 1}.conv", wide, wide, 3, 3)
            now, number = wide, number + 1
    layout.norm("out.0", WIDTH)
    layout.conv("out.2", 4, WIDTH, 3, 3)
    return layout


def controlnet(factors: tuple[int, ...] = NARROW) -> Layout:
    """A ControlNet's file: the way down, a zero convolution for each of its outputs, and the hint's own way in."""
    control, skips = _down(4, tuple(WIDTH * factor for factor in factors))
    for number, width in enumerate(skips):
        control.conv(f"zero_convs.{number}.0", width, width, 1, 1)
    control.conv("middle_block_out.0", skips[-1], skips[-1], 1, 1)
    hint = (3, 16, 16, 32, 32, 96, 96, 256, WIDTH)
    for place, (narrow, wide) in enumerate(zip(hint, hint[1:])):
        control.conv(f"input_hint_block.{2 * place}", wide, narrow, 3, 3)
    layout = Layout()
    layout.under("control_model.", control)
    return layout


def text_encoder() -> Layout:
    """CLIP ViT-L's text model, always of the true size: the host has one configuration of it."""
    layout = Layout({"text_model.embeddings.token_embedding.weight": (49408, TEXT),
                     "text_model.embeddings.position_embedding.weight": (77, TEXT)})
    for number in range(12):
        layer = f"text_model.encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layout.linear(f"{layer}.self_attn.{part}", TEXT, TEXT)
        layout.linear(f"{layer}.mlp.fc1", 4 * TEXT, TEXT)
        layout.linear(f"{layer}.mlp.fc2", TEXT, 4 * TEXT)
        layout.norm(f"{layer}.layer_norm1", TEXT)
        layout.norm(f"{layer}.layer_norm2", TEXT)
    layout.norm("text_model.final_layer_norm", TEXT)
    return layout
