"""Gather-swap and RAVE beside other nodes: guidance that looks along the batch, strengths and images per frame, context
windows of other packs, runs split in two. Right, or refused in one sentence."""

from __future__ import annotations

import math
from types import SimpleNamespace

import comfy.controlnet
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from steadyedit.methods.registry import build
from test_gather_swap_runs import FRAMES, gather_swap, ksampler
from test_rave import raved
from toys import BACKEND, Quiet, assert_close, clip, model, sample, text, under

GROUP = (0, 2, 4)


def linear(patcher):
    from comfy_extras.nodes_video_model import VideoLinearCFGGuidance

    return VideoLinearCFGGuidance().patch(patcher, 1.0)[0]


def triangle(patcher):
    from comfy_extras.nodes_video_model import VideoTriangleCFGGuidance

    return VideoTriangleCFGGuidance().patch(patcher, 1.0)[0]


def mahiro(patcher):
    from comfy_extras.nodes_mahiro import Mahiro

    return Mahiro.execute(patcher)[0]


def momentum(patcher):
    """Adaptive projected guidance, which keeps an average from step to step."""
    from comfy_extras.nodes_apg import APG

    return APG.execute(patcher, 1.0, 5.0, 0.5)[0]


def never(patcher):
    """A swap that has no step."""
    return gather_swap(patcher, start=0.9, end=1.0)


@pytest.mark.parametrize("guidance", [linear, triangle, mahiro, momentum])
def test_where_nothing_is_swapped_guidance_is_as_without(guidance):
    assert_close(ksampler(guidance(never(model()))), ksampler(guidance(model())))


@pytest.mark.parametrize("hook", ["cfg", "pre", "post"])
def test_hooks_see_the_clips_frames_alone_and_in_order(hook):
    """While keys are swapped; the second look, at the group's rows, is a copy's with variables of its own."""
    seen, patcher = [], gather_swap(chunk=2)

    def look(args):
        out = args["conds_out"][0] if hook == "pre" else args["denoised"] if hook == "post" else args["cond"]
        seen.append((len(args["input"]), len(out), len(args["sigma"])))
        return args["conds_out"] if hook == "pre" else args["denoised"] if hook == "post" else args["cond"]

    {"cfg": patcher.set_model_sampler_cfg_function, "pre": patcher.set_model_sampler_pre_cfg_function,
     "post": patcher.set_model_sampler_post_cfg_function}[hook](look)
    ksampler(patcher, steps=2)
    assert seen == [(FRAMES,) * 3] * 2


def test_a_scale_per_frame_is_that_of_the_frame_for_the_group_too():
    """A scale by the frame's number, once looked up along the batch and once by a denoiser that knows each row."""
    scales, batches = torch.linspace(1, 4, FRAMES), []
    ids = (*range(FRAMES), *GROUP)

    def along(args):
        scale = torch.linspace(1, 4, len(args["cond"])).reshape(-1, 1, 1, 1)
        return args["uncond"] + scale * (args["cond"] - args["uncond"])

    patcher = gather_swap(end=1.0)
    patcher.set_model_sampler_cfg_function(along)
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(2).float()

    def first_step(denoise, x, sigmas, extra_args=None, **options):
        batches.append(denoise(x, sigmas[0] * x.new_ones(len(x)), **extra_args))
        return x

    for scale in (None, *set(scales.tolist())):
        guider = comfy.samplers.CFGGuider(patcher if scale is None else gather_swap(end=1.0))
        guider.set_conds(text(1), text(2))
        guider.set_cfg(4.0 if scale is None else scale)
        guider.sample(clip(FRAMES, 8), clip(FRAMES), comfy.samplers.KSAMPLER(first_step), sigmas, seed=3)
    found, by_scale = batches[0], dict(zip(set(scales.tolist()), batches[1:], strict=True))
    for row, frame in enumerate(ids):
        assert_close(found[row], by_scale[float(scales[frame])][row])


def test_chunks_do_not_matter_under_guidance_that_keeps_a_state():
    assert_close(ksampler(momentum(gather_swap(chunk=1))), ksampler(momentum(gather_swap(chunk=FRAMES))))


def attention_guided(patcher):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(patcher, 0.5, 2.0)[0]


@pytest.mark.parametrize("made", [lambda p: raved(p), lambda p: gather_swap(p, blocks="up")], ids=["rave", "swap"])
def test_guidance_by_recorded_attention_is_refused(made):
    with pytest.raises(ValueError, match="model: SelfAttentionGuidance guides by what it records in one call"):
        ksampler(attention_guided(made(model())))


def test_guidance_that_asks_about_other_latents_is_refused():
    patcher = gather_swap()

    def post(args):
        (other,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["uncond"]], args["input"] + 1, args["sigma"], args["model_options"])
        return args["denoised"] + other

    patcher.set_model_sampler_post_cfg_function(post)
    with pytest.raises(ValueError, match="model: another node asks the model about other latents"):
        ksampler(patcher)


