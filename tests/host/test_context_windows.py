"""The core's context windows for Wan beside LoRA-Edit and FlowEdit: exact but for the cut itself, or refused."""

from __future__ import annotations

from inspect import signature

import comfy.context_windows
import narrow_flow
import pytest
import torch
from comfy_extras import nodes_context_windows
from comfy_extras import nodes_custom_sampler as custom
from narrow_flow import flow_edit, flow_edited
from test_flow_edit import wan_velocity, written_out
from test_lora_edit import VideoVAE, mask, run, text, video
from test_lora_edit_windows import edited
from tolerances import NETWORK, RUN
from toys import assert_untouched, traces, weights
from videos import model

NODE = nodes_context_windows.WanContextWindowsManualNode
#: In pictures, and what the host makes of them: windows of 3 latent frames, neighbours of which share one.
LENGTH, OVERLAP, FRAMES = 9, 4, 21
WINDOWS = [(0, 1, 2), (2, 3, 4), (3, 4, 5)]
PYRAMID = torch.tensor([1.0, 2.0, 1.0])
SIGMAS = torch.tensor([0.8, 0.0])


def cut(patcher, length=LENGTH, retain=False, freenoise=False):
    """The MODEL behind the core's node."""
    settings = {"context_schedule": "standard_static", "context_stride": 1, "closed_loop": False,
                "fuse_method": "pyramid", "freenoise": freenoise}
    if retain:
        settings["retain_first_frame"] = True  # the oldest host has no such switch
    return NODE.execute(patcher, length, OVERLAP, **settings)[0]


def blended(latents, one):
    """What the windows ``one(frames, dropped)`` of so many latent frames give, weighted as the core does.

    Args:
        one: result for the latent frames of a window; the first ``dropped`` are in front of it.
    """
    fixed = hasattr(comfy.context_windows.IndexListContextHandler(None, None, cond_retain_index_list=""),
                    "causal_window_fix")  # fmt: skip
    total, weight = 0.0, torch.zeros(latents)
    for window in WINDOWS:
        front = [window[0] - 1] if fixed and window[0] else []
        part = one([*front, *window], len(front))[:, :, len(front) :]
        whole = torch.zeros(*part.shape[:2], latents, *part.shape[3:], dtype=part.dtype)
        whole[:, :, list(window)] = part * PYRAMID[:, None, None].to(part)
        total, weight = total + whole, weight.index_add(0, torch.tensor(window), PYRAMID)
    return total / weight[:, None, None]


class Noise:
    seed = 0

    def __init__(self, noise):
        self.noise = noise

    def generate_noise(self, latent):
        return self.noise


def denoised(patcher, noise, positive, negative):
    """One step, which ends at what the model foresees."""
    euler = custom.KSamplerSelect.execute("euler")[0]
    with torch.inference_mode():
        guider = custom.CFGGuider.execute(patcher, positive, negative, 3.0)[0]
        latent = {"samples": torch.zeros_like(noise)}
        return custom.SamplerCustomAdvanced.execute(Noise(noise), guider, euler, SIGMAS, latent)[0]["samples"]


@pytest.fixture(scope="module")
def conditions():
    """LoRA-Edit's conditions of a clip of six latent frames, and noise for it."""
    clip, there = video(FRAMES), mask(FRAMES)
    there[FRAMES // 2 :] = there[FRAMES // 2 :].roll(6, 2)
    positive, negative, _ = run("SteadyEditMaskCondition", positive=text(1), negative=text(2), vae=VideoVAE(),
                                video=clip, mask=there, edited_first_frame=clip[:1] * 0.5)  # fmt: skip
    return positive, negative, torch.randn(1, 16, 6, 4, 6, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("retain", [False, True])
def test_each_window_has_the_mask_and_pictures_of_its_own_frames(conditions, retain):
    """All but the frames beyond the window, which it does not see; with the first frame retained, that one in the place
    of its first."""
    positive, negative, noise = conditions
    if retain and "retain_first_frame" not in signature(NODE.execute).parameters:
        pytest.skip("this host retains no frame")
    patcher = model("plain")
    before, marks = weights(patcher), traces(patcher)

    def at(conditioning, frames):
        held = [0, *frames[1:]] if retain else frames
        return [[words, {**extra, **{key: extra[key][:, :, held] for key in ("concat_latent_image", "concat_mask")}}]
                for words, extra in conditioning]

    found = denoised(cut(patcher, retain=retain), noise, positive, negative)
    expected = blended(6, lambda frames, front: denoised(patcher, noise[:, :, frames], at(positive, frames),
                                                         at(negative, frames)))  # fmt: skip
    assert (found - expected).abs().max() < RUN
    assert (found - denoised(patcher, noise, positive, negative)).abs().max() > 10 * RUN
    assert_untouched(patcher, before, marks)


def test_a_clip_as_long_as_a_window_is_not_cut(conditions):
    positive, negative, noise = conditions
    alone = denoised(model("plain"), noise, positive, negative)
    assert torch.equal(denoised(cut(model("plain"), FRAMES), noise, positive, negative), alone)


def test_flow_edit_has_both_sides_in_the_same_windows():
    patcher, samples = narrow_flow.wan(), torch.randn(1, 16, 6, 4, 6, generator=torch.Generator().manual_seed(8))
    found, _ = flow_edited(cut(patcher), samples)
    predict = wan_velocity(patcher)
    expected = written_out(patcher, samples, lambda x, sigma, seed: blended(
        6, lambda frames, front: predict(x[:, :, frames], sigma, seed)))  # fmt: skip
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()
    assert (found - flow_edited(patcher, samples)[0]).abs().max() > 0.01


def test_what_they_would_not_do_is_refused():
    samples = torch.randn(1, 16, 6, 4, 6)
    patcher = cut(narrow_flow.wan(), freenoise=True)
    with pytest.raises(ValueError, match="model: its context windows have freenoise on.*turn freenoise off there"):
        flow_edited(patcher, samples, pair=flow_edit(patcher))
    with pytest.raises(ValueError, match="guider: its model has context windows, which cut the clip as this node does"):
        edited(cut(model("plain")), video(9), length=5)
