"""Gather-swap in lock-step on the host's MODEL: equal to the paper's two passes, however the host cuts the work."""

from __future__ import annotations

import comfy.controlnet
import comfy.hooks
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from shared import shared
from steadyedit.backends.comfy_native import toy
from steadyedit.backends.comfy_native.blocks import replace_key
from steadyedit.methods.registry import build
from steadyedit.methods.via.gather_swap import group_frames
from steadyedit.toyworld import models
from stored_bank import Case, StoredBank, in_double, run
from tolerances import FLOAT64_CHAIN
from toys import BACKEND, SIDE, assert_untouched, clip, diffusers_unet, text, traces, weights

FRAMES, GROUP = 4, 3
EXACT = FLOAT64_CHAIN  # float64, relative to the largest value


@shared
def model():
    """The random toy U-Net in float64: a MODEL of its own, so that no other test meets it."""
    patcher = toy.unet_from(diffusers_unet().state_dict())
    patcher.model.diffusion_model.double()
    return in_double(patcher)


@shared
def editor():
    """A random U-Net with 8 input channels: InstructPix2Pix to the host."""
    torch.manual_seed(7)
    patcher = toy.unet_from(models.build_unet(in_channels=8).eval().state_dict())
    patcher.model.diffusion_model.double()
    return in_double(patcher)


def gather_swap(patcher, **config):
    return BACKEND.attach(patcher, build("gather-swap", BACKEND.sites(patcher), {"group": GROUP, **config}))


def prompts(seed, **extra):
    """A prompt per frame, so that the swap of cross-attention matters; ``extra`` holds a row per frame too."""
    (rows, _), = text(seed, FRAMES)

    def of(ids):
        ids = list(ids)
        return [[rows[ids], {"pooled_output": None, **{key: value[ids] for key, value in extra.items()}}]]

    return of


def plain_case(sampler="euler", **settings):
    positive, negative = prompts(1), prompts(2)
    return Case(clip(FRAMES, 8), lambda ids: (positive(ids), negative(ids)), sampler=sampler, **settings)


def two_passes(patcher, case, kinds=("attn1", "attn2"), draws=False):
    sites = [(site.path, replace_key(site.path)) for site in BACKEND.sites(patcher)]
    stop = float(case.sigmas(patcher)[round(0.8 * case.steps)])
    return StoredBank(patcher, sites, group_frames(FRAMES, GROUP), stop, kinds).edit(case, draws)


def assert_exact(found, expected):
    assert found.dtype == torch.float64 and torch.isfinite(expected).all()
    assert (found - expected).abs().max() < EXACT * expected.abs().max()


def at_once(patcher, monkeypatch, apart):
    """How the host batches conditions: all in one call, or each in its own as when memory is short."""
    monkeypatch.setattr(patcher.model, "memory_required", lambda *a, **k: 1e30 if apart else 1.0, raising=False)


SAMPLERS = ("euler", "ddim", "dpmpp_2m", "heun", "heunpp2", "euler_ancestral", "dpmpp_2m_sde")


@pytest.mark.parametrize("sampler", [SAMPLERS[0], *(pytest.param(x, marks=pytest.mark.once) for x in SAMPLERS[1:])])
def test_lock_step_is_the_papers_two_passes(sampler):
    draws = sampler in ("euler_ancestral", "dpmpp_2m_sde")
    case = plain_case(sampler)
    expected = two_passes(model(), case, draws=draws)
    assert_exact(run(gather_swap(model(), chunk=2), case, range(FRAMES)), expected)


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_painted_key_frames_are_the_group(sampler):
    """Exact to two passes whose first one looks at the finished pictures at every noise level."""
    case, group = plain_case(sampler), group_frames(FRAMES, GROUP)
    painted = clip(GROUP, 12) / 0.18215
    sites = [(site.path, replace_key(site.path)) for site in BACKEND.sites(model())]
    stop = float(case.sigmas(model())[round(0.8 * case.steps)])
    expected = StoredBank(model(), sites, group, stop, painted=painted).edit(case)
    found = run(gather_swap(model(), chunk=2, frames=group, painted=painted), case, range(FRAMES))
    assert_exact(found, expected)
    edited = run(gather_swap(model()), case, range(FRAMES))
    assert (found - edited).abs().max() > 1e-3 * edited.abs().max(), "the paint must show"