@pytest.mark.parametrize("made", [lambda p: raved(p), lambda p: gather_swap(p)], ids=["rave", "swap"])
def test_a_node_that_evaluates_past_the_host_is_refused(made):
    patcher = made(model())
    patcher.model_options["sampler_calc_cond_batch_function"] = lambda args: [args["input"] * 0.5] * len(args["conds"])
    with pytest.raises(ValueError, match="model: another node evaluates the model in a way of its own"):
        ksampler(patcher)


class ByFrame(comfy.controlnet.ControlBase):
    """Advanced-ControlNet's way: a strength for each frame, found by ``sub_idxs`` where a call holds some frames."""

    sub_idxs, full_latent_length, context_length = None, 0, 0

    def copy(self):
        other = ByFrame()
        self.copy_to(other)
        return other

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        rows = len(x_noisy) // batched_number
        ids = list(range(rows)) if self.sub_idxs is None else self.sub_idxs
        assert len(ids) == rows and (self.sub_idxs is None or self.full_latent_length == FRAMES)
        shown = self.cond_hint_original.mean((1, 2, 3))
        scale = (shown * torch.linspace(0, 9, FRAMES))[ids].repeat(batched_number).reshape(-1, 1, 1, 1)
        return {"input": [], "middle": [scale], "output": []}


def test_a_controlnets_strength_per_frame_follows_its_frame():
    shown = torch.rand(FRAMES, 64, 64, 3, generator=torch.Generator().manual_seed(7))

    def run(patcher):
        conditions = {"positive": under(ByFrame(), shown, text(1)), "negative": under(ByFrame(), shown, text(2))}
        control = conditions["positive"][0][1]["control"]
        out = sample(patcher, 4.0, 3, clip(FRAMES), **conditions)
        assert control.sub_idxs is None and control.full_latent_length == 0 and control.cond_hint is None
        return out

    whole = run(gather_swap(chunk=FRAMES))
    assert_close(run(gather_swap(chunk=2)), whole)
    assert_close(run(gather_swap(chunk=2, start=0.9, end=1.0)), run(model()))
    with pytest.raises(ValueError, match="its ByFrame may have strengths or masks of its own for each frame, but RAVE"):
        run(raved(model()))


class Adapter:
    """IPAdapter's way: an image a frame on the cross-attention, found by ``ad_params`` where a call holds some."""

    def __init__(self):
        self.images = torch.linspace(0, 1, FRAMES).reshape(-1, 1, 1)

    def __call__(self, q, k, v, options):
        params, images = options.get("ad_params"), self.images
        if params is not None and params["sub_idxs"] is not None:
            assert params["full_length"] == FRAMES
            images = images[params["sub_idxs"]]
        rows = len(q) // len(options["cond_or_uncond"])
        assert len(images) == rows
        return q * images.repeat(len(options["cond_or_uncond"]), 1, 1)


def test_an_image_per_frame_on_the_attention_follows_its_frame():
    def adapted(patcher):
        patcher.set_model_attn2_replace(Adapter(), "middle", 0)
        return patcher

    settings = {"cross_attention": False}
    assert_close(ksampler(adapted(gather_swap(chunk=2, **settings))), ksampler(adapted(gather_swap(**settings))))
    assert_close(ksampler(adapted(gather_swap(chunk=2, start=0.9, end=1.0, **settings))), ksampler(adapted(model())))
    with pytest.raises(ValueError, match="model: Adapter holds an image or a mask for every frame .*, but RAVE"):
        ksampler(adapted(raved(model())))


def windowed(executor, net, conds, x, timestep, options):
    """Another pack's context windows: two frames at a time."""
    parts = [executor(net, conds, x[i : i + 2], timestep[i : i + 2], options) for i in range(0, len(x), 2)]
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("method", ["gather-swap", "rave"])
def test_context_windows_of_another_pack_are_refused(method, first):
    config = {"gather-swap": {"group": 3}, "rave": {"grid": 2}}[method]
    patcher, attachment = model(), build(method, BACKEND.sites(model()), config)
    if first:
        patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "ADE", windowed)
    patcher = BACKEND.attach(patcher, attachment)
    if not first:
        patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "ADE", windowed)
    with pytest.raises(ValueError, match="model: ADE splits or changes the batch of every step"):
        ksampler(patcher)


def split(patcher, at, steps=6):
    """A run in two KSamplerAdvanced."""
    import nodes as host

    latent = {"samples": clip(FRAMES)}
    arguments = ("euler", "normal", text(1), text(2))
    (half,) = host.KSamplerAdvanced().sample(patcher, "enable", 3, steps, 4.0, *arguments, latent, 0, at, "enable")
    (whole,) = host.KSamplerAdvanced().sample(
        patcher, "disable", 3, steps, 4.0, *arguments, half, at, 10000, "disable")
    return whole["samples"]


