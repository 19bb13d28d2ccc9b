"""RAVE on the host's MODEL: frames, hints, masks and images lie in grids together, and only for the denoiser."""

from __future__ import annotations

import comfy.controlnet
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from steadyedit.backends.comfy_native import toy
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.backends.diffusers.control import ControlNet
from steadyedit.diffusion.samplers import SAMPLERS
from steadyedit.methods.rave import Rave, from_grid
from steadyedit.methods.registry import build
from steadyedit.toyworld import models
from tolerances import NETWORK, RUN
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
    sample,
    separate_calls,
    text,
    traces,
    under,
    weights,
)

FRAMES = 6
OTHER = DiffusersBackend()


def raved(patcher, **settings):
    return BACKEND.attach(patcher, build("rave", BACKEND.sites(patcher), {"grid": 2, **settings}))


def hints(frames: int = FRAMES, height: int = 8 * SIDE, width: int = 8 * SIDE):
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(7))


def both_conditions(control_net, shown=None):
    shown = hints() if shown is None else shown
    return {"positive": under(control_net, shown, text(1), 0.8), "negative": under(control_net, shown, text(2), 0.8)}


class Revealing(comfy.controlnet.ControlBase):
    """A control that adds nothing, and notes which frame's latent and hint it was shown side by side."""

    def __init__(self, seen, grid):
        super().__init__()
        self.seen, self.grid = seen, grid

    def copy(self):
        other = Revealing(self.seen, self.grid)
        self.copy_to(other)
        return other

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        tiles, shown = from_grid(x_noisy, self.grid), from_grid(self.cond_hint_original, self.grid)
        self.seen.append((tiles[:, 0].mean((1, 2)), shown[:, 0].mean((1, 2)), batched_number))
        return None


@pytest.mark.once
@pytest.mark.parametrize("frames, chunk, sampler", [(8, 1, "euler"), *((6, 0, sampler) for sampler in SAMPLERS)])
def test_both_backends_agree(sampler, frames, chunk):
    """With a ControlNet under both conditions; six frames do not fill two grids of four."""
    settings, shown = {"grid": 2, "seed": 3, "chunk": chunk}, hints(frames)
    sigmas = OTHER.schedule(DiffusersModel(diffusers_unet())).ddim_sigmas(3)
    start = 5 * sigmas[0] * clip(frames)
    here = BACKEND.sample(raved(model(), **settings), under(controlnet(), shown, text(1), 0.8),
                          under(controlnet(), shown, text(2), 0.8), 4.0, start, sigmas, Quiet(), sampler=sampler,
                          seed=3)
    control = ControlNet(diffusers_controlnet()).applied(shown, 0.8)
    conditions = ([[c[0][0], {**c[0][1], "control": control}]] for c in (text(1), text(2)))
    value = DiffusersModel(diffusers_unet())
    value = OTHER.attach(value, build("rave", OTHER.sites(value), settings))
    there = OTHER.sample(value, *conditions, 4.0, start, sigmas, Quiet(), sampler=sampler, seed=3)
    assert_close(here, there, RUN)


def test_a_grid_of_one_is_plain_sampling_bit_by_bit():
    conditions = both_conditions(controlnet())
    assert torch.equal(sample(raved(model(), grid=1), samples=clip(2), **conditions),
                       sample(model(), samples=clip(2), **conditions))


