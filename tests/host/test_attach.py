"""Attachments on the host's MODEL: they work for the time of one call and leave nothing behind."""

from __future__ import annotations

import copy

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import PatcherInjection
from steadyedit import backends
from steadyedit.backends.comfy_native.blocks import replace_key
from steadyedit.methods.attachment import Attachment
from steadyedit.methods.registry import build
from tolerances import RUN
from toys import (
    BACKEND,
    FRAMES,
    METHODS,
    Quiet,
    assert_close,
    assert_untouched,
    attached,
    clip,
    model,
    moved,
    sample,
    separate_calls,
    text,
    traces,
    weights,
)  # fmt: skip

SETS = [("stam", "ffam"), ("temporal-attention", "sparse-causal"), ("full-attention",), ("simda",)]


def block_of(patcher):
    return patcher.model.diffusion_model.input_blocks[1][1].transformer_blocks[0]


def test_a_method_at_its_start_changes_nothing():
    """STAM at its start is the exact identity; Tune-A-Video's attention adds the bias that it publishes."""
    plain = model()
    assert torch.equal(sample(BACKEND.attach(plain, build("stam", BACKEND.sites(plain), {}))), sample(plain))


@pytest.mark.parametrize("methods", SETS)
def test_sampling_leaves_the_model_bit_identical(methods):
    plain = model()
    expected, before, marks = sample(plain), weights(plain), traces(plain)
    changed = sample(attached(plain, *methods))
    assert not torch.allclose(changed, expected, atol=RUN)
    assert_untouched(plain, before, marks)
    assert torch.equal(sample(plain), expected)
    assert BACKEND.attachments(plain) == ()


@pytest.mark.parametrize("methods", SETS)
def test_conditions_together_or_apart_give_the_same(methods):
    patcher = attached(model(), *methods)
    assert_close(sample(separate_calls(patcher)), sample(patcher))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_error_or_a_cancel_nothing_is_left(error):
    plain = model()
    expected, before, marks = sample(plain), weights(plain), traces(plain)
    patcher = attached(plain, "stam", "ffam")
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(3)
    with pytest.raises(error):
        BACKEND.sample(patcher, text(1), text(2), 7.5, clip(), sigmas, Quiet(1, error))

    def fails(module, arguments, output):
        raise error("inside the network")

    handle = plain.model.diffusion_model.output_blocks[3][1].register_forward_hook(fails)
    with pytest.raises(error):
        sample(patcher)
    handle.remove()
    assert_untouched(plain, before, marks)
    assert torch.equal(sample(plain), expected)


def test_beside_the_injection_of_another_pack():
    """Another pack's forward on the same block goes on working, under ours, and is still its own afterwards."""
    plain, calls = model(), []
    block = block_of(plain)

    def inject(patcher):
        inner = block.forward

        def forward(*args, **kwargs):
            calls.append(1)
            return inner(*args, **kwargs) * 1.5

        block.forward = forward

    def eject(patcher):
        # The host ejects a clone of an injected model once more than it injected it.
        block.__dict__.pop("forward", None)

    foreign = plain.clone()
    foreign.set_injections("another pack", [PatcherInjection(inject, eject)])
    before, marks, alone = weights(plain), traces(plain), sample(foreign)
    assert calls
    both = sample(attached(foreign, "stam", "ffam"))
    assert not torch.allclose(both, alone, atol=RUN)
    assert torch.equal(sample(foreign), alone)
    foreign.eject_model()
    assert_untouched(plain, before, marks)
    identity = BACKEND.attach(foreign, build("stam", BACKEND.sites(plain), {}))
    assert torch.equal(sample(identity), alone)


def test_clones_share_and_do_not_leak():
    """Copy on write: what is attached to a clone is not on its parent, and later clones keep it."""
    plain = model()
    first = attached(plain, "stam")
    second = attached(first, "ffam")
    assert [a.method for a in BACKEND.attachments(plain)] == []
    assert [a.method for a in BACKEND.attachments(first)] == ["stam"]
    assert [a.method for a in BACKEND.attachments(second.clone().clone())] == ["stam", "ffam"]
    options = copy.deepcopy(second.model_options)
    assert options["transformer_options"]["steadyedit"] is second.model_options["transformer_options"]["steadyedit"]
    again = attached(second, "stam")
    assert [a.method for a in BACKEND.attachments(again)] == ["ffam", "stam"]
    assert set(again.additional_models) == {"steadyedit.stam"}


def test_modules_are_under_the_hosts_memory_management():
    patcher = attached(model(), "stam")
    (loaded,) = patcher.get_additional_models()
    assert loaded.model is BACKEND.attachments(patcher)[0].modules
    assert loaded.model_size() > 0


def test_two_owners_of_one_attention_are_refused():
    plain = model()
    with pytest.raises(ValueError, match="ffam already replaces the self-attention"):
        attached(plain, "ffam", "sparse-causal")
    path = BACKEND.sites(plain)[0].path
    foreign = plain.clone()
    foreign.set_model_attn1_replace(lambda q, k, v, options: v, *replace_key(path)[:2])
    with pytest.raises(ValueError, match="another node already replaces"):
        attached(foreign, "ffam")
    later = attached(plain, "ffam")
    later.set_model_attn1_replace(lambda q, k, v, options: v, *replace_key(path)[:2])
    with pytest.raises(ValueError, match="another node already replaces"):
        sample(later)


