"""Tune-A-Video's own U-Net, from a folder with its authors' code, narrow and with the weights of ours."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ...backends.diffusers.paths import locate
from ..full_size.unet import UNetShape, built_unet, text_of
from .contest import Absent, Contest
from .networks import relative

SHAPE = UNetShape(channels=(64, 128, 256, 256), layers=1, text=128, groups=32)
TIMESTEP, FRAMES = 400, 8


class CrossAttention(nn.Module):
    """What their blocks ask of the diffusers of their day (0.11), written anew: softmax(q k^T / sqrt d) v in full."""

    def __init__(
        self, query_dim: int, cross_attention_dim: int | None = None, heads: int = 8, dim_head: int = 64,
        dropout: float = 0.0, bias: bool = False, **_ignored: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        inner, context = heads * dim_head, cross_attention_dim or query_dim
        self.heads, self.scale = heads, dim_head**-0.5
        # Their block asks for these and takes the plain way without them.
        for name in ("group_norm", "added_kv_proj_dim", "_slice_size", "_use_memory_efficient_attention_xformers"):
            setattr(self, name, None)
        self.to_q, self.to_k, self.to_v = (nn.Linear(n, inner, bias=bias) for n in (query_dim, context, context))
        self.to_out = nn.ModuleList([nn.Linear(inner, query_dim), nn.Dropout(dropout)])

    def reshape_heads_to_batch_dim(self, x: Tensor) -> Tensor:
        """[b, n, h d] -> [b h, n, d]."""
        b, n, width = x.shape
        return x.reshape(b, n, self.heads, width // self.heads).transpose(1, 2).reshape(b * self.heads, n, -1)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, attention_mask: Any = None) -> Tensor:
        room = torch.empty(len(q), q.shape[1], k.shape[1], dtype=q.dtype, device=q.device)
        out = torch.baddbmm(room, q, k.transpose(1, 2), beta=0, alpha=self.scale).softmax(-1) @ v
        return out.reshape(-1, self.heads, *out.shape[1:]).transpose(1, 2).flatten(2)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                attention_mask: Any = None) -> Tensor:  # fmt: skip
        """Self-attention, or attention to a text."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (self.reshape_heads_to_batch_dim(x) for x in (
            self.to_q(hidden_states), self.to_k(context), self.to_v(context)))  # fmt: skip
        return self.to_out[1](self.to_out[0](self._attention(q, k, v)))


@contextmanager
def diffusers_of_their_day() -> Iterator[None]:
    """The names under which their code imports from diffusers."""
    from diffusers.models import attention, modeling_utils

    old: Any = ModuleType("diffusers.modeling_utils")
    old.ModelMixin = modeling_utils.ModelMixin
    with (patch.dict(sys.modules, {old.__name__: old}),
          patch.object(attention, "CrossAttention", CrossAttention, create=True)):  # fmt: skip
        yield


def their_unet(folder: Path, state: Mapping[str, Tensor], shape: UNetShape) -> nn.Module:
    """Their network with the weights of a U-Net for pictures, what they train open for it.

    Raises:
        Absent: the folder is not theirs.
    """
    if not (folder / "tuneavideo" / "models" / "unet.py").is_file():
        raise Absent("the folder of tune-a-video has no tuneavideo/models/unet.py")
    with diffusers_of_their_day(), patch.object(sys, "path", [str(folder), *sys.path]):
        network = importlib.import_module("tuneavideo.models.unet").UNet3DConditionModel
        unet = network(sample_size=64, block_out_channels=shape.channels, layers_per_block=shape.layers,
                       cross_attention_dim=shape.text, norm_num_groups=shape.groups, attention_head_dim=8)  # fmt: skip
    missing, unexpected = unet.load_state_dict(dict(state), strict=False)
    if unexpected or any("_temp." not in key for key in missing):
        raise Absent("the authors' network has other weights than a U-Net of Stable Diffusion")
    unet.requires_grad_(False)
    for name, module in unet.named_modules():
        if name.endswith(("attn1.to_q", "attn2.to_q", "attn_temp")):
            module.requires_grad_(True)
    return unet


