"""Gather-swap on a diffusers U-Net: what it leaves behind, what it holds, and beside what mixes frames."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from steadyedit.backends.diffusers.paths import locate
from steadyedit.backends.diffusers.sampling import sample
from steadyedit.diffusion.samplers import SAMPLERS
from steadyedit.methods.attachment import FrameLayout
from steadyedit.methods.registry import build
from steadyedit.methods.via import group_attention, group_frames
from test_diffusers_via import EXACT, FRAMES, GROUP, dual, error, two_pass
from tiny_editor import BACKEND, SIDE, normal, start, swapped, tiny


@pytest.fixture(scope="module")
def editor():
    return tiny()


@pytest.fixture(scope="module")
def sigmas(editor):
    return editor.schedule.ddim_sigmas(5)


@pytest.fixture
def banks(monkeypatch):
    """Every bank that is filled."""
    made, whole = [], group_attention.KeyValueCache.evaluation

    def evaluation(bank):
        made.append(bank)
        return whole(bank)

    monkeypatch.setattr(group_attention.KeyValueCache, "evaluation", evaluation)
    return made


def traces(unet) -> list:
    """Whatever a patch could leave behind."""
    return [(name, sorted(m.__dict__), len(m._forward_pre_hooks), len(m._forward_hooks))
            for name, m in unet.named_modules()]


class Stop(Exception):
    """A cancel."""


def stopping(at: int):
    """A callback that cancels at one step."""

    def callback(state):
        if state["i"] == at:
            raise Stop

    return callback


def broken(after: int, mode: str):
    """``GroupAttention.attention`` that fails in one of its calls of a mode."""
    whole, left = group_attention.GroupAttention.attention, [after]

    def attention(self, *args):
        left[0] -= self.mode == mode
        if left[0] < 0:
            raise Stop
        return whole(self, *args)

    return attention


def test_detached_the_model_is_bit_for_bit_the_old_one(editor, sigmas, banks):
    x, weights = start(FRAMES, sigmas[0]), copy.deepcopy(editor.unet.state_dict())
    marks, before = traces(editor.unet), sample(dual(editor), "euler", x, sigmas)
    attached = swapped(editor, group=GROUP)
    assert attached.unet is editor.unet and editor.attachments == ()
    assert not sample(dual(attached), "euler", x, sigmas).equal(before)
    assert sample(dual(editor), "euler", x, sigmas).equal(before)
    assert traces(editor.unet) == marks
    assert all(weights[name].equal(value) for name, value in editor.unet.state_dict().items())
    assert len(banks) == 4 and all(len(bank) == 0 for bank in banks)


@pytest.mark.parametrize("where", ["gather", "swap", "callback"])
def test_nothing_survives_an_exception(editor, sigmas, banks, monkeypatch, where):
    x, model = start(FRAMES, sigmas[0]), swapped(editor, group=GROUP)
    marks, plain = traces(editor.unet), sample(dual(editor), "euler", x, sigmas)
    expected = sample(dual(model), "euler", x, sigmas)
    denoise = dual(model)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        if where != "callback":
            patch.setattr(group_attention.GroupAttention, "attention", broken(11, where))
        sample(denoise, "euler", x, sigmas, callback=stopping(2))
    assert banks and all(len(bank) == 0 for bank in banks)
    assert traces(editor.unet) == marks and sample(dual(editor), "euler", x, sigmas).equal(plain)
    # The same denoiser goes on as if nothing had been.
    assert sample(denoise, "euler", x, sigmas).equal(expected)


def test_no_key_outlives_its_evaluation(editor, sigmas, monkeypatch):
    put, kept, generations = group_attention.KeyValueCache.put, [], []

    def watched(bank, branch, path, kind, k, v):
        if len(bank) == 0:
            generations.append(sum(ref() is not None for ref in kept))
            kept.clear()
        kept.extend((weakref.ref(k), weakref.ref(v)))
        put(bank, branch, path, kind, k, v)

    monkeypatch.setattr(group_attention.KeyValueCache, "put", watched)
    sample(dual(swapped(editor, group=GROUP)), "heun", start(FRAMES, sigmas[0]), sigmas)
    assert generations == [0] * 7 and not any(ref() for ref in kept)


def held() -> int:
    """Bytes in all tensors that are alive, each storage once."""
    found = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def peak(editor, monkeypatch, frames, steps, **settings) -> int:
    """Bytes held in the last block's attention of any call, above those before the run."""
    whole, deepest = group_attention.GroupAttention.attention, locate(editor.unet)[-1].site.path
    most, sigmas = [], editor.schedule.ddim_sigmas(steps)
    x, denoise = start(frames, sigmas[0]), dual(swapped(editor, **settings), frames, chunk=2)

    def attention(self, path, kind, *args):
        if path == deepest and kind == "self":
            most.append(held() - before)
        return whole(self, path, kind, *args)

    with monkeypatch.context() as patch:
        patch.setattr(group_attention.GroupAttention, "attention", attention)
        before = held()
        sample(denoise, "euler", x, sigmas)
    return max(most)


