"""Gather-swap under the host's own nodes: samplers, callbacks, cancelling, and what is refused before work begins."""

from __future__ import annotations

import types

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from steadyedit import nodes
from steadyedit.backends.comfy_native import toy
from steadyedit.methods.registry import build
from steadyedit.toyworld import models
from tolerances import FLOAT32
from toys import BACKEND, Quiet, assert_close, assert_untouched, attached, clip, model, sample, text, traces, weights

FRAMES = 5
REFUSED = ("dpm_adaptive",)


def gather_swap(patcher=None, **config):
    patcher = patcher or model()
    return BACKEND.attach(patcher, build("gather-swap", BACKEND.sites(patcher), {"group": 3, **config}))


def ksampler(patcher, name="euler", frames=FRAMES, steps=3, callback=None, **options):
    """The host's KSampler, from latents that it adds noise to."""
    noise = clip(frames, 8)
    return comfy.sample.sample(
        patcher, noise, steps, 4.0, name, "ddim_uniform", text(1), text(2), clip(frames), seed=3, disable_pbar=True,
        callback=callback, **options)


@pytest.mark.parametrize("name", [name for name in comfy.samplers.SAMPLER_NAMES if name not in REFUSED])
def test_every_sampler_keeps_frames_and_lanes_apart(name):
    """Where the network does to each row the same, a frame goes the way it goes without lanes, and a lane goes its
    frame's way, bit by bit: nothing is measured over the batch, and each gets its own frame's noise."""
    batches = []
    for patcher in (model(), gather_swap(end=1.0)):
        patcher.set_model_unet_function_wrapper(lambda apply, arguments: arguments["input"] * 0.9)
        stock = comfy.samplers.sampler_object(name)

        def sampler(*arguments, function=stock.sampler_function, **options):
            batches.append(function(*arguments, **options))
            return batches[-1]

        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(text(1), text(2))
        sigmas = BACKEND.schedule(patcher).ddim_sigmas(4).float()
        wrapped = comfy.samplers.KSAMPLER(sampler)
        guider.sample(clip(FRAMES, 8), clip(FRAMES), wrapped, sigmas, disable_pbar=True, seed=3)
    without, with_lanes = batches
    assert torch.isfinite(without).all() and not torch.equal(without[0], without[2])
    assert torch.equal(with_lanes[:FRAMES], without)
    assert torch.equal(with_lanes[FRAMES:], without[[0, 2, 4]])


def test_samplers_draw_for_the_frames_what_they_draw_without_lanes():
    drawn = []

    def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        generator = torch.Generator().manual_seed(extra_args["seed"])
        drawn.append([torch.randn(x.size(), generator=generator), torch.randn_like(x), torch.empty_like(x).normal_()])
        return x

    for patcher in (model(), gather_swap()):
        torch.manual_seed(1)
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(text(1), text(2))
        sigmas = torch.tensor([5.0, 1.0, 0.0])
        guider.sample(clip(FRAMES, 8), clip(FRAMES), comfy.samplers.KSAMPLER(sampler), sigmas, seed=3)
    for without, with_lanes in zip(*drawn, strict=True):
        assert torch.equal(with_lanes[:FRAMES], without)
        assert torch.equal(with_lanes[FRAMES:], without[[0, 2, 4]])


def test_the_hosts_nodes_agree_and_previews_see_the_clip():
    from comfy_extras import nodes_custom_sampler as custom

    import nodes as host

    patcher, seen = gather_swap(), []
    ksampler(patcher, callback=lambda step, denoised, x, total: seen.append((len(denoised), len(x))))
    assert seen == [(FRAMES, FRAMES)] * 3
    latent = {"samples": clip(FRAMES)}
    (advanced,) = host.KSamplerAdvanced().sample(
        patcher, "disable", 0, 3, 4.0, "euler", "ddim_uniform", text(1), text(2), latent, 0, 10000, "disable")
    sigmas, euler = BACKEND.schedule(patcher).ddim_sigmas(3), comfy.samplers.sampler_object("euler")
    one = custom.SamplerCustom.execute(patcher, False, 0, 4.0, text(1), text(2), euler, sigmas, latent)
    guider = custom.CFGGuider.execute(patcher, text(1), text(2), 4.0)[0]
    two = custom.SamplerCustomAdvanced.execute(custom.Noise_EmptyNoise(), guider, euler, sigmas, latent)
    assert len(one[1]["samples"]) == FRAMES
    for out in (one, two):
        assert_close(out[0]["samples"], advanced["samples"])
    assert_close(sample(patcher, 4.0, 3, clip(FRAMES)), advanced["samples"])