def test_it_is_deterministic_by_its_seed_and_leaves_the_model_as_it_was():
    plain = model()
    before, marks, alone = weights(plain), traces(plain), sample(plain, samples=clip(FRAMES))
    first = sample(raved(plain), samples=clip(FRAMES))
    assert torch.equal(sample(raved(plain).clone(), samples=clip(FRAMES)), first)
    assert (sample(raved(plain, seed=1), samples=clip(FRAMES)) - first).abs().max() > 1e-3
    assert (first - alone).abs().max() > 1e-3
    assert torch.equal(sample(plain, samples=clip(FRAMES)), alone)
    assert BACKEND.attachments(plain) == () and not plain.wrappers.get(WrappersMP.CALC_COND_BATCH)
    assert_untouched(plain, before, marks)


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (40, 80)])
def test_every_hint_lies_with_its_frame_and_comes_back(size):
    """Also where a hint has other proportions: each is cut to its frame, not the whole grid to its own."""
    seen = []
    number = torch.arange(1.0, FRAMES + 1)
    shown = number[:, None, None, None].expand(-1, *size, 3)
    control = Revealing(seen, 2)
    conditions = both_conditions(control, shown)
    sigmas = BACKEND.schedule(model()).ddim_sigmas(3)
    frames = number[:, None, None, None].expand(-1, 4, SIDE, SIDE)
    BACKEND.sample(raved(model()), conditions["positive"], conditions["negative"], 4.0, frames, sigmas, Quiet())
    firsts = [(x, hint) for x, hint, _ in seen[:1]]
    for x, hint in firsts:
        assert torch.allclose(x / x.min(), hint / hint.min(), rtol=NETWORK)
    orders = [tuple(torch.round(hint).int().tolist()) for _, hint, _ in seen]
    assert all(set(order) == set(range(1, FRAMES + 1)) and len(order) == 8 for order in orders)
    assert len(set(orders)) == 3, "another order at every step"
    used = conditions["positive"][0][1]["control"]
    assert used.cond_hint is None and torch.equal(used.cond_hint_original, shown.movedim(-1, 1))


def test_hints_are_restored_after_an_error():
    conditions = both_conditions(controlnet())
    control = conditions["positive"][0][1]["control"]
    original = control.cond_hint_original

    def fails(*args, **kwargs):
        raise RuntimeError("inside")

    patcher = raved(model())
    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", fails)
    with pytest.raises(RuntimeError, match="inside"):
        sample(patcher, samples=clip(FRAMES), **conditions)
    assert control.cond_hint_original is original and control.cond_hint is None


def test_chunks_and_batches_of_conditions_do_not_matter():
    conditions = both_conditions(controlnet())
    whole = sample(raved(model()), samples=clip(FRAMES), steps=1, **conditions)
    for patcher in (raved(model(), chunk=1), separate_calls(raved(model()))):
        assert_close(sample(patcher, samples=clip(FRAMES), steps=1, **conditions), whole)


def test_frames_are_given_in_grids_of_the_chunks_size():
    shapes = []

    def watched(executor, x, *args, **kwargs):
        shapes.append(tuple(x.shape))
        return executor(x, *args, **kwargs)

    patcher = raved(model(), chunk=1)
    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watched)
    sample(patcher, samples=clip(FRAMES), steps=1, guidance=1.0)
    assert shapes == [(1, 4, 2 * SIDE, 2 * SIDE)] * 2


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_3m_sde", "lms", "uni_pc", "euler_ancestral"])
def test_samplers_keep_their_history(sampler, monkeypatch):
    """Where the network treats every pixel alone, RAVE changes no sampler's result, memory and noise included."""
    patcher = model()
    monkeypatch.setattr(type(patcher.model), "apply_model", lambda self, x, t, **rest: x / (1 + t[0]))
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(4)

    def run(value):
        return BACKEND.sample(value, text(1), text(2), 4.0, clip(7), sigmas, Quiet(), sampler=sampler, seed=2)

    # Its brownian tree asks torchsde for float64, which is exact; the rest is the same arithmetic.
    assert torch.equal(run(raved(patcher)), run(patcher))


