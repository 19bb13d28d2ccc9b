"""Stage 1: the norms of residual and attention blocks, with a share of their input beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...kernels.adjustable_norm import adjustable_norm
from ..attachment import Attachment, NormSite

KINDS = ("resnet", "attention", "final")
GAMMA0 = ("channel", "scalar", "none")


class AdjustableNorm(nn.Module):
    """z' = (gamma + s d_gamma) Norm(z) + (beta + s d_beta) + s gamma0 z (DAPE, equation 2).

    gamma and beta stay the layer's own; this holds the differences from them, so that a LoRA or
    another patch of the layer goes on working. All of it starts at 0, which is the plain norm.

    Args:
        channels: of the layer.
        gamma0: a number for every channel ("channel"), one for all ("scalar"), or plain
            norm-tuning without it ("none").
        strength: s.
    """

    def __init__(self, channels: int, gamma0: str = "channel", strength: float = 1.0) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.gamma0 = None if gamma0 == "none" else nn.Parameter(torch.zeros(channels if gamma0 == "channel" else 1))
        self.strength = float(strength)

    def forward(self, z: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Tensor:
        """Args: as ``kernels.adjustable_norm``, with the layer's own affine. Returns the type of ``z``."""
        wide = self.gamma.dtype
        gamma = self.strength * self.gamma + (1 if weight is None else weight.to(wide))
        beta = self.strength * self.beta + (0 if bias is None else bias.to(wide))
        gamma0 = None if self.gamma0 is None else self.strength * self.gamma0
        return adjustable_norm(z, gamma, beta, gamma0, groups, eps)


def build_norm_tune(
    norms: Iterable[NormSite],
    *,
    kinds: Sequence[str] = ("resnet", "attention"),
    gamma0: str = "channel",
    strength: float = 1.0,
) -> Attachment:
    """Adjustable norms in the place of every norm layer of the given kinds.

    Args:
        norms: all norm layers of the U-Net.
        kinds: of ``resnet``, ``attention`` and ``final``; the paper names the first two.
        gamma0: "channel", "scalar" or "none".
        strength: scales all differences; 0 is the plain model.

    Raises:
        ValueError: an unknown kind or ``gamma0``, or no layer of the given kinds.
    """
    strange = [kind for kind in kinds if kind not in KINDS]
    if strange or not kinds:
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, but got {', '.join(kinds) or 'none'}.")
    if gamma0 not in GAMMA0:
        raise ValueError(f"gamma0: expected one of {', '.join(GAMMA0)}, but got {gamma0!r}.")
    chosen = [site for site in norms if site.kind in kinds]
    if not chosen:
        raise ValueError(f"model: it has no norm layer of the kinds {', '.join(kinds)}; choose others.")
    return Attachment(
        method="norm-tune",
        config={"kinds": list(kinds), "gamma0": gamma0, "strength": strength},
        norms=nn.ModuleDict({site.key: AdjustableNorm(site.channels, gamma0, strength) for site in chosen}),
    )