def test_frames_that_do_not_divide_are_refused():
    """A batch that the conditions of a call do not divide: another pack cut it."""
    patcher = attached(model(), "stam")

    def cut(apply, arguments):
        options = {**arguments["c"], "transformer_options": {
            **arguments["c"]["transformer_options"], "cond_or_uncond": [0, 1, 0, 1]}}
        return apply(arguments["input"], arguments["timestep"], **options)

    patcher.set_model_unet_function_wrapper(cut)
    with pytest.raises(ValueError, match="do not divide by the 4 conditions"):
        sample(patcher)


def test_conditions_that_do_not_fit_the_frames_are_refused():
    with pytest.raises(ValueError, match="positive: holds 2 prompts, but the clip has 3 frames"):
        sample(attached(model(), "stam"), positive=text(prompts=2))
    one_a_frame = sample(attached(model(), "stam"), positive=text(prompts=FRAMES))
    assert torch.isfinite(one_a_frame).all()


def test_a_changed_number_of_tokens_is_refused():
    """Token merging and the like shorten self-attention: FFAM could not tell frames apart."""
    patcher = attached(model(), "ffam")
    patcher.set_model_attn1_patch(lambda n, context, value, options: (n, context[:, ::2], value[:, ::2]))
    with pytest.raises(ValueError, match="changed the number of tokens"):
        sample(patcher)


def test_sites_of_another_model_are_refused():
    foreign = Attachment("stam", sites=frozenset({"input_blocks.7.1.transformer_blocks.0"}))
    with pytest.raises(ValueError, match="has no block input_blocks.7.1"):
        BACKEND.attach(model(), foreign)


def test_a_model_that_is_no_unet_is_refused():
    import comfy.model_patcher

    class Transformer(torch.nn.Module):
        pass

    base = torch.nn.Module()
    base.diffusion_model = Transformer()
    patcher = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    for call in (BACKEND.sites, BACKEND.schedule, BACKEND.fingerprint):
        with pytest.raises(TypeError, match="model: this needs a U-Net .* but got a Transformer"):
            call(patcher)


def test_the_backend_is_found_by_ancestry():
    class Theirs(type(model())):
        __module__ = "another_pack.patcher"

    patcher = model()
    patcher.__class__ = Theirs
    assert isinstance(backends.of(patcher), type(BACKEND))
    assert isinstance(backends.current(), type(BACKEND))
    with pytest.raises(TypeError, match="model: expected a MODEL"):
        backends.of(object())


def test_query_deltas_add_up_with_a_lora_in_any_order():
    key = f"{BACKEND.sites(model())[0].path}.attn1.to_q.weight"
    delta, lora = torch.randn(64, 64) * 0.1, torch.randn(64, 64) * 0.1
    patch = {f"diffusion_model.{key}": ("diff", (lora,))}

    def with_lora(patcher):
        clone = patcher.clone()
        assert clone.add_patches(patch, 0.5)
        return clone

    plain = model()
    before, marks = weights(plain), traces(plain)
    first = sample(with_lora(BACKEND.add_query_deltas(plain, {key: delta})))
    second = sample(BACKEND.add_query_deltas(with_lora(plain), {key: delta}))
    both = sample(BACKEND.add_query_deltas(plain, {key: delta + 0.5 * lora}))
    assert_close(first, second)
    assert_close(first, both)
    plain.unpatch_model()
    assert_untouched(plain, before, marks)
    with pytest.raises(ValueError, match="use the base model"):
        BACKEND.add_query_deltas(plain, {key: delta[:1]})


def test_the_fingerprint_names_weights_and_patches():
    plain = model()
    name = BACKEND.fingerprint(plain)
    key = f"{BACKEND.sites(plain)[0].path}.attn1.to_q.weight"
    delta = torch.randn(64, 64)
    tuned = BACKEND.add_query_deltas(plain, {key: delta})
    assert BACKEND.fingerprint(attached(plain, "stam", "ffam")) == name
    assert BACKEND.fingerprint(tuned) != name
    assert BACKEND.fingerprint(tuned) == BACKEND.fingerprint(BACKEND.add_query_deltas(plain, {key: delta.clone()}))
    sample(tuned)
    assert BACKEND.fingerprint(plain) == name


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_at_one_frame(method):
    out = sample(attached(model(), method), samples=clip(1))
    assert out.shape == clip(1).shape and torch.isfinite(out).all()


def test_every_sampler_takes_it():
    patcher = attached(model(), "stam", "ffam")
    for name in ("heun", "dpmpp_2m", "uni_pc", "euler_ancestral"):
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(text(1), text(2))
        guider.set_cfg(4.0)
        sigmas = BACKEND.schedule(patcher).ddim_sigmas(3)
        sampler = comfy.samplers.sampler_object(name)
        out = guider.sample(clip(seed=8), clip(), sampler, sigmas, disable_pbar=True, seed=1)
        assert torch.isfinite(out).all()


def test_moved_attachments_are_not_at_their_start():
    """The tests above would prove nothing if these did nothing."""
    stam = build("stam", BACKEND.sites(model()), {})
    start = {k: v.clone() for k, v in stam.modules.state_dict().items()}
    assert any(not torch.equal(v, start[k]) for k, v in moved(stam).modules.state_dict().items())
