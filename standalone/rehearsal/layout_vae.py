"""The VAEs of Stable Diffusion 1.x and HunyuanVideo, whose names are one family, and Wan's own."""

from __future__ import annotations

from .layout import Layout

#: The host has one configuration of the first two, so that they are of the true size.
WIDTHS = (128, 256, 512, 512)
BLOCKS = 2


def _block(layout: Layout, name: str, narrow: int, wide: int, conv: str, kernel: tuple[int, ...]) -> None:
    layout.norm(f"{name}.norm1", narrow)
    layout.conv(f"{name}.conv1{conv}", wide, narrow, *kernel)
    layout.norm(f"{name}.norm2", wide)
    layout.conv(f"{name}.conv2{conv}", wide, wide, *kernel)
    if narrow != wide:
        layout.conv(f"{name}.nin_shortcut{conv if len(kernel) == 3 else ''}", wide, narrow, *(1 for _ in kernel))


def _half(name: str, ends: tuple[int, int], levels: list[tuple[int, int]], blocks: int, sampling: str, conv: str,
          kernel: tuple[int, ...]) -> Layout:
    """An encoder or decoder: ``levels`` are (number, width) in the order that they are run in."""
    layout, top = Layout(), WIDTHS[-1]
    now = levels[0][1]
    layout.conv(f"{name}.conv_in{conv}", now, ends[0], *kernel)
    for place, (level, wide) in enumerate(levels):
        for number in range(blocks):
            _block(layout, f"{name}.{sampling}.{level}.block.{number}", now, wide, conv, kernel)
            now = wide
        if place < len(levels) - 1:
            layout.conv(f"{name}.{sampling}.{level}.{sampling}sample.conv{conv}", now, now, *kernel)
    for number in (1, 2):
        _block(layout, f"{name}.mid.block_{number}", top, top, conv, kernel)
    layout.norm(f"{name}.mid.attn_1.norm", top)
    for part in ("q", "k", "v", "proj_out"):
        layout.conv(f"{name}.mid.attn_1.{part}", top, top, *(1 for _ in kernel))
    layout.norm(f"{name}.norm_out", now)
    layout.conv(f"{name}.conv_out{conv}", ends[1], now, *kernel)
    return layout


def kl(channels: int = 4, video: bool = False) -> Layout:
    """Stable Diffusion's VAE, or with ``video`` HunyuanVideo's, whose convolutions are causal in time."""
    conv, kernel = (".conv", (3, 3, 3)) if video else ("", (3, 3))
    levels = list(enumerate(WIDTHS))
    layout = _half("encoder", (3, 2 * channels), levels, BLOCKS, "down", conv, kernel)
    layout.update(_half("decoder", (channels, 3), levels[::-1], BLOCKS + 1, "up", conv, kernel))
    layout.conv("quant_conv", 2 * channels, 2 * channels, *(1 for _ in kernel))
    layout.conv("post_quant_conv", channels, channels, *(1 for _ in kernel))
    return layout


def _residual(layout: Layout, name: str, narrow: int, wide: int) -> None:
    layout[f"{name}.residual.0.gamma"] = (narrow, 1, 1, 1)
    layout.conv(f"{name}.residual.2", wide, narrow, 3, 3, 3)
    layout[f"{name}.residual.3.gamma"] = (wide, 1, 1, 1)
    layout.conv(f"{name}.residual.6", wide, wide, 3, 3, 3)
    if narrow != wide:
        layout.conv(f"{name}.shortcut", wide, narrow, 1, 1, 1)


def _middle(layout: Layout, name: str, width: int) -> None:
    _residual(layout, f"{name}.0", width, width)
    layout[f"{name}.1.norm.gamma"] = (width, 1, 1)
    layout.conv(f"{name}.1.to_qkv", 3 * width, width, 1, 1)
    layout.conv(f"{name}.1.proj", width, width, 1, 1)
    _residual(layout, f"{name}.2", width, width)


def wan(width: int = 32, channels: int = 16) -> Layout:
    """Wan 2.1's VAE; the host reads its width off the decoder's last norm, and the true one is 96."""
    layout, widths = Layout(), [width * factor for factor in (1, 2, 4, 4)]
    now, number = width, 0
    layout.conv("encoder.conv1", width, 3, 3, 3, 3)
    for level, wide in enumerate(widths):
        for _ in range(BLOCKS):
            _residual(layout, f"encoder.downsamples.{number}", now, wide)
            now, number = wide, number + 1
        if level < 3:
            layout.conv(f"encoder.downsamples.{number}.resample.1", now, now, 3, 3)
            if level > 0:  # Time is halved twice.
                layout.conv(f"encoder.downsamples.{number}.time_conv", now, now, 3, 1, 1)
            number += 1
    _middle(layout, "encoder.middle", now)
    layout["encoder.head.0.gamma"] = (now, 1, 1, 1)
    layout.conv("encoder.head.2", 2 * channels, now, 3, 3, 3)
    layout.conv("conv1", 2 * channels, 2 * channels, 1, 1, 1)
    layout.conv("conv2", channels, channels, 1, 1, 1)
    layout.conv("decoder.conv1", now, channels, 3, 3, 3)
    _middle(layout, "decoder.middle", now)
    number = 0
    for level, wide in enumerate(reversed(widths)):
        for _ in range(BLOCKS + 1):
            _residual(layout, f"decoder.upsamples.{number}", now, wide)
            now, number = wide, number + 1
        if level < 3:
            layout.conv(f"decoder.upsamples.{number}.resample.1", now // 2, now, 3, 3)
            if level < 2:
                layout.conv(f"decoder.upsamples.{number}.time_conv", 2 * now, now, 3, 1, 1)
            now, number = now // 2, number + 1
    layout["decoder.head.0.gamma"] = (now, 1, 1, 1)
    layout.conv("decoder.head.2", 3, now, 3, 3, 3)
    return layout
