"""A LATENT of inverted noise, which takes no noise mask.

Samplers keep what lies outside of a noise mask as it is in the LATENT. In an inverted one that is noise, not the clip,
so that the kept part of the picture would end as noise. Nodes of any pack that set a mask copy the LATENT and write
``noise_mask`` into the copy; there it is refused, ahead of any sampling.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

MASK = "noise_mask"


class InvertedLatent(dict):
    """The dict of a LATENT, for as long as its samples are noise.

    Args:
        values: as of any LATENT.
        between: root mean square that parts noise from clips; samplers write their result into a copy, too, and a
            finished one takes masks again.
    """

    def __init__(self, values: dict[str, Any], between: float = 0.0) -> None:
        super().__init__(values)
        self.between = between

    def copy(self) -> InvertedLatent:
        return InvertedLatent(self, self.between)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == MASK and value is not None and root_mean_square(self["samples"]) > self.between:
            raise ValueError("mask: a noise mask on the latent of DDIM Inversion would keep its noise instead of the "
                             "clip; remove Set Latent Noise Mask, and give the mask to Boundary Blend.")
        super().__setitem__(key, value)

    def update(self, *values: Any, **more: Any) -> None:
        # dict's own passes __setitem__ by. Samples first: the mask is for those.
        for key, value in sorted(dict(*values, **more).items(), key=lambda item: item[0] != "samples"):
            self[key] = value


def root_mean_square(x: Tensor) -> float:
    """sqrt(mean x^2)."""
    return float(x.float().square().mean().sqrt())
