"""Gather-swap in lock-step on a diffusers U-Net, against the paper's two passes with a stored bank."""

from __future__ import annotations

import copy

import pytest
import torch
from guidance import dual_guidance
from steadyedit.backends.diffusers import Denoiser
from steadyedit.backends.diffusers.sampling import sample
from steadyedit.diffusion.samplers import SAMPLERS
from steadyedit.methods.via import group_frames
from tiny_editor import BACKEND, clip_image, conditions, normal, start, swapped, text, tiny
from tolerances import FLOAT32, FLOAT64_CHAIN
from two_pass import TwoPass

FRAMES, GROUP, STEPS = 5, 3, 5
EXACT = FLOAT64_CHAIN


@pytest.fixture(scope="module")
def editor():
    return tiny()


@pytest.fixture(scope="module")
def painter():
    """A plain text-to-image model."""
    return tiny(in_channels=4)


@pytest.fixture(scope="module")
def sigmas(editor):
    return editor.schedule.ddim_sigmas(STEPS)


def error(actual, expected) -> float:
    assert actual.shape == expected.shape and actual.isfinite().all()
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def rows(conditioning, frames=FRAMES):
    return conditioning[0][0].expand(frames, -1, -1), conditioning[0][1].get("concat_latent_image")


def dual(model, frames=FRAMES, texts=1, **options):
    return dual_guidance(model, *conditions(frames, texts), 7.5, 1.5, frames=frames, **options)


def two_pass(model, sigmas, texts=1, first=0, stop=4, **options):
    named = zip(("cond1", "cond2", "negative"), conditions(FRAMES, texts), strict=True)
    branches = [(name, *rows(conditioning)) for name, conditioning in named]
    unet = copy.deepcopy(model.unet)
    return TwoPass(unet, model.schedule, branches, [7.5, 1.5], sigmas, first, stop, **options)


def keeping_lanes(sampler, kept):
    """The sampler, and in ``kept`` what its whole batch became."""

    def run(*args, **options):
        kept.append(SAMPLERS[sampler](*args, **options))
        return kept[-1]

    return run


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_lock_step_is_the_two_pass_procedure(editor, sigmas, sampler):
    x = start(FRAMES, sigmas[0])
    noises = normal(9, STEPS, FRAMES, *x.shape[1:]) if sampler == "euler_ancestral" else None

    def run(model):
        options = {}
        if noises is not None:
            given = iter(noises)
            options["noise_sampler"] = lambda sigma, target: next(given)
        return sample(dual(model), sampler, x, sigmas, **options)

    edited, _ = two_pass(editor, sigmas).run(SAMPLERS[sampler], x, group_frames(FRAMES, GROUP), noises)
    actual = run(swapped(editor, group=GROUP))
    assert error(actual, edited) < EXACT
    assert error(actual, run(editor)) > 1e-3


@pytest.mark.parametrize(
    ("settings", "literal"),
    [
        ({"start": 0.4, "end": 1.0}, {"first": 2, "stop": 5}),
        ({"gather": False}, {"gather": False}),
        ({"own_keys": True}, {"own_keys": True}),
        ({"self_attention": False}, {"kinds": ("attn2",)}),
        ({"cross_attention": False}, {"kinds": ("attn1",)}),
        ({"group": 1}, {}),
        ({"group": FRAMES}, {}),
    ],
    ids=str,
)
def test_every_setting_is_the_two_pass_procedure(editor, sigmas, settings, literal):
    x, settings = start(FRAMES, sigmas[0]), {"group": GROUP, **settings}
    group = group_frames(FRAMES, settings["group"])
    edited, _ = two_pass(editor, sigmas, texts=FRAMES, **literal).run(SAMPLERS["heun"], x, group)
    actual = sample(dual(swapped(editor, **settings), texts=FRAMES), "heun", x, sigmas)
    assert error(actual, edited) < EXACT


def test_blocks_limit_where_keys_are_swapped(editor, sigmas):
    x = start(FRAMES, sigmas[0])
    kinds = tuple(f"up_blocks.0.attentions.{i}.transformer_blocks.0.attn1" for i in (0, 1))
    literal = two_pass(editor, sigmas, kinds=kinds)
    edited, _ = literal.run(SAMPLERS["euler"], x, group_frames(FRAMES, GROUP))
    settings = {"group": GROUP, "blocks": "up", "cross_attention": False}
    assert error(sample(dual(swapped(editor, **settings)), "euler", x, sigmas), edited) < EXACT


def test_a_text_to_image_model_with_ordinary_guidance(painter, sigmas):
    x = start(FRAMES, sigmas[0])
    branches = [("positive", *rows(text(1))), ("negative", *rows(text(2)))]
    literal = TwoPass(copy.deepcopy(painter.unet), painter.schedule, branches, [7.5], sigmas, 0, 4)
    edited, _ = literal.run(SAMPLERS["dpmpp_2m"], x + 0, group_frames(FRAMES, GROUP))
    denoise = Denoiser(swapped(painter, group=GROUP), text(1), text(2), 7.5, frames=FRAMES)
    assert error(sample(denoise, "dpmpp_2m", x, sigmas), edited) < EXACT