def test_a_mask_and_ddims_own_noise_in_chunks():
    """Outside of the mask ddim fills in noise of its own, drawn for the clip."""
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    results = [ksampler(gather_swap(chunk=chunk), "ddim", noise_mask=mask) for chunk in (1, 0)]
    assert_close(*results)
    assert torch.allclose(results[0][:, :, 4:], clip(FRAMES)[:, :, 4:], atol=FLOAT32)


@pytest.mark.parametrize("how", ["cancel between chunks", "error in a callback", "error in the network"])
def test_nothing_survives_a_run_that_ends_early(how):
    plain = model()
    before, marks, expected = weights(plain), traces(plain), sample(plain)
    patcher, calls = gather_swap(plain, chunk=1), []
    whole = ksampler(patcher)

    def count(module, arguments, output):
        calls.append(1)
        if len(calls) == 3 and how.startswith("cancel"):
            comfy.model_management.interrupt_current_processing()
        if len(calls) == 3 and how.endswith("network"):
            raise RuntimeError("stop")

    def callback(*_):
        if how.endswith("callback"):
            raise RuntimeError("stop")

    handle = plain.model.diffusion_model.middle_block[1].register_forward_hook(count)
    cancelled = comfy.model_management.InterruptProcessingException
    try:
        with pytest.raises((RuntimeError, cancelled) if how.startswith("error") else cancelled):
            ksampler(patcher, callback=callback)
    finally:
        handle.remove()
        comfy.model_management.interrupt_current_processing(False)
    if how.startswith("cancel"):
        assert len(calls) == 3
    assert_untouched(plain, before, marks)
    assert not torch._C._len_torch_function_stack()
    assert torch.equal(sample(plain), expected)
    assert torch.equal(ksampler(patcher), whole)


def context_windows(patcher):
    patcher.model_options["context_handler"] = object()
    return patcher


def easy_cache(patcher):
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(patcher, 0.2, 0.15, 0.95, False)[0]


def other_owner(kind):
    def replaced(patcher):
        getattr(patcher, f"set_model_{kind}_replace")(lambda q, k, v, options: q, "middle", 0)
        return patcher

    return replaced


@pytest.mark.parametrize("changed, message", [
    (context_windows, "model: has context windows"),
    (easy_cache, "model: easycache leaves out steps"),
    (other_owner("attn1"), "already replaces the self-attention of middle_block"),
    (other_owner("attn2"), "already replaces the cross-attention of middle_block"),
])  # fmt: skip
def test_other_nodes_on_the_model_that_do_not_go_with_it(changed, message):
    with pytest.raises(ValueError, match=message):
        ksampler(changed(gather_swap()))


def test_an_owner_that_was_there_first_is_told_at_once():
    with pytest.raises(ValueError, match="already replaces the cross-attention of middle_block"):
        gather_swap(other_owner("attn2")(model()))
    assert gather_swap(other_owner("attn2")(model()), cross_attention=False)
    with pytest.raises(ValueError, match="ffam already replaces the self-attention"):
        gather_swap(attached(model(), "ffam"))
    assert gather_swap(attached(model(), "ffam"), self_attention=False)


@pytest.mark.parametrize("sampler, message", [
    (comfy.samplers.sampler_object("dpm_adaptive"), "sampler: dpm_adaptive chooses its steps by the whole batch"),
    (comfy.samplers.ksampler("lcm", {"noise_clip_std": 2.0}), "sampler: noise_clip_std clips noise by the whole batch"),
    (type("Foreign", (comfy.samplers.Sampler,), {})(), "sampler: Foreign gives no hand"),
])  # fmt: skip
def test_samplers_in_which_frames_depend_on_each_other(sampler, message):
    guider = comfy.samplers.CFGGuider(gather_swap())
    guider.set_conds(text(1), text(2))
    with pytest.raises(ValueError, match=message):
        guider.sample(clip(FRAMES, 8), clip(FRAMES), sampler, torch.tensor([5.0, 1.0, 0.0]))


def test_a_sampler_that_goes_back_up():
    def sampler(model, x, sigmas, extra_args=None, **_):
        for sigma in (5.0, 0.1, 5.0):
            model(x, sigma * x.new_ones(len(x)), **extra_args)

    guider = comfy.samplers.CFGGuider(gather_swap(end=0.5))
    guider.set_conds(text(1), text(2))
    with pytest.raises(ValueError, match="sampler: goes back to steps that are done"):
        guider.sample(clip(FRAMES, 8), clip(FRAMES), comfy.samplers.KSAMPLER(sampler), torch.tensor([5.0, 1.0, 0.0]))


