"""STAM: the shift-restricted temporal attention of EI2 (section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from ...kernels.temporal_attention import temporal_attention
from ..attachment import Attachment, BlockSite, FrameLayout
from .spectral import spectrally_normalised

CLIPS = "(branches frames) tokens channels -> branches frames tokens channels"
MEAN_OVER_FRAMES = "branches frames tokens channels -> branches 1 tokens channels"
FRAMES = "branches frames tokens channels -> (branches frames) tokens channels"
NORMS = ("center", "instance", "layer", "none")


def instance_center(z: Tensor, layout: FrameLayout) -> Tensor:
    """IC(z) = z - mean over the frames, per place and channel (EI2, equation 6).

    Args:
        z: [branches * frames, tokens, channels].
    """
    clips = rearrange(z, CLIPS, frames=layout.frames)
    return rearrange(clips - reduce(clips, MEAN_OVER_FRAMES, "mean"), FRAMES)


class STAM(nn.Module):
    """Attention over frames that keeps the distribution of its input (EI2, equations 8 and 9).

    STAM(z) = z + C[softmax(Q K^T / sqrt d) IC(z) W_v' W_L'] + b,  Q, K from IC(z),
    W' = W / sigma_max(W).

    C is IC once more. The paper argues that centred values leave the mean over frames as it
    was; that holds for uniform attention, and on average over clips, but not for one clip
    once Q and K have learned something. Centring what the attention returns makes it hold
    always: mean_frames STAM(z) = mean_frames z + b. ``recenter=False`` is the literal
    equation 9.

    W_q starts at zero: uniform attention over centred frames is zero, so that the block
    starts as the identity while the gradient with respect to W_q is alive. (W_v and W_L
    cannot start at zero, since a zero matrix has no spectral normalisation.)

    Args:
        channels: width of the tokens.
        heads: attention heads.
        norm: "center" (IC); for ablation "instance" (also divides by the deviation over
            frames), "layer" (LayerNorm without affine) or "none". The last two shift the
            mean by design: they run without C, and start from W_L = 0.
        spectral: normalise W_v and W_L.
        recenter: apply C.
        generator: source of the initial weights; the global one if None.

    Raises:
        ValueError: an unknown ``norm``, or one that cannot start as the identity.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        norm: str = "center",
        spectral: bool = True,
        recenter: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm: expected one of {', '.join(NORMS)}, but got {norm!r}.")
        centred = norm in ("center", "instance")
        if spectral and not centred:
            raise ValueError(f"norm: {norm!r} needs spectral=False, since only W_L = 0 makes it start as the identity.")
        self.heads, self.norm, self.spectral = heads, norm, spectral
        self.recenter = recenter and centred
        self.baked = False

        def random_weight() -> nn.Parameter:
            return nn.Parameter(torch.randn(channels, channels, generator=generator) * channels**-0.5)

        self.query, self.key = random_weight(), random_weight()
        self.value, self.out = random_weight(), random_weight()
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.zeros_(self.query if centred else self.out)

    def forward(self, z: Tensor, layout: FrameLayout) -> Tensor:
        """Args: z [branches * frames, tokens, channels] of any float type. Returns the same."""
        bias = self.bias.to(z.dtype)
        if layout.frames == 1:
            return z + bias
        normed = self._normalise(z, layout)
        value, out = self._mapping(self.value), self._mapping(self.out)
        query, key = self.query.to(z.dtype), self.key.to(z.dtype)
        mixed = temporal_attention(normed, query, key, value.to(z.dtype), self.heads, layout.frames)
        shift = linear(mixed, out.to(z.dtype))
        if self.recenter:
            shift = instance_center(shift, layout)
        return z + shift + bias

    def bake(self) -> None:
        """Store W_v' and W_L' in place of W_v and W_L, so that using them costs no SVD."""
        if self.spectral and not self.baked:
            with torch.no_grad():
                self.value.copy_(spectrally_normalised(self.value))
                self.out.copy_(spectrally_normalised(self.out))
        self.baked = True

    def _mapping(self, weight: Tensor) -> Tensor:
        return weight if self.baked or not self.spectral else spectrally_normalised(weight)

    def _normalise(self, z: Tensor, layout: FrameLayout) -> Tensor:
        if self.norm == "layer":
            return layer_norm(z, z.shape[-1:])
        if self.norm == "none":
            return z
        centred = instance_center(z, layout)
        if self.norm == "center":
            return centred
        clips = rearrange(centred, CLIPS, frames=layout.frames)
        variance = reduce(clips.square(), MEAN_OVER_FRAMES, "mean")
        return rearrange(clips * (variance + 1e-5).rsqrt(), FRAMES)


def build_stam(
    sites: Iterable[BlockSite],
    *,
    norm: str = "center",
    spectral: bool = True,
    recenter: bool = True,
    seed: int = 0,
) -> Attachment:
    """STAM after the feed-forward of every site, with initial weights from ``seed``.

    Raises:
        ValueError: an unknown ``norm``.
    """
    generator = torch.Generator().manual_seed(seed)
    sites = list(sites)
    options: dict[str, Any] = {"norm": norm, "spectral": spectral, "recenter": recenter}
    modules = nn.ModuleDict({s.key: STAM(s.channels, s.heads, **options, generator=generator) for s in sites})
    return Attachment(
        method="stam",
        config={**options, "seed": seed},
        modules=modules,
        sites=frozenset(site.path for site in sites),
        queries=("attn2.to_q",),
    )
