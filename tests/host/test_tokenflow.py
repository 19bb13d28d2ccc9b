"""TokenFlow on the host's MODEL: equal to diffusers, whatever the chunks, and beside the host's own nodes."""

from __future__ import annotations

import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from steadyedit import nodes
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.backends.diffusers.control import ControlNet
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods.registry import build
from steadyedit.methods.tokenflow import Source
from tolerances import RUN
from toys import (
    BACKEND,
    SIDE,
    Quiet,
    assert_close,
    assert_untouched,
    clip,
    controlnet,
    diffusers_controlnet,
    diffusers_unet,
    model,
    separate_calls,
    text,
    traces,
    under,
    weights,
)

FRAMES, STEPS = 5, 3
OTHER = DiffusersBackend()


def sigmas():
    return BACKEND.schedule(model()).ddim_sigmas(STEPS)


@pytest.fixture(scope="module")
def trajectory():
    return inverted(5 * clip(FRAMES))


def inverted(frames):
    levels = sigmas().flip(0)
    return Trajectory(BACKEND.invert(model(), text(3), frames, levels, 0, Quiet()), levels)


def flowing(backend, value, trajectory, **settings):
    config = {"source": Source(trajectory, text(3)), "spacing": 2, **settings}
    return backend.attach(value, build("tokenflow", backend.sites(value), config))


def run(backend, value, trajectory, positive=None, negative=None, sampler="euler"):
    start = trajectory[STEPS, range(len(trajectory.source))].float()
    return backend.sample(value, positive or text(1), negative or text(2), 4.0, start, sigmas(), Quiet(),
                          sampler=sampler, seed=3)


@pytest.mark.once
@pytest.mark.parametrize("sampler, settings", [("euler", {}), ("heun", {"injection": False}),
                                               ("dpmpp_2m", {"spacing": 3, "chunk": 2})])
def test_both_backends_agree(trajectory, sampler, settings):
    """With a ControlNet under both conditions, and none under the source's."""
    shown = torch.rand(FRAMES, 8 * SIDE, 8 * SIDE, 3, generator=torch.Generator().manual_seed(7))
    here = run(BACKEND, flowing(BACKEND, model(), trajectory, **settings), trajectory,
               under(controlnet(), shown, text(1), 0.8), under(controlnet(), shown, text(2), 0.8), sampler)
    control = ControlNet(diffusers_controlnet()).applied(shown, 0.8)
    conditions = [[[c[0][0], {**c[0][1], "control": control}]] for c in (text(1), text(2))]
    value = flowing(OTHER, DiffusersModel(diffusers_unet()), trajectory, **settings)
    assert_close(here, run(OTHER, value, trajectory, *conditions, sampler=sampler), RUN)


def test_chunks_and_batches_of_conditions_do_not_matter(trajectory):
    whole = run(BACKEND, flowing(BACKEND, model(), trajectory), trajectory)
    for patcher in (flowing(BACKEND, model(), trajectory, chunk=1),
                    separate_calls(flowing(BACKEND, model(), trajectory, chunk=2))):
        assert_close(run(BACKEND, patcher, trajectory), whole)
    assert (run(BACKEND, model(), trajectory) - whole).abs().max() > 1e-2


def test_on_a_still_clip_all_frames_come_out_equal():
    still = inverted(5 * clip(1).repeat(FRAMES, 1, 1, 1))
    out = run(BACKEND, flowing(BACKEND, model(), still), still)
    assert_close(out, out[:1].expand_as(out))


def test_the_model_is_as_it_was(trajectory):
    plain = model()
    before, marks, alone = weights(plain), traces(plain), run(BACKEND, plain, trajectory)
    first = run(BACKEND, flowing(BACKEND, plain, trajectory), trajectory)
    assert torch.equal(run(BACKEND, flowing(BACKEND, plain, trajectory).clone(), trajectory), first)
    assert torch.equal(run(BACKEND, plain, trajectory), alone)
    assert_untouched(plain, before, marks)


def test_the_nodes_in_a_row():
    """Inverted and sampled by nodes alone, under a guidance that looks along the clip."""
    from comfy_extras.nodes_video_model import VideoLinearCFGGuidance

    known = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}
    with torch.inference_mode():
        latent, levels = known["SteadyEditDDIMInversion"].execute(model(), text(3), {"samples": clip(FRAMES)}, STEPS, 0)
        settings = {"spacing": 2, "seed": 0, "injection": True, "attention_steps": 0.5, "residual_steps": 0.8}
        flow = known["SteadyEditTokenFlow"].execute(model(), latent, text(3), chunk=0, **settings)[0]
        euler = custom.KSamplerSelect.execute("euler")[0]
        out = custom.SamplerCustom.execute(VideoLinearCFGGuidance().patch(flow, 1.0)[0], False, 0, 4.0, text(1),
                                           text(2), euler, levels, latent)[0]["samples"]
    assert out.shape == (FRAMES, 4, SIDE, SIDE) and torch.isfinite(out).all()
    with pytest.raises(ValueError, match="inverted: holds no trajectory; connect the latent"):
        known["SteadyEditTokenFlow"].execute(model(), {"samples": clip(FRAMES)}, text(3), chunk=0, **settings)


def test_what_does_not_go_with_it(trajectory):
    for method in ("stam", "gather-swap"):
        patcher = BACKEND.attach(model(), build(method, BACKEND.sites(model()), {}))
        with pytest.raises(ValueError, match=f"TokenFlow edits keyframes apart from the other frames, but {method}"):
            flowing(BACKEND, patcher, trajectory)
    owned = model()
    owned.set_model_attn1_replace(lambda q, k, v, options: q, "middle", 0)
    with pytest.raises(ValueError, match="another node already replaces the self-attention of middle_block"):
        flowing(BACKEND, owned, trajectory)
    with pytest.raises(ValueError, match="latent_image: 3 frames, but the inversion at TokenFlow has 5"):
        BACKEND.sample(flowing(BACKEND, model(), trajectory), text(1), text(2), 4.0, clip(3), sigmas(), Quiet())
    with pytest.raises(ValueError, match="sigmas: sampling passes noise level"):
        run(BACKEND, flowing(BACKEND, model(), trajectory), trajectory, sampler="dpm_2")