def test_an_inversion_has_no_part_in_it_and_rising_sigmas_are_refused():
    sigmas = BACKEND.schedule(model()).ddim_sigmas(2).flip(0)
    with_it, without = (BACKEND.invert(patcher, text(1), clip(FRAMES), sigmas, 0, Quiet())
                        for patcher in (gather_swap(), model()))  # fmt: skip
    assert torch.equal(with_it[-1], without[-1])
    guider = comfy.samplers.CFGGuider(gather_swap())
    guider.set_conds(text(1), text(2))
    with pytest.raises(ValueError, match="sigmas: rise at step 1"):
        guider.sample(clip(FRAMES, 8), clip(FRAMES), comfy.samplers.sampler_object("euler"), sigmas)


def test_clips_and_conditions_that_do_not_fit():
    with pytest.raises(ValueError, match="frames: the clip has 2, but all frames look at 3"):
        ksampler(gather_swap(), frames=2)
    with pytest.raises(ValueError, match="group_frames: .* are not all in 0..4"):
        ksampler(gather_swap(frames=(1, 7)))
    with pytest.raises(ValueError, match="positive: holds 2 prompts, but the clip has 5 frames"):
        sample(gather_swap(), samples=clip(FRAMES), positive=text(prompts=2))


def test_an_editor_needs_an_image_and_one_that_fits():
    torch.manual_seed(7)
    patcher = gather_swap(toy.unet_from(models.build_unet(in_channels=8).state_dict()))
    with pytest.raises(ValueError, match="positive: holds no image"):
        sample(patcher, samples=clip(FRAMES))

    def told(frames):
        ((rows, settings),) = text(1)
        return [[rows, {**settings, "concat_latent_image": clip(frames, 11)}]]

    with pytest.raises(ValueError, match="positive: holds an image condition of 2 frames, but the clip has 5"):
        sample(patcher, samples=clip(FRAMES), positive=told(2))
    for frames in (1, FRAMES):
        assert torch.isfinite(sample(patcher, samples=clip(FRAMES), positive=told(frames))).all()


def test_a_patch_that_changes_the_batch_is_refused():
    patcher = gather_swap()
    patcher.set_model_attn1_patch(lambda n, context, value, options: (n[:1], context[:1], value[:1]))
    with pytest.raises(ValueError, match="changed the batch"):
        ksampler(patcher)


def test_the_host_makes_room_for_a_calls_frames_only(monkeypatch):
    asked, patcher = [], gather_swap(chunk=4)
    real = patcher.model.memory_required
    monkeypatch.setattr(patcher.model, "memory_required", lambda shape, **k: asked.append(shape[0]) or real(shape, **k),
                        raising=False)  # fmt: skip
    ksampler(patcher, frames=12, steps=1)
    assert max(asked) == 8 and 24 not in asked


def test_an_automatic_chunk_follows_free_memory(monkeypatch):
    """Per frame 1 of what is free: two conditions in a call, and the host's own factor of 1.5."""
    from steadyedit.backends.comfy_native.planned_run import HostCalls, HostRun

    found = []
    for free in (1e9, 49, 48, 13, 0):
        patcher = types.SimpleNamespace(get_free_memory=lambda device, free=free: free)
        base = types.SimpleNamespace(current_patcher=patcher, memory_required=lambda shape, cond_shapes: shape[0])
        run, x = HostRun("gather-swap", None, 100, (0, 50, 99)), torch.zeros(103, 4, 8, 8)
        calls = HostCalls(run, None, base, [[{}], [{}]], x, torch.ones(103), {})
        found.append(calls.rows_at_once(x, 1, 0))
    assert found == [16, 16, 8, 4, 1]


def test_the_node():
    node = next(node for node in nodes.node_list() if node.GET_SCHEMA().node_id == "SteadyEditGatherSwap")
    plain = model()
    settings = dict(group=2, self_attention=True, cross_attention=False, start=0.0, end=0.5, layers="up",
                    group_frames="", chunk=3)  # fmt: skip
    with torch.inference_mode():
        patcher = node.execute(plain, **settings)[0]
        named = node.execute(plain, **{**settings, "group_frames": "0, 3"})[0]
    (attachment,) = BACKEND.attachments(patcher)
    assert attachment.plan.group == 2 and {path[:6] for path in attachment.sites} == {"output"}
    assert BACKEND.attachments(named)[0].plan.group_of(5) == (0, 3) and BACKEND.attachments(plain) == ()
    assert torch.isfinite(ksampler(patcher)).all()
    for wrong, message in (({"end": 0.0}, "start, end: expected"), ({"self_attention": False}, "both are off"),
                           ({"group_frames": "0, -1"}, "group_frames: expected whole numbers")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            node.execute(plain, **{**settings, **wrong})