class _Pair:
    """Both networks with equal weights, one clip, one text."""

    def __init__(self, folders: Mapping[str, Path], side: int, shape: UNetShape) -> None:
        from ...backends.diffusers import DiffusersModel
        from ...methods.registry import build_on
        from ..common.cases import quiet_backend

        if "tune-a-video" not in folders:
            raise Absent("needs the authors' code (--peers tune-a-video=FOLDER)")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            plain = built_unet(shape)
            self.theirs = their_unet(folders["tune-a-video"], plain.state_dict(), shape)
            self.text, self.clip = text_of(shape), torch.randn(FRAMES, 4, side, side)
            self.noise = torch.randn_like(self.clip)
        self.backend, self.model = quiet_backend(), DiffusersModel(plain)
        self.attachments = [build_on(self.backend, self.model, name, {})
                            for name in ("sparse-causal", "temporal-attention", "joint-norms")]  # fmt: skip
        # By the key of a block.
        self.temporal: Any = self.attachments[1].modules
        self._same_temporal_weights()
        for attachment in self.attachments:
            self.model = self.backend.attach(self.model, attachment)

    @torch.no_grad()
    def _same_temporal_weights(self) -> None:
        # The output projection starts at zero, which would hide the rest from a comparison.
        for found in locate(self.theirs):
            own, other = self.temporal[found.site.key], found.block.attn_temp
            nn.init.normal_(other.to_out[0].weight, std=0.02)
            for name, layer in (("query", other.to_q), ("key", other.to_k), ("value", other.to_v),
                                ("out", other.to_out[0])):  # fmt: skip
                getattr(own, name).copy_(layer.weight)
            own.bias.copy_(other.to_out[0].bias)

    def their_noise(self) -> Tensor:
        """epsilon of the clip [F, 4, h, w]."""
        seen = self.noisy().movedim(0, 1)[None]
        return self.theirs(seen, torch.tensor([TIMESTEP]), self.text[0][0]).sample[0].movedim(1, 0)

    def noisy(self) -> Tensor:
        """x_t."""
        return self.backend.schedule(self.model).add_noise(self.clip, self.noise, torch.tensor(TIMESTEP))

    def our_noise(self) -> Tensor:
        """The same by this pack."""
        with self.backend.training(self.model, self.attachments, self.text, FRAMES, True, False) as view:
            return view.predict_noise(self.noisy(), torch.tensor(TIMESTEP))

    def our_evaluation(self) -> Tensor:
        """The same as a sampler asks for it: eps = (x - D(x; sigma)) / sigma."""
        from ...backends.diffusers.denoiser import Denoiser

        sigma = self.backend.schedule(self.model).sigmas[TIMESTEP]
        x = self.noisy() * (1 + sigma**2).sqrt()
        return (x - Denoiser(self.model, self.text, frames=FRAMES)(x, sigma.expand(FRAMES))) / sigma

    def their_steps(self, steps: int) -> None:
        """As their script trains."""
        trained = [weight for weight in self.theirs.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-5, weight_decay=1e-2)
        for _ in range(steps):
            loss = torch.nn.functional.mse_loss(self.their_noise(), self.noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def our_steps(self, steps: int) -> None:
        """As the node trains, without its pictures."""
        from ...methods.tune_recipe import TuneRecipe
        from ...methods.tuning import tune

        tune(self.backend, self.model, self.clip, self.text, TuneRecipe(steps=steps), preview_every=0)


def forward(folders: Mapping[str, Path], side: int = 16, shape: UNetShape = SHAPE) -> Contest:
    """One evaluation of the U-Net with sparse-causal and temporal attention, no gradients."""
    pair = _Pair(folders, side, shape)

    def ours() -> Tensor:
        with torch.no_grad():
            return pair.our_evaluation()

    def theirs() -> Tensor:
        with torch.no_grad():
            return pair.their_noise()

    return Contest(f"a U-Net forward of Tune-A-Video, {FRAMES}x{side}x{side}", "its authors' code", ours, theirs,
                   relative, 1e-4)  # fmt: skip


def tuning(folders: Mapping[str, Path], side: int = 16, shape: UNetShape = SHAPE) -> Contest:
    """A step of one-shot tuning; both give the same noise before it."""
    pair = _Pair(folders, side, shape)
    with torch.no_grad():
        error, words = relative(pair.our_noise(), pair.their_noise())
    return Contest(f"a step of Tune-A-Video's tuning, {FRAMES}x{side}x{side}", "its authors' code",
                   lambda: pair.our_steps(3), lambda: pair.their_steps(3), lambda a, b: (error, words), 1e-4,
                   unmeasured=(lambda: pair.our_steps(1), lambda: pair.their_steps(1)), share=2, rounds=2)  # fmt: skip
