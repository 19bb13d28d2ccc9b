"""Approximate windows: weights that sum to one, one window that is none, and each window as a literal loop has it."""

from __future__ import annotations

import pytest
import torch
from steadyedit.backends.diffusers import Denoiser
from steadyedit.backends.diffusers.sampling import sample
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods.approximate_windows import ApproximateWindows, anchors_of, windows_of
from steadyedit.methods.registry import build
from steadyedit.methods.tokenflow import Source
from test_diffusers_via import EXACT, error
from tiny_editor import BACKEND, SIDE, normal, text, tiny

FRAMES, STEPS = 9, 2
WINDOWS = {"length": 4, "overlap": 2, "anchors": "first"}
MIXING = {"stam": {}, "ffam": {"ratio": 1}, "sparse-causal": {}, "temporal-attention": {}, "simda": {}}


class Quiet:
    def update(self, value, preview=None, **numbers):
        """Shows nothing."""


@pytest.fixture(scope="module")
def painter():
    return tiny(in_channels=4)


@pytest.fixture(scope="module")
def sigmas(painter):
    return painter.schedule.ddim_sigmas(STEPS).double()


@pytest.fixture(scope="module")
def trajectory(painter, sigmas):
    clip = 5 * normal(4, FRAMES, 4, SIDE, SIDE)
    return Trajectory(BACKEND.invert(painter, text(3), clip, sigmas.flip(0), 0, Quiet()), sigmas.flip(0))


def attach(model, method, **settings):
    attachment = build(method, BACKEND.sites(model), settings)
    for n, parameter in enumerate(p for tree in attachment.trees for p in tree.parameters()):
        parameter.data = 0.5 * normal(n, *parameter.shape)  # away from the identity
        parameter.requires_grad_(False)
    return BACKEND.attach(model, attachment)


def run(model, sigmas, frames=FRAMES, sampler="euler", **options):
    denoise = Denoiser(model, text(1), text(2), 7.5, frames=frames, **options)
    return sample(denoise, sampler, sigmas[0] * normal(8, frames, 4, SIDE, SIDE), sigmas, {"seed": 3})


@pytest.mark.parametrize("frames, length, overlap", [(1, 4, 0), (9, 4, 2), (10, 4, 3), (48, 16, 4), (17, 16, 15),
                                                     (72, 8, 0), (5, 4, 2)])
def test_windows_hold_every_frame_and_their_weights_sum_to_one(frames, length, overlap):
    for anchors in (anchors_of(frames, how, 3) for how in ("none", "first", "keyframes")):
        windows, total = windows_of(frames, length, overlap, anchors), torch.zeros(frames, dtype=torch.float64)
        for window in windows:
            assert set(window.ids) == {*window.frames, *anchors} and list(window.ids) == sorted(set(window.ids))
            assert len(window.frames) == min(frames, length) and (window.weights > 0).all()
            assert set(window.anchors) == set(anchors) - set(window.frames)
            total[list(window.frames)] += window.weights
        assert torch.allclose(total, torch.ones_like(total))
        for one, other in zip(windows[:-1], windows[1:], strict=True):
            assert len({*one.frames} & {*other.frames}) >= overlap
        assert (len(windows) == 1) == (frames <= length)


def test_two_windows_fade_evenly_and_anchors_are_spread():
    one, other = windows_of(10, 7, 4)
    assert torch.allclose(one.weights, torch.tensor([1, 1, 1, 0.8, 0.6, 0.4, 0.2], dtype=torch.float64))
    assert torch.allclose(other.weights, one.weights.flip(0))
    assert anchors_of(48, "keyframes", 4) == (0, 16, 31, 47) and anchors_of(3, "keyframes", 9) == (0, 1, 2)


@pytest.mark.parametrize("settings, sentence", [
    ({"length": 0}, "length: expected 1 frame or more"), ({"overlap": 16}, "overlap: expected 0 to 15"),
    ({"anchors": "last"}, "anchors: expected one of none, first, keyframes"),
    ({"anchors": "keyframes", "keyframes": 0}, "keyframes: expected 1 or more"),
])
def test_settings_that_make_no_windows_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ApproximateWindows(**settings)


@pytest.mark.parametrize("method", MIXING)
def test_in_one_window_it_is_the_method_to_the_bit(painter, sigmas, method):
    model = attach(painter, method, **MIXING[method])
    whole = run(model, sigmas)
    assert torch.equal(run(attach(model, "approximate-windows", length=FRAMES, overlap=0), sigmas), whole)
    assert error(run(attach(model, "approximate-windows", **WINDOWS), sigmas), whole) > 1e-4


@pytest.mark.parametrize("anchors", ["none", "first", "keyframes"])
def test_each_window_is_the_method_on_its_frames_and_anchors(painter, sigmas, anchors):
    """Against a loop over windows with a plain denoiser each, on one evaluation."""
    model, x, frames = attach(painter, "ffam", ratio=1), sigmas[0] * normal(8, 8, 4, SIDE, SIDE), 8
    cut = attach(model, "approximate-windows", **{**WINDOWS, "anchors": anchors, "keyframes": 3})
    found = Denoiser(cut, text(1), text(2), 7.5, frames=frames)(x, sigmas[:1].expand(8), sample_sigmas=sigmas)
    expected, third = torch.zeros_like(x), 1 / 3
    for start, weights in ((0, (1, 1, 2 * third, third)), (2, (third, 2 * third, 2 * third, third)),
                           (4, (third, 2 * third, 1, 1))):  # fmt: skip
        own = range(start, start + 4)
        ids = sorted({*own, *{"none": (), "first": (0,), "keyframes": (0, 4, 7)}[anchors]})
        here = Denoiser(model, text(1), text(2), 7.5, frames=len(ids))(x[ids], sigmas[:1].expand(len(ids)))
        for i, weight in zip(own, weights, strict=True):
            expected[i] += weight * here[ids.index(i)]
    assert error(found, expected) < EXACT


