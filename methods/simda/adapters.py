"""SimDA's adapters: bottlenecks on tokens, one of them across frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ..attachment import FrameLayout


class SpatialAdapter(nn.Module):
    """z + Up(GELU(Down(x))), where x is z, or beside the feed-forward the tokens that z will be added to.

    As published Up starts at 0 and Down like any linear layer, so that the adapter starts as the identity.

    Args:
        channels: c, width of the tokens; the bottleneck has a quarter of it.
        beside: read the tokens that z is added to, see ``Attachment.outputs``.
        generator: source of the initial weights; the global one if None.
    """

    #: Always at work; see ``Attachment.outputs``.
    strength = 1.0

    def __init__(self, channels: int, beside: bool = False, generator: torch.Generator | None = None) -> None:
        super().__init__()
        hidden, bound = channels // 4, channels**-0.5
        self.beside = beside
        self.down = nn.Parameter((torch.rand(hidden, channels, generator=generator) * 2 - 1) * bound)
        self.down_bias = nn.Parameter((torch.rand(hidden, generator=generator) * 2 - 1) * bound)
        self.up = nn.Parameter(torch.zeros(channels, hidden))
        self.up_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, z: Tensor, layout: FrameLayout, tokens: Tensor | None = None) -> Tensor:
        """Args: z, tokens [branches * frames, places, channels] of any float type. Returns z's shape."""
        down, down_bias, up, up_bias = (w.to(z.dtype) for w in (self.down, self.down_bias, self.up, self.up_bias))
        return z + linear(gelu(linear(z if tokens is None else tokens, down, down_bias)), up, up_bias)


class TemporalAdapter(nn.Module):
    """z + Up(w * Down(z)), w a depth-wise convolution over 3 frames, zeros before and after the clip.

    As published: no activation and no norm; Up starts at 0, Down and w by He's normal initialisation.

    Args:
        channels: c, width of the tokens; the bottleneck has half of it.
        generator: source of the initial weights; the global one if None.
    """

    def __init__(self, channels: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        hidden = channels // 2

        def normal(*shape: int, inputs: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * (2 / inputs) ** 0.5)

        def uniform(*shape: int, inputs: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(*shape, generator=generator) * 2 - 1) * inputs**-0.5)

        self.down, self.down_bias = normal(hidden, channels, inputs=channels), uniform(hidden, inputs=channels)
        self.conv, self.conv_bias = normal(hidden, 3, inputs=3), uniform(hidden, inputs=3)
        self.up = nn.Parameter(torch.zeros(channels, hidden))
        self.up_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, z: Tensor, layout: FrameLayout) -> Tensor:
        """Args: z [branches * frames, places, channels] of any float type. Returns the same."""
        down, down_bias, conv, conv_bias, up, up_bias = (
            w.to(z.dtype) for w in (self.down, self.down_bias, self.conv, self.conv_bias, self.up, self.up_bias)
        )
        hidden = linear(z, down, down_bias).unflatten(0, (-1, layout.frames))
        none = torch.zeros_like(hidden[:, :1])
        padded = torch.cat([none, hidden, none], dim=1)
        # Frames stay where they are: a sum of shifted clips instead of a transposed copy for a convolution.
        mixed = sum(padded[:, i : i + layout.frames] * conv[:, i] for i in range(3)) + conv_bias
        return z + linear(mixed.flatten(0, 1), up, up_bias)