def test_references_that_a_u_net_does_not_read_are_refused():
    positive, _ = text(1)[0]
    shown = [[positive, {"reference_latents": [clip(FRAMES, 3)]}]]
    with pytest.raises(ValueError, match="positive: holds reference latents, which this model does not read; load"):
        run(gather_swap(model()), Case(clip(FRAMES, 8), lambda ids: (shown, text(2))), range(FRAMES))


def test_it_does_something():
    case = plain_case(steps=1)
    plain, swapped = (run(patcher, case, range(FRAMES)) for patcher in (model(), gather_swap(model())))
    assert (plain - swapped).abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.once
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_one_kind_of_attention_alone(kind):
    case = plain_case()
    config = {f"{other}_attention": other == kind for other in ("self", "cross")}
    expected = two_passes(model(), case, kinds=("attn1" if kind == "self" else "attn2",))
    assert_exact(run(gather_swap(model(), **config), case, range(FRAMES)), expected)


@pytest.mark.once
def test_neither_chunks_nor_batches_of_conditions_matter(monkeypatch):
    case, results = plain_case("euler_ancestral"), []
    for apart, chunk in ((False, 0), (False, 1), (True, 3), (True, 0), (False, FRAMES)):
        at_once(model(), monkeypatch, apart)
        results.append(run(gather_swap(model(), chunk=chunk), case, range(FRAMES)))
    for result in results[1:]:
        assert_exact(result, results[0])


@pytest.mark.once
def test_an_instruction_editor_under_dual_guidance():
    """Three branches: text and image, image alone, neither."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    images = clip(FRAMES, 11)
    told, silent = prompts(1, concat_latent_image=images), prompts(2, concat_latent_image=images)
    case = Case(clip(FRAMES, 8), lambda ids: (told(ids), silent(ids), text(2)), Guider_DualCFG, (7.5, 1.5))
    expected = two_passes(editor(), case)
    for chunk in (2, 0):
        assert_exact(run(gather_swap(editor(), chunk=chunk), case, range(FRAMES)), expected)


@pytest.fixture(scope="module")
def controlnet():
    """A random ControlNet of the toy U-Net's shape, float64."""
    import comfy.cldm.cldm

    config = toy.unet_config()
    del config["out_channels"], config["transformer_depth_output"]
    torch.manual_seed(5)
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, num_heads=4, **config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(0, 0.05)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.fill_(1)
    network.double().dtype = torch.float64
    return comfy.controlnet.ControlNet(network.eval(), load_device=torch.device("cpu"))


def lora(seed):
    name = f"diffusion_model.{BACKEND.sites(model())[0].path}.attn1.to_v.weight"
    return {name: ("diff", (torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)) * 0.3,))}