def test_memory_does_not_grow_with_the_steps(editor, monkeypatch):
    """A bank of three times as many steps would be over a megabyte more."""
    few, many = (peak(editor, monkeypatch, FRAMES, steps, group=GROUP, end=1.0) for steps in (2, 6))
    assert abs(few - many) < 2000 and few > 20000


def test_memory_of_the_unet_does_not_grow_with_the_clip(editor, monkeypatch):
    """What a clip three times as long adds, is its own latents a few times over."""
    frame = 4 * SIDE * SIDE * 8
    short, long = (peak(editor, monkeypatch, frames, 1, group=2, end=1.0) for frames in (4, 12))
    assert long - short <= 5 * 8 * frame


def moved(attachment):
    """With weights away from their start, so that the modules do something."""
    for i, parameter in enumerate(attachment.modules.parameters()):
        parameter.data = parameter.data.double() + 0.3 * normal(70 + i, *parameter.shape)
    return attachment


def test_stam_sees_the_clip_in_one_call_and_never_a_lane(editor, sigmas):
    stam = moved(build("stam", BACKEND.sites(editor), {}))
    x, seen = start(FRAMES, sigmas[0]), []
    hooks = [m.register_forward_pre_hook(lambda _, args: seen.append(args[1])) for m in stam.modules.values()]
    model = swapped(BACKEND.attach(editor, stam), group=GROUP, chunk=1)
    actual = sample(dual(model), "euler", x, sigmas)
    for hook in hooks:
        hook.remove()
    assert {layout.frames for layout in seen} == {FRAMES}

    literal = two_pass(editor, sigmas)

    def attach():
        """The modules in the copy's blocks, for pass two only: the group is edited without them."""
        for located in locate(literal.unet):
            module, layout = stam.modules[located.site.key], FrameLayout(1, FRAMES, SIDE, SIDE)
            located.block.register_forward_hook(lambda b, args, out, m=module, n=layout: m(out, n))

    edited, _ = literal.run(SAMPLERS["euler"], x, group_frames(FRAMES, GROUP), before_pass_two=attach)
    assert error(actual, edited) < EXACT
    assert error(actual, sample(dual(swapped(editor, group=GROUP)), "euler", x, sigmas)) > 1e-3


def test_another_mixing_of_self_attention_is_a_rival_where_they_meet(editor, sigmas):
    sites = BACKEND.sites(editor)
    for method in ("ffam", "sparse-causal"):
        mixed = BACKEND.attach(editor, build(method, sites, {}))
        with pytest.raises(ValueError, match=f"^model: {method} already replaces the self-attention of .*gather-swap"):
            swapped(mixed)
        with pytest.raises(ValueError, match="^model: gather-swap already replaces the self-attention of"):
            BACKEND.attach(swapped(editor), build(method, sites, {}))


@pytest.mark.parametrize(
    ("ffam", "settings"), [({"blocks": "down"}, {"blocks": "up"}), ({}, {"self_attention": False})], ids=str
)
def test_beside_each_other_both_work(editor, sigmas, ffam, settings):
    x, attachment = start(FRAMES, sigmas[0]), build("ffam", BACKEND.sites(editor), ffam)
    mixed = BACKEND.attach(editor, attachment)
    both = sample(dual(swapped(mixed, group=GROUP, **settings), texts=FRAMES), "euler", x, sigmas)
    for other in (mixed, swapped(editor, group=GROUP, **settings)):
        assert error(both, sample(dual(other, texts=FRAMES), "euler", x, sigmas)) > 1e-3
