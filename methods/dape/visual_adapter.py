"""Stage 2: a bottleneck with a depth-wise convolution beside a part of a transformer block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, linear

from ...kernels.adjustable_norm import adjustable_norm
from ..attachment import OUTPUTS, Attachment, BlockSite, FrameLayout
from .positions import at_positions


class VisualAdapter(nn.Module):
    """z = z_0 + s Up(GELU(d + w_dw * d)), d = Down(LN(z_0) + w_0 z_0) (DAPE, equation 3).

    The paper leaves open how the scale w_0 enters; here as gamma_0 does in stage 1: a number for
    every channel, 0 at the start. Up starts at 0, so that the adapter starts as the identity.

    Args:
        channels: c, width of the tokens.
        bottleneck: m, width between Down and Up.
        kernel: k, odd side of the depth-wise convolution over the feature map.
        strength: s.
        generator: source of the initial weights; the global one if None.

    It has 2 c m + 4 c + m (k^2 + 1) parameters.
    """

    def __init__(
        self, channels: int, bottleneck: int = 64, kernel: int = 5, strength: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()

        def uniform(*shape: int, inputs: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(*shape, generator=generator) * 2 - 1) * inputs**-0.5)

        self.norm_weight = nn.Parameter(torch.ones(channels))
        self.norm_bias = nn.Parameter(torch.zeros(channels))
        self.w0 = nn.Parameter(torch.zeros(channels))
        self.down = uniform(bottleneck, channels, inputs=channels)
        self.down_bias = nn.Parameter(torch.zeros(bottleneck))
        self.conv = uniform(bottleneck, 1, kernel, kernel, inputs=kernel**2)
        self.up = nn.Parameter(torch.zeros(channels, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(channels))
        self.strength = float(strength)

    def forward(self, z: Tensor, layout: FrameLayout) -> Tensor:
        """Args: z [branches * frames, height * width, channels] of any float type. Returns the same."""
        if self.strength == 0:
            return z
        down, down_bias, conv, up, up_bias = (
            t.to(z.dtype) for t in (self.down, self.down_bias, self.conv, self.up, self.up_bias)
        )
        normed = adjustable_norm(z, self.norm_weight, self.norm_bias, self.w0)
        d = linear(normed, down, down_bias)
        sides = {"height": layout.height, "width": layout.width}
        feature_map = rearrange(d, "frames (height width) c -> frames c height width", **sides)
        mixed = conv2d(feature_map, conv, padding=conv.shape[-1] // 2, groups=len(conv))
        hidden = gelu(d + rearrange(mixed, "frames c height width -> frames (height width) c"))
        return z + self.strength * linear(hidden, up, up_bias)


def build_visual_adapter(
    sites: Iterable[BlockSite],
    *,
    positions: Sequence[int] = (5,),
    bottleneck: int = 64,
    kernel: int = 5,
    placement: str = "attn2",
    strength: float = 1.0,
    seed: int = 0,
) -> Attachment:
    """Visual adapters in all transformer blocks of some attention stages.

    Args:
        sites: all transformer blocks of the U-Net.
        positions: stages from 1, see ``positions.stages``; 5 is Stable Diffusion's first decoder
            block with cross-attention, the paper's choice.
        bottleneck, kernel, strength: see ``VisualAdapter``.
        placement: what the adapter's output replaces: that of the cross-attention (``attn2``), of
            the self-attention (``attn1``) or of the feed-forward (``ff``).
        seed: of the initial weights.

    Raises:
        ValueError: a stage that the U-Net has not, or a setting out of its range.
    """
    if placement not in OUTPUTS:
        raise ValueError(f"placement: expected one of {', '.join(OUTPUTS)}, but got {placement!r}.")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel: expected an odd number, but got {kernel}.")
    if bottleneck < 1:
        raise ValueError(f"bottleneck: expected at least 1, but got {bottleneck}.")
    chosen = at_positions(sites, positions)
    generator = torch.Generator().manual_seed(seed)
    outputs = {
        f"{site.key}/{placement}": VisualAdapter(site.channels, bottleneck, kernel, strength, generator)
        for site in chosen
    }
    settings = {"positions": sorted(set(positions)), "bottleneck": bottleneck, "kernel": kernel}
    return Attachment(
        method="visual-adapter",
        config={**settings, "placement": placement, "strength": strength, "seed": seed},
        outputs=nn.ModuleDict(outputs),
        sites=frozenset(site.path for site in chosen),
    )
