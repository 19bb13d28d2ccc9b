"""Bad input to gather-swap and to an image editor on diffusers, each told in one sentence; dual guidance."""

from __future__ import annotations

import pytest
import torch
from guidance import dual_guidance
from steadyedit.backends.diffusers import Denoiser
from steadyedit.backends.diffusers.sampling import sample
from steadyedit.diffusion.samplers import SAMPLERS
from test_diffusers_via import EXACT, FRAMES, dual, error
from tiny_editor import SIDE, clip_image, conditions, normal, start, swapped, text, tiny


@pytest.fixture(scope="module")
def editor():
    return tiny()


@pytest.fixture(scope="module")
def sigmas(editor):
    return editor.schedule.ddim_sigmas(5)


def test_a_clip_of_one_frame_is_its_own_group(editor, sigmas):
    x = start(1, sigmas[0])
    alone = sample(dual(swapped(editor, group=1), 1), "euler", x, sigmas)
    assert error(alone, sample(dual(editor, 1), "euler", x, sigmas)) < EXACT
    with pytest.raises(ValueError, match="^frames: the clip has 1, but all frames look at 4"):
        sample(dual(swapped(editor), 1), "euler", x, sigmas)


def test_a_group_larger_than_the_clip(editor, sigmas):
    with pytest.raises(ValueError, match="^frames: the clip has 5, but all frames look at 6 .* to 5"):
        sample(dual(swapped(editor, group=6)), "euler", start(FRAMES, sigmas[0]), sigmas)


def test_an_editor_without_an_image(editor):
    with pytest.raises(ValueError, match="^positive: this MODEL edits images, but the condition holds none"):
        Denoiser(editor, text(1), text(2), 7.5, frames=FRAMES)
    with pytest.raises(ValueError, match="^cond1: this MODEL edits images"):
        dual_guidance(editor, text(1), text(2), text(3), 7.5, 1.5, frames=FRAMES)


def test_conditions_that_do_not_fit(editor, sigmas):
    cond1, cond2, negative = conditions(FRAMES)

    def given(**other):
        named = {"cond1": cond1, "cond2": cond2, "negative": negative, **other}
        return dual_guidance(editor, *named.values(), 7.5, 1.5, frames=FRAMES)

    with pytest.raises(ValueError, match="^cond1: holds 3 texts, but the clip has 5 frames; give one"):
        given(cond1=text(1, 3, clip_image(FRAMES)))
    with pytest.raises(ValueError, match="^cond2: holds 4 images, but the clip has 5 frames; give one"):
        given(cond2=text(1, image=clip_image(4)))
    with pytest.raises(ValueError, match="^negative: expected one condition, but got 2"):
        given(negative=negative * 2)
    denoise = given(cond2=text(1, image=normal(1, 1, 4, 6, 7)))
    with pytest.raises(ValueError, match=r"^cond2: its image .*\(4, 6, 7\), but the clip \(4, 6, 6\)"):
        sample(denoise, "euler", start(FRAMES, sigmas[0]), sigmas)


def test_a_sampler_that_carries_no_lanes(editor, sigmas):
    with pytest.raises(ValueError, match="^model: gather-swap is attached, but the sampler does not carry its 7 rows"):
        SAMPLERS["euler"](dual(swapped(editor, group=2)), start(FRAMES, sigmas[0]), sigmas)


def test_an_unknown_sampler(editor, sigmas):
    with pytest.raises(ValueError, match="^sampler: this host knows euler, ddim, .* but not 'lms'"):
        sample(dual(editor), "lms", start(FRAMES, sigmas[0]), sigmas)


def test_dual_guidance_is_the_hosts_formula(editor, sigmas):
    """And what cancels is not evaluated: at image guidance 1 the negative, at both 1 all but cond1."""
    x, sigma = start(FRAMES, sigmas[2]), sigmas[2].expand(FRAMES)
    apart = {name: Denoiser(editor, c, frames=FRAMES) for name, c in zip("12", conditions(FRAMES), strict=False)}
    nothing = text(2, image=torch.zeros(1, 4, SIDE, SIDE).double())
    d1, d2, d = (one(x, sigma) for one in (*apart.values(), Denoiser(editor, nothing, frames=FRAMES)))
    for text_scale, image_scale, branches in ((7.5, 1.5, 3), (7.5, 1.0, 2), (1.0, 1.0, 1), (1.0, 1.5, 3)):
        denoise = dual_guidance(editor, *conditions(FRAMES), text_scale, image_scale, frames=FRAMES)
        assert len(denoise.branches) == branches
        assert error(denoise(x, sigma), d + image_scale * (d2 - d) + text_scale * (d1 - d2)) < EXACT