def test_group_frames_are_edited_in_the_swap_stage_too(editor, sigmas):
    x, group, kept = start(FRAMES, sigmas[0]), group_frames(FRAMES, GROUP), []
    edited, lanes = two_pass(editor, sigmas, stop=5).run(SAMPLERS["euler"], x, group)
    actual = sample(dual(swapped(editor, group=GROUP, end=1.0)), keeping_lanes("euler", kept), x, sigmas)
    assert len(kept[0]) == FRAMES + GROUP and len(actual) == FRAMES
    assert error(kept[0][FRAMES:], lanes) < EXACT
    assert error(actual[list(group)], edited[list(group)]) < EXACT
    for i, frame in enumerate(group):
        assert error(actual[frame], kept[0][FRAMES + i]) > 1e-3


@pytest.mark.parametrize("joint", [True, False], ids=["together", "apart"])
@pytest.mark.parametrize("chunk", [1, 3, 8, 9])
def test_neither_chunks_nor_branches_matter(editor, sigmas, chunk, joint):
    frames = 9
    x, model = start(frames, sigmas[0]), swapped(editor, group=4)
    whole = sample(dual(model, frames, chunk=frames), "heun", x, sigmas)
    assert error(sample(dual(model, frames, chunk=chunk, joint=joint), "heun", x, sigmas), whole) < EXACT


@pytest.mark.parametrize("joint", [True, False], ids=["together", "apart"])
@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_nor_in_float32_in_one_call(sigmas, chunk, joint):
    frames, ids = 9, (*range(9), *group_frames(9, 4))
    model = swapped(tiny(dtype=torch.float32), group=4)
    x, sigma = start(frames, sigmas[3]).float()[list(ids)], sigmas[3].expand(len(ids)).float()

    def once(**options):
        with torch.no_grad():
            return dual(model, frames, **options)(x, sigma, frame_ids=ids, sample_sigmas=sigmas)

    assert error(once(chunk=chunk, joint=joint), once(chunk=frames)) < FLOAT32


def test_the_chunk_of_the_settings_is_used(editor, sigmas):
    seen = []
    with counted(editor.unet, seen):
        sample(dual(swapped(editor, group=2, chunk=2)), "euler", start(FRAMES, sigmas[0]), sigmas)
    lanes_then_chunks = [3 * 2, 3 * 2, 3 * 2, 3 * 1]
    # The step after the last swap is still asked of the lanes, as some samplers look ahead and come back.
    assert seen == lanes_then_chunks * 5


class counted:
    """The batch of every call of the U-Net, and memory that ends at ``limit`` rows."""

    def __init__(self, unet, seen, limit=10**9):
        self.unet, self.seen, self.limit = unet, seen, limit

    def __enter__(self):
        def look(module, args):
            self.seen.append(len(args[0]))
            if len(args[0]) > self.limit:
                raise torch.OutOfMemoryError("no more")

        self.hook = self.unet.register_forward_pre_hook(look)

    def __exit__(self, *_):
        self.hook.remove()


def test_short_memory_splits_branches_then_chunks(editor, sigmas):
    x, model, seen = start(FRAMES, sigmas[0]), swapped(editor, group=2), []
    expected = sample(dual(model), "euler", x, sigmas)
    with counted(editor.unet, seen, limit=3):
        assert error(sample(dual(model), "euler", x, sigmas), expected) < EXACT
    assert max(seen[-8:]) <= 3
    with counted(editor.unet, seen, limit=1), pytest.raises(torch.OutOfMemoryError):
        sample(dual(model), "euler", x, sigmas)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_callbacks_see_exactly_the_clip(editor, sigmas, sampler):
    seen = []
    x = start(FRAMES, sigmas[0])
    out = sample(dual(swapped(editor, group=GROUP)), sampler, x, sigmas, {"seed": 1}, seen.append)
    assert [state["i"] for state in seen] == list(range(STEPS))
    assert all(state["x"].shape == state["denoised"].shape == x.shape for state in seen)
    assert error(out, seen[-1]["denoised"]) < EXACT


def test_one_text_makes_the_cross_attention_swap_a_no_op(editor, sigmas):
    x = start(FRAMES, sigmas[0])

    def run(texts, **settings):
        model = swapped(editor, group=GROUP, **settings) if settings else editor
        return sample(dual(model, texts=texts), "euler", x, sigmas)

    assert error(run(1, self_attention=False), run(1)) < EXACT
    assert error(run(1, blocks="all"), run(1, cross_attention=False)) < EXACT
    assert error(run(FRAMES, self_attention=False), run(FRAMES)) > 1e-3
    assert error(run(FRAMES, blocks="all"), run(FRAMES, cross_attention=False)) > 1e-3


def test_the_public_sample_takes_any_sampler_and_dual_guidance(editor, sigmas):
    class Counted:
        values = []

        def update(self, value, preview=None, **numbers):
            self.values.append(value)

    cond1, cond2, negative = conditions(FRAMES)
    model, x = swapped(editor, group=GROUP), start(FRAMES, sigmas[0])
    out = BACKEND.sample(model, cond1, negative, 7.5, x / model.latent_scale, sigmas, Counted(), sampler="heun",
                         middle=cond2, middle_guidance=1.5)
    assert error(out * model.latent_scale, sample(dual(model), "heun", x, sigmas)) < EXACT
    assert Counted.values == list(range(1, STEPS + 1))


def test_inversion_goes_without_gather_swap(editor, sigmas):
    class Quiet:
        def update(self, value, preview=None, **numbers):
            """Shows nothing."""

    cond1, *_ = conditions(FRAMES)
    model, samples = swapped(editor, group=GROUP), clip_image(FRAMES)
    paths = [BACKEND.invert(m, cond1, samples, sigmas.flip(0), 0, Quiet()) for m in (editor, model)]
    assert all(a.equal(b) for a, b in zip(*paths, strict=True))