def test_masks_and_images_lie_with_their_frames(monkeypatch):
    """A region per frame, and the picture that an instruction editor reads beside each frame."""
    editor = toy.unet_from(models.build_unet(8).eval().state_dict())
    images = torch.arange(1.0, FRAMES + 1)[:, None, None, None].expand(-1, 4, SIDE, SIDE).clone()
    region = torch.zeros(FRAMES, SIDE, SIDE)
    region[:, :, : SIDE // 2] = 1
    seen = []

    def watched(self, x, t, c_concat=None, **rest):
        seen.append((x, c_concat))
        return torch.full_like(x, 2.0)

    monkeypatch.setattr(type(editor.model), "apply_model", watched)
    told = [[text(1)[0][0], {"concat_latent_image": images, "mask": region, "mask_strength": 1.0}],
            [text(3)[0][0], {"concat_latent_image": images, "mask": 1 - region, "mask_strength": 1.0}]]
    sigmas = BACKEND.schedule(editor).ddim_sigmas(2)
    out = BACKEND.sample(raved(editor), told, text(2), 1.0, images * sigmas[0], sigmas, Quiet())
    x, concat = seen[0]
    tiles, shown = from_grid(x, 2).mean((1, 2, 3)), from_grid(concat, 2).mean((1, 2, 3))
    assert torch.allclose(tiles / tiles.min(), shown / shown.min(), rtol=NETWORK)
    assert torch.allclose(out, torch.full_like(out, 2.0 / 0.18215), rtol=NETWORK)


def test_inversion_leaves_it_out():
    sigmas = BACKEND.schedule(model()).ddim_sigmas(3).flip(0)
    paths = [BACKEND.invert(value, text(1), clip(FRAMES), sigmas, 0, Quiet()) for value in (model(), raved(model()))]
    assert all(a.equal(b) for a, b in zip(*paths, strict=True))


def test_training_leaves_it_out():
    stam, losses = build("stam", BACKEND.sites(model()), {}), []
    for value in (model(), raved(model())):
        with BACKEND.training(value, [stam], text(1), 3) as view:
            losses.append(view.predict_noise(clip(3), torch.tensor(500)).square().mean().item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", ["stam", "ffam", "gather-swap"])
def test_what_mixes_frames_is_refused(method):
    patcher = BACKEND.attach(model(), build(method, BACKEND.sites(model()), {}))
    with pytest.raises(ValueError, match=f"RAVE lays several frames out as one picture, but {method}"):
        raved(patcher)


class Foreign:
    """A control of another pack that keeps its hints elsewhere."""

    extra_hooks = previous_controlnet = None

    def get_extra_hooks(self):
        return []


BAD = {
    "holds 6 prompts, one a frame, but RAVE": (text(1, FRAMES)[0][0], {}),
    "holds a region by its corners": (text(1)[0][0], {"area": (4, 4, 0, 0)}),
    "holds GLIGEN boxes": (text(1)[0][0], {"gligen": ("position", None, [])}),
    "its Foreign gives no hand on its hints": (text(1)[0][0], {"control": Foreign()}),
}


@pytest.mark.parametrize("sentence", BAD)
def test_conditions_that_can_not_be_laid_out_are_refused(sentence):
    with pytest.raises(ValueError, match=f"positive: {sentence}"):
        sample(raved(model()), samples=clip(FRAMES), positive=[list(BAD[sentence])])


def test_context_windows_and_caches_are_refused():
    windows, cached = raved(model()), raved(model())
    windows.model_options["context_handler"] = object()
    cached.model_options["transformer_options"]["easycache"] = object()
    with pytest.raises(ValueError, match="context windows, which cut the clip where RAVE needs all of it"):
        sample(windows, samples=clip(FRAMES))
    with pytest.raises(ValueError, match="easycache leaves out steps"):
        sample(cached, samples=clip(FRAMES))


def test_the_host_makes_room_for_one_grid():
    asked = []

    def watched(executor, *args, **kwargs):
        asked.append(list(args[1]))
        return executor(*args, **kwargs)

    patcher = raved(model(), grid=2)
    patcher.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "test", watched)
    sample(patcher, samples=clip(8), steps=1)
    assert asked == [[1, 4, 2 * SIDE, 2 * SIDE]]


def test_orders_follow_the_steps():
    """The very orders that the settings promise, whatever the sampler evaluates in between."""
    seen, settings = [], Rave(2, seed=0)
    number = torch.arange(1.0, 5.0)
    conditions = both_conditions(Revealing(seen, 2), number[:, None, None, None].expand(-1, 8, 8, 3))
    sigmas = BACKEND.schedule(model()).ddim_sigmas(3)
    BACKEND.sample(raved(model()), conditions["positive"], conditions["negative"], 1.0, clip(4), sigmas, Quiet(),
                   sampler="heun")
    found = [tuple(torch.round(hint).int().sub(1).tolist()) for _, hint, _ in seen]
    assert found == [settings.order(4, step) for step in (0, 1, 1, 2, 2)]
