"""Boundary Blend on the diffusers backend, and its nodes without a host."""

from __future__ import annotations

import sys

import pytest
import torch
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.diffusion.samplers import SAMPLERS
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods.registry import build
from steadyedit.methods.via.blend import BoundaryBlend
from steadyedit.methods.via.latent_mask import keep_mask
from steadyedit.standalone import host_api
from steadyedit.toyworld import models

FRAMES, SIDE, STEPS = 3, 8, 2
BACKEND = DiffusersBackend()
WIDTH = models.UNET_CONFIG["cross_attention_dim"]


class Quiet:
    def update(self, value, preview=None, **numbers):
        """Shows nothing."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DiffusersModel(models.build_unet().eval().requires_grad_(False))


def text(seed):
    return [[torch.randn(1, 77, WIDTH, generator=torch.Generator().manual_seed(seed)), {}]]


def clip():
    return 5 * torch.randn(FRAMES, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def moving():
    """A square that moves, 1 where to edit."""
    mask = torch.zeros(FRAMES, 8 * SIDE, 8 * SIDE)
    for i in range(FRAMES):
        mask[i, 8 * i + 3 : 8 * i + 24, 16:40] = 1
    return mask


@pytest.fixture(scope="module")
def path(model):
    sigmas = BACKEND.schedule(model).ddim_sigmas(STEPS).flip(0)
    return Trajectory(BACKEND.invert(model, text(2), clip(), sigmas, 0, Quiet()), sigmas)


def edit(model, path, sampler, blend=None, samples=None):
    mixed = sampler if blend is None else BACKEND.blend_sampler(sampler, blend)
    return BACKEND.sample(model, text(1), text(2), 4.0, path.steps[-1] if samples is None else samples,
                          path.sigmas.flip(0), Quiet(), sampler=mixed, seed=3)  # fmt: skip


@pytest.mark.parametrize(("name", "lanes"), [(name, False) for name in SAMPLERS] + [("dpmpp_2m", True)])
def test_the_kept_region_is_the_source_to_the_bit(model, path, name, lanes):
    if lanes:
        model = BACKEND.attach(model, build("gather-swap", BACKEND.sites(model), {"group": 2}))
    keep = keep_mask(moving(), FRAMES, SIDE, SIDE)
    out = edit(model, path, name, BoundaryBlend(path, keep))
    kept = (keep == 1).expand_as(out)
    assert torch.equal(out[kept], clip()[kept]) and out.isfinite().all()
    assert (out - clip())[(keep == 0).expand_as(out)].abs().min() > 0


@pytest.mark.parametrize("name", ["heun", "euler_ancestral"])
def test_a_mask_over_everything_changes_nothing(model, path, name):
    whole = BoundaryBlend(path, torch.zeros(1, 1, SIDE, SIDE))
    difference = edit(model, path, name, whole) - edit(model, path, name)
    # Two noise levels at a time, euler and heun compute the same numbers.
    assert not difference.any()


def test_gather_swap_sees_the_blended_frames(model, path):
    """Lanes are mixed as their frames are: what the group gives to others depends on what was kept of it."""
    swapped = BACKEND.attach(model, build("gather-swap", BACKEND.sites(model), {"group": 2}))
    keep = torch.ones(FRAMES, 1, SIDE, SIDE)
    keep[1] = 0
    alone = edit(swapped, path, "euler", BoundaryBlend(path, keep, mode="no ramp"))
    free = edit(swapped, path, "euler")
    assert (alone[1] - free[1]).abs().max() > 1e-3 * free.abs().max()
    assert torch.equal(alone[[0, 2]], clip()[[0, 2]])


@pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")
def test_the_nodes_without_a_host(model):
    with host_api.installed():
        from steadyedit.nodes.blend import BoundaryBlend as BlendNode
        from steadyedit.nodes.blend import Composite
        from steadyedit.nodes.inversion import DDIMInversion

        latent, sigmas = DDIMInversion.execute(model, text(2), {"samples": clip()}, STEPS, 0).args
        (sampler,) = BlendNode.execute("dpmpp_2m", latent, moving(), "ramp", "A", 0, True).args
        out = BACKEND.sample(model, text(1), text(2), 4.0, latent["samples"], sigmas, Quiet(), sampler=sampler)
        kept = (keep_mask(moving(), FRAMES, SIDE, SIDE) == 1).expand_as(out)
        assert torch.equal(out[kept], clip()[kept])
        edited, original = torch.rand(2, FRAMES, 64, 64, 3)
        (images,) = Composite.execute(edited, original, moving(), 0, 0, False).args
        assert torch.equal(images, torch.where(moving()[..., None] == 1, edited, original))


def test_an_unknown_sampler_is_told(model, path):
    with pytest.raises(ValueError, match="sampler: this host knows euler"):
        edit(model, path, "uni_pc", BoundaryBlend(path, torch.zeros(1, 1, SIDE, SIDE)))
