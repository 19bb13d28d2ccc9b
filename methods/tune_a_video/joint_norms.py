"""Tune-A-Video's normalisation of all frames together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from ..attachment import Attachment, NormSite

#: Norm layers that the authors' code inflates to the clip; a transformer's own stay frame by frame.
KINDS = ("resnet", "final")


class JointNorm(nn.Module):
    """GroupNorm with one mean and variance per group for all frames of a clip, as the authors' code computes them.

    Has no weights; the layer's own affine stays.
    """

    #: Hosts hand a module with this the number of branches in the batch.
    joint = True
    strength = 1.0

    def forward(
        self, z: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, branches: int = 1
    ) -> Tensor:
        """Args: z [branches * frames, channels, height, width]; the rest is the layer's. Returns the same."""
        clips = rearrange(z, "(b f) c h w -> b c f h w", b=branches)
        normed = torch.nn.functional.group_norm(clips, groups, weight, bias, eps)
        return rearrange(normed, "b c f h w -> (b f) c h w")


def build_joint_norms(norms: Iterable[NormSite]) -> Attachment:
    """Joint statistics in residual blocks and before the last convolution.

    Args:
        norms: all norm layers of the U-Net.
    """
    chosen = {site.key: JointNorm() for site in norms if site.kind in KINDS and site.groups}
    return Attachment(method="joint-norms", norms=nn.ModuleDict(chosen))
