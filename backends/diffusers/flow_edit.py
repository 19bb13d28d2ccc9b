"""FlowEdit on a video transformer without a host."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...methods.flow_edit import SOURCE, check_sigmas, flow_edit
from ...methods.via.latent_mask import video_keep_mask

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.flow_edit import FlowEdit, FlowEditPrompts
    from ..protocol import Progress


@dataclass(frozen=True, eq=False)
class FlowEditGuider:
    """GUIDER of ``nodes/flow_edit.py``; the stand-in of SamplerCustomAdvanced calls ``sample``.

    Args:
        velocity: v(x, sigma, CONDITIONING) of the MODEL.
        scale, unscale: LATENT samples to the model's scale, on its device, and back.
        opened: gives what the MODEL must be within while it runs.
        progress: of so many steps.
        stride: frames to a latent frame behind the first.
    """

    prompts: FlowEditPrompts
    settings: FlowEdit
    velocity: Callable[[Tensor, Tensor, Any], Tensor]
    scale: Callable[[Tensor], Tensor]
    unscale: Callable[[Tensor], Tensor]
    opened: Callable[[], AbstractContextManager[None]]
    progress: Callable[[int, str], Progress]
    stride: int

    def sample(self, noise: Any, sampler: Any, sigmas: Tensor, latent: dict[str, Any]) -> dict[str, Any]:
        """The LATENT with the edited samples, from the noise's ``seed``.

        Raises:
            ValueError: as ``methods.flow_edit``, or an empty latent.
        """
        samples = latent["samples"]
        if not torch.count_nonzero(samples):
            raise ValueError("latent_image: is empty, but FlowEdit changes a source; connect a VAE Encode of the clip.")
        check_sigmas(sigmas, self.settings)
        keep = None
        if self.settings.mask is not None:
            frames, height, width = samples.shape[-3:]
            keep = video_keep_mask(self.settings.mask, frames, height, width, self.settings.soft, self.stride)
        progress = self.progress(self.settings.n_max, "editing")
        source = self.scale(samples)

        def velocity(x: Tensor, sigma: Tensor, side: str) -> Tensor:
            p = self.prompts
            positive, negative, scale = ((p.source, p.source_negative, p.source_guidance) if side == SOURCE
                                         else (p.target, p.negative, p.target_guidance))
            found = self.velocity(x, sigma, positive)
            if scale == 1 or negative is None:
                return found
            free = self.velocity(x, sigma, negative)
            return free + scale * (found - free)

        def noisy(sigma: Tensor, eps: Tensor) -> Tensor:
            return (1 - sigma) * source + sigma * eps.to(source)

        with torch.no_grad(), self.opened():
            z = flow_edit(velocity, noisy, self.settings.draws(source.shape, noise.seed), source, sigmas.to(source),
                          self.settings, None if keep is None else keep.to(source),
                          lambda step, x, foreseen: progress.update(step + 1))
        out = self.unscale(z.cpu())
        return {**latent, "samples": out if keep is None else torch.where(keep == 1, samples.to(out), out)}