@pytest.mark.once
def test_everything_at_once(controlnet, monkeypatch):
    """A ControlNet per frame before another of one image, a LoRA, two regional prompts, one of them under a hook,
    a noise mask per frame: each indexed by frame, none mixed up."""
    generator = torch.Generator().manual_seed(12)
    hints = torch.rand(FRAMES, 3, SIDE * 8, SIDE * 8, generator=generator)
    one = torch.rand(1, 3, SIDE * 8, SIDE * 8, generator=generator)
    regions = torch.rand(FRAMES, SIDE, SIDE, generator=generator)
    hooks = comfy.hooks.create_hook_lora(lora(2), 1.0, 0.0)
    text_first, text_area, negative = prompts(1), prompts(3), prompts(2)
    masked = prompts(4, mask=regions)

    def conditions(ids):
        before = controlnet.copy().set_cond_hint(one, 0.5)
        control = controlnet.copy().set_cond_hint(hints[list(ids)], 0.8).set_previous_controlnet(before)
        positive = text_first(ids)
        positive[0][1].update(control=control, control_apply_to_uncond=True)
        area = text_area(ids)
        area[0][1].update(area=(SIDE // 2, SIDE, 0, 0), strength=0.7)
        region = masked(ids)
        region[0][1].update(mask_strength=0.6, hooks=hooks)
        return positive + area + region, negative(ids)

    mask = (torch.rand(FRAMES, 1, SIDE, SIDE, generator=generator) > 0.5).float()
    case = Case(clip(FRAMES, 8), conditions, latent=clip(FRAMES, 13), mask=mask, steps=3)
    patched = model().clone()
    assert patched.add_patches(lora(1), 0.5)
    expected = two_passes(patched, case)
    results = []
    for apart, chunk in ((False, 2), (True, 0)):
        at_once(model(), monkeypatch, apart)
        results.append(run(gather_swap(patched, chunk=chunk), case, range(FRAMES)))
        assert_exact(results[-1], expected)
    assert (run(gather_swap(model()), case, range(FRAMES)) - expected).abs().max() > 1e-3
    model().unpatch_model()


def test_the_u_net_never_gets_more_than_a_chunk(monkeypatch):
    """Frames in a call, and the ids that others index by."""
    case, calls = plain_case(steps=2), []

    def watched(executor, x, *args, **kwargs):
        options = args[-1] if args and isinstance(args[-1], dict) else kwargs["transformer_options"]
        calls.append((len(x) // len(options["cond_or_uncond"]), options["steadyedit_frame_ids"]))
        return executor(x, *args, **kwargs)

    at_once(model(), monkeypatch, False)
    patcher = gather_swap(model(), chunk=3)
    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watched)
    run(patcher, case, range(FRAMES))
    step = [(3, (0, 2, 3)), (3, (0, 1, 2)), (1, (3,))]
    assert calls == step * 2


def test_the_model_is_bit_for_bit_as_before_and_a_second_run_is_the_same():
    plain, case = model(), plain_case(steps=2)
    before, marks = weights(plain), traces(plain)
    alone, patcher = run(plain, case, range(FRAMES)), gather_swap(plain)
    first = run(patcher, case, range(FRAMES))
    assert torch.equal(run(patcher, case, range(FRAMES)), first)
    assert torch.equal(run(patcher.clone().clone(), case, range(FRAMES)), first)
    assert torch.equal(run(plain, case, range(FRAMES)), alone)
    assert BACKEND.attachments(plain) == () and not plain.wrappers.get(WrappersMP.SAMPLER_SAMPLE)
    assert_untouched(plain, before, marks)


def test_where_start_is_late_frames_are_plain_until_then():
    case, seen = plain_case(steps=4), []
    patcher = gather_swap(model(), start=0.5, end=0.75)

    def watched(executor, x, *args, **kwargs):
        options = args[-1] if args and isinstance(args[-1], dict) else kwargs["transformer_options"]
        seen.append((options["steadyedit_call"] is not None, len(x) // len(options["cond_or_uncond"])))
        return executor(x, *args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watched)
    run(patcher, case, range(FRAMES))
    plain, swap = [(False, FRAMES)], [(True, GROUP), (True, FRAMES)]
    # The step after the last swap is still asked of the lanes, as some samplers look ahead and come back.
    assert seen == plain * 2 + swap + [(False, GROUP)] + plain


def test_frames_that_see_each_other_stay_together_and_never_see_lanes():
    layouts = []

    class Mixing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, z, layout):
            layouts.append(layout.frames)
            return z

    stam = build("stam", BACKEND.sites(model()), {})
    for key in list(stam.modules):
        stam.modules[key] = Mixing()
    patcher = gather_swap(BACKEND.attach(model(), stam), chunk=2, cross_attention=False)
    case = plain_case(steps=2)
    alone = run(gather_swap(model(), cross_attention=False), case, range(FRAMES))
    assert_exact(run(patcher, case, range(FRAMES)), alone)
    assert set(layouts) == {FRAMES}
