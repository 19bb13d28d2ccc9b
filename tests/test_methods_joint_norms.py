"""Tune-A-Video's joint norms on diffusers, against GroupNorms built anew over the clip; and how they are kept."""

from __future__ import annotations

import copy

import pytest
import torch
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.backends.diffusers.patching import Batch, attached
from steadyedit.methods.registry import build_on
from steadyedit.methods.tuning import TuneRecipe, apply_tuned, tune
from tolerances import assert_close

BACKEND, FRAMES = DiffusersBackend(), 3


class Inflated(torch.nn.Module):
    """One GroupNorm over [frames, h, w] of every clip of the batch, from its definition."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, z):
        out = []
        for clip in z.split(FRAMES):
            groups = clip.unflatten(1, (self.norm.num_groups, -1))
            mean = groups.mean((0, 2, 3, 4), keepdim=True)
            variance = (groups - mean).square().mean((0, 2, 3, 4), keepdim=True)
            normed = ((groups - mean) / (variance + self.norm.eps).sqrt()).flatten(1, 2)
            out.append(normed * self.norm.weight[:, None, None] + self.norm.bias[:, None, None])
        return torch.cat(out)


@pytest.fixture(scope="module")
def model():
    from steadyedit.toyworld import models

    torch.manual_seed(0)
    unet = models.build_unet().eval().requires_grad_(False).double()
    for module in unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.weight.add_(torch.randn(module.weight.shape) * 0.2)
    return DiffusersModel(unet)


def given(branches, seed=3):
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(branches * FRAMES, 4, 8, 8, generator=generator).double()
    # Frames that differ in brightness, so that a frame's statistics are not the clip's.
    noisy *= torch.tensor([0.2, 1.0, 3.0] * branches)[:, None, None, None]
    return noisy, torch.tensor(300), torch.randn(branches * FRAMES, 5, 96, generator=generator).double()


@pytest.mark.parametrize("branches", [1, 2])
def test_statistics_are_those_of_the_whole_clip(model, branches):
    independent = copy.deepcopy(model.unet)
    for module in list(independent.modules()):
        if hasattr(module, "conv1"):
            module.norm1, module.norm2 = Inflated(module.norm1), Inflated(module.norm2)
    independent.conv_norm_out = Inflated(independent.conv_norm_out)
    noisy, timestep, text = given(branches)
    width = model.unet.config.cross_attention_dim
    attachment = build_on(BACKEND, model, "joint-norms", {})
    with torch.no_grad(), attached(model.unet, [attachment], {}, Batch(branches, FRAMES)):
        joint = model.unet(noisy, timestep, text[..., :width]).sample
    with torch.no_grad():
        expected, plain = (net(noisy, timestep, text[..., :width]).sample for net in (independent, model.unet))
    assert_close(joint, expected)
    assert (joint - plain).abs().max() > 0.01


def test_they_have_no_weights_and_are_kept_with_a_tuning(model, tmp_path):
    base = DiffusersModel(copy.deepcopy(model.unet).float())
    samples = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    width = base.unet.config.cross_attention_dim
    text = [[torch.randn(1, 5, width, generator=torch.Generator().manual_seed(2)), {}]]
    with_norms = base
    for method in ("joint-norms", "sparse-causal", "temporal-attention"):
        with_norms = BACKEND.attach(with_norms, build_on(BACKEND, with_norms, method, {}))
    tuned = tune(BACKEND, with_norms, samples, text, TuneRecipe(steps=1, learning_rate=1e-3), preview_every=0)
    assert not any(name.startswith("joint-norms") for name in tuned.weights.tensors)
    again = apply_tuned(BACKEND, base, tuned.weights)
    assert [a.method for a in BACKEND.attachments(again)] == ["joint-norms", "sparse-causal", "temporal-attention"]


def test_the_same_norms_have_one_owner(model):
    norms = BACKEND.attach(model, build_on(BACKEND, model, "norm-tune", {}))
    with pytest.raises(ValueError, match="^model: norm-tune already answers for the norm layer"):
        BACKEND.attach(norms, build_on(BACKEND, norms, "joint-norms", {}))
