"""The U-Net as the model(x, sigma) of k-diffusion's samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .conditioning import text_of
from .patching import Batch, attached

if TYPE_CHECKING:
    from torch import Tensor

    from .model import DiffusersModel


def call_unet(unet: Any, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """epsilon in x's dtype, whatever the U-Net's device and dtype are."""
    place = {"device": unet.device, "dtype": unet.dtype}
    noise = unet(x.to(**place), timestep.to(unet.device), encoder_hidden_states=text.to(**place), return_dict=False)[0]
    return noise.to(x)


class Denoiser:
    """D(x, sigma) = x - sigma eps_theta(x / sqrt(1 + sigma^2), t(sigma)), with guidance
    D = D_neg + cfg (D_pos - D_neg).

    t is the schedule's nearest integer, as in the ComfyUI host. All branches and frames go
    through the U-Net at once; where memory is short, a branch at a time gives the same.

    Args:
        model: with its attachments.
        positive: CONDITIONING.
        negative: CONDITIONING, dropped at guidance 1.
        cfg: guidance scale.
        frames: of the clip.
        joint: all branches in one call, until memory runs out.

    Raises:
        ValueError: a conditioning that does not fit the frames.
    """

    def __init__(self, model: DiffusersModel, positive: Any, negative: Any = None, cfg: float = 1.0, *,
                 frames: int, joint: bool = True):
        self.model, self.cfg, self.joint = model, cfg, joint
        self.texts = [text_of(positive, frames, "positive")]
        if negative is not None and cfg != 1.0:
            self.texts.append(text_of(negative, frames, "negative"))
        self.batch = Batch(frames=frames)

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        """Denoised x. x: [frames, channels, h, w] in sigma space; sigma: [frames]."""
        spread = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        timestep = self.model.schedule.timestep(sigma)
        denoised = [x - spread * noise for noise in self._noise(x / (1 + spread**2).sqrt(), timestep)]
        if len(denoised) == 1:
            return denoised[0]
        positive, negative = denoised
        return negative + self.cfg * (positive - negative)

    def _noise(self, scaled: Tensor, timestep: Tensor) -> Sequence[Tensor]:
        """epsilon of every branch."""
        if self.joint and len(self.texts) > 1:
            try:
                return self._noise_by(len(self.texts), scaled, timestep)
            except torch.OutOfMemoryError:
                self.joint = False
        return self._noise_by(1, scaled, timestep)

    def _noise_by(self, step: int, scaled: Tensor, timestep: Tensor) -> Sequence[Tensor]:
        """epsilon of every branch, ``step`` branches a call."""
        model, texts, noise = self.model, self.texts, []
        with attached(model.unet, model.attachments, model.query_deltas, self.batch):
            for group in (texts[i : i + step] for i in range(0, len(texts), step)):
                self.batch.branches = n = len(group)
                out = call_unet(model.unet, scaled.repeat(n, 1, 1, 1), timestep.repeat(n), torch.cat(list(group)))
                noise.extend(out.chunk(n))
        return noise