def in_one_piece(patcher, steps=6):
    import nodes as host

    return host.KSamplerAdvanced().sample(patcher, "enable", 3, steps, 4.0, "euler", "normal", text(1), text(2),
                                          {"samples": clip(FRAMES)}, 0, 10000, "disable")[0]["samples"]


def test_a_run_split_in_two_is_the_run_in_one_piece():
    assert_close(split(raved(model()), 3), in_one_piece(raved(model())))
    early = gather_swap(end=0.5)
    assert_close(split(early, 3), in_one_piece(early))
    with pytest.raises(ValueError, match="latent_image: goes on at step 3 of 6, .* split it at step 5"):
        split(gather_swap(), 3)


def test_a_run_from_a_clip_counts_its_own_steps():
    """At denoise 0.5 ten steps of twenty are sampled, from noise of their own: the swap has the first 8 of the 10."""
    seen, patcher = [], gather_swap()

    def watched(executor, *args, **kwargs):
        seen.append(args[-1]["steadyedit_call"] is not None)
        return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watched)
    ksampler(patcher, steps=10, denoise=0.5)
    assert sum(seen) == 16 and seen[:16] == [True] * 16


def test_a_run_whose_rest_is_not_known_says_so(caplog):
    sigmas = torch.tensor([5.0, 2.0, 1.0])
    BACKEND.sample(raved(model()), text(1), text(2), 4.0, clip(FRAMES), sigmas, Quiet())
    assert "end at 1 instead of 0" in caplog.text and "RAVE counts the steps of this run alone" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no more"), RuntimeError("CUDA out of memory. Tried ...")])
@pytest.mark.parametrize("made", [lambda p: raved(p, chunk=2), lambda p: gather_swap(p)], ids=["rave", "swap"])
def test_memory_that_runs_out_is_tried_again_with_fewer_frames(made, error, caplog):
    """At most one grid of four, or three frames, of two conditions fit."""
    patcher, calls = made(model()), []
    whole = ksampler(patcher, steps=2)
    small = made(model())

    def short(executor, x, *args, **kwargs):
        calls.append(x.shape)
        if x.numel() > 2 * 4 * 4 * 64:
            raise error
        return executor(x, *args, **kwargs)

    small.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", short)
    assert_close(ksampler(small, steps=2), whole)
    assert "memory ran out with" in caplog.text
    assert sum(shape.numel() > 2 * 4 * 4 * 64 for shape in calls) == 1, "asked once, not at every step"


def test_an_error_of_another_kind_is_not_tried_again():
    calls, patcher = [], gather_swap()

    def fails(executor, *args, **kwargs):
        calls.append(1)
        raise RuntimeError("inside")

    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", fails)
    with pytest.raises(RuntimeError, match="inside"):
        ksampler(patcher)
    assert len(calls) == 1


@pytest.mark.parametrize("free, fits", [(800.0, 16), (768.0, 8), (100.0, 2), (1.0, 1)])
def test_a_call_holds_the_rows_that_the_host_has_room_for(free, fits):
    """The host's own estimate of all branches' rows, by half again, halved until it fits: 48 bytes a row here."""
    from steadyedit.backends.comfy_native.planned_run import rows_that_fit

    model = SimpleNamespace(memory_required=lambda shape, cond_shapes: math.prod(shape),
                            current_patcher=SimpleNamespace(get_free_memory=lambda _: free))
    assert rows_that_fit(model, [[{}], [{}], None], torch.zeros(16, 4, 2, 2), 16) == fits


def test_pictures_beside_the_latent_follow_the_frames_of_a_call():
    """A picture a frame is laid out as the frames are; texts, constants and pictures of another size stay."""
    import comfy.conds
    from steadyedit.backends.comfy_native.frame_conditions import laid_out_model_condition

    pictures = torch.arange(5.0)[:, None, None, None].expand(5, 4, 6, 8).contiguous()
    beside = comfy.conds.CONDNoiseShape(pictures)
    single = laid_out_model_condition(beside, [3, 0, 6], 1, (6, 8))
    assert single.cond[:, 0, 0, 0].tolist() == [3, 0, 1] and torch.equal(beside.cond, pictures)
    grid = laid_out_model_condition(beside, [4, 2, 1, 0], 2, (6, 8)).cond
    assert grid.shape == (1, 4, 12, 16)
    assert [grid[0, 0, y, x].item() for y in (0, 11) for x in (0, 15)] == [4, 2, 1, 0]
    for stays in (comfy.conds.CONDRegular(torch.zeros(1, 77, 8)), comfy.conds.CONDConstant(3), object(),
                  comfy.conds.CONDNoiseShape(torch.zeros(5, 4, 3, 8))):  # fmt: skip
        assert laid_out_model_condition(stays, [1], 1, (6, 8)) is stays