def test_what_goes_frame_by_frame_is_not_cut(painter, sigmas):
    assert torch.equal(run(attach(painter, "approximate-windows", **WINDOWS), sigmas), run(painter, sigmas))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
def test_prompts_and_images_of_each_frame_stay_its_own(painter, sigmas, sampler):
    """A still clip under one prompt stays still, whatever the windows: weights and frames are right in all of them."""
    model = attach(attach(painter, "stam"), "approximate-windows", **WINDOWS)
    denoise = Denoiser(model, text(1), text(2), 7.5, frames=FRAMES)
    out = sample(denoise, sampler, (sigmas[0] * normal(8, 1, 4, SIDE, SIDE)).repeat(FRAMES, 1, 1, 1), sigmas)
    assert error(out, out[:1].expand_as(out)) < EXACT


def test_the_inversion_has_the_same_windows(painter, sigmas):
    model, clip = attach(painter, "stam"), 5 * normal(4, FRAMES, 4, SIDE, SIDE)

    def inverted(value):
        return BACKEND.invert(value, text(3), clip, sigmas.flip(0), 0, Quiet())[-1]

    assert torch.equal(inverted(attach(model, "approximate-windows", length=FRAMES, overlap=1)), inverted(model))
    assert error(inverted(attach(model, "approximate-windows", **WINDOWS)), inverted(model)) > 1e-5
    assert torch.equal(inverted(attach(painter, "approximate-windows", **WINDOWS)), inverted(painter))


@pytest.mark.parametrize("method", ["tokenflow", "rave"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
def test_plans_are_cut_whichever_was_attached_first(painter, sigmas, trajectory, method, first):
    settings = {"source": Source(trajectory, text(3)), "spacing": 2} if method == "tokenflow" else {"grid": 2}
    alone = attach(painter, method, **settings)

    def both(**windows):
        if first:
            return attach(attach(painter, "approximate-windows", **windows), method, **settings)
        return attach(alone, "approximate-windows", **windows)

    assert torch.equal(run(both(length=FRAMES), sigmas), run(alone, sigmas))
    cut = run(both(**WINDOWS), sigmas)
    assert torch.isfinite(cut).all() and error(cut, run(alone, sigmas)) > 1e-4
    assert error(run(both(**WINDOWS), sigmas, chunk=1), cut) < EXACT


def test_overlapping_windows_have_tokenflows_keyframes_in_common(trajectory):
    flow = build("tokenflow", [], {"source": Source(trajectory, None), "spacing": 2}).plan
    for step in range(20):
        drawn = set(flow.keyframes(FRAMES, step))
        for window in windows_of(FRAMES, 4, 2, (0,)):
            part = flow.in_part(FRAMES, window.ids, window.anchors)
            found = {window.ids[place] for place in part.keyframes(len(window.ids), step)}
            assert found == (drawn & set(window.frames)) | set(window.anchors)


def test_still_frames_flow_alike_in_all_windows(painter, sigmas):
    still = (5 * normal(6, 1, 4, SIDE, SIDE)).repeat(FRAMES, 1, 1, 1)
    path = Trajectory(BACKEND.invert(painter, text(3), still, sigmas.flip(0), 0, Quiet()), sigmas.flip(0))
    model = attach(painter, "tokenflow", source=Source(path, text(3)), spacing=2)
    model = attach(model, "approximate-windows", **WINDOWS)
    denoise = Denoiser(model, text(1), text(2), 7.5, frames=FRAMES)
    out = sample(denoise, "euler", BACKEND.to_model_space(model, path[STEPS, range(FRAMES)]), sigmas)
    assert error(out, out[:1].expand_as(out)) < EXACT


@pytest.mark.parametrize("method, sentence", [("gather-swap", "gather-swap needs no Approximate Windows"),
                                              ("prompt-to-prompt", "Prompt-to-Prompt takes every frame's source")])
def test_plans_with_frames_of_their_own_are_refused(painter, method, sentence):
    settings = {"source": None, "alignment": None} if method == "prompt-to-prompt" else {"group": 2}
    with pytest.raises(ValueError, match=f"^model: {sentence}"):
        attach(attach(painter, "approximate-windows"), method, **settings)
    with pytest.raises(ValueError, match=f"^model: {sentence}"):
        attach(attach(painter, method, **settings), "approximate-windows")


def test_memory_is_that_of_a_window(painter, sigmas):
    model = attach(attach(painter, "stam"), "approximate-windows", **WINDOWS)
    seen = []
    hook = painter.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        run(model, sigmas)
    finally:
        hook.remove()
    assert max(seen) == 2 * 5  # two conditions of four frames and the first
