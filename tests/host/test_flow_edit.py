"""FlowEdit's GUIDER and SAMPLER on the host's own flow models, against the paper's algorithm in float64 around them."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import latent_preview
import narrow_editors
import narrow_flow
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, DisableNoise
from narrow_flow import SEED, STEPS, flow_edit, flow_edited, latent, text
from steadyedit.methods.registry import build_on
from tolerances import NETWORK
from toys import BACKEND, assert_untouched, model, traces, weights

from nodes import ControlNetApplyAdvanced

VIDEO = (1, 16, 3, 4, 6)


def written_out(patcher, samples, predict, n_max=4, n_min=0, n_avg=1, shared=True, scales=(2.0, 4.5), keep=0.0,
                steps=STEPS):
    """Algorithm 1 in float64 around ``predict(x, sigma, text)``; source, target and negative are texts 1 to 3."""
    x0 = patcher.model.process_latent_in(samples).double()
    t = BasicScheduler.execute(patcher, "simple", steps, 1.0)[0].flip(0).double().tolist()
    generator = torch.Generator().manual_seed(SEED)

    def noise():
        rows = torch.randn((1, *x0.shape[1:]) if shared else x0.shape, generator=generator).double()
        return rows.expand(x0.shape)

    def v(x, sigma, side):
        free = predict(x, sigma, 3)
        return free + scales[side - 1] * (predict(x, sigma, side) - free)

    z = x0
    for i in range(n_max, n_min, -1):
        total = 0
        for _ in range(n_avg):
            x = (1 - t[i]) * x0 + t[i] * noise()
            total = total + v(z + x - x0, t[i], 2) - v(x, t[i], 1)
        z = z + (t[i - 1] - t[i]) * (1 - keep) * total / n_avg
    if n_min:
        eps = noise()
        x = z - x0 + (1 - t[n_min]) * x0 + t[n_min] * eps
        for i in range(n_min, 0, -1):
            x = x + (t[i - 1] - t[i]) * v(x, t[i], 2)
            x = keep * ((1 - t[i - 1]) * x0 + t[i - 1] * eps) + (1 - keep) * x
        z = x
    return patcher.model.process_latent_out(z.float())


def wan_velocity(patcher):
    """The bare network; the host's rotations know no float64."""
    network = patcher.model.diffusion_model
    return lambda x, sigma, seed: network(x.float(), torch.tensor([1000.0 * sigma]), text(seed)[0][0]).double()


def flux_velocity(patcher, guidance=3.5):
    network = patcher.model.diffusion_model

    def predict(x, sigma, seed):
        ((words, extra),) = text(seed)
        rows = len(x)
        return network(x.float(), torch.full((rows,), sigma), words.expand(rows, -1, -1),
                       extra["pooled_output"].expand(rows, -1), torch.full((rows,), guidance)).double()

    return predict


def hosts_velocity(patcher, **held):
    """(x - x_0) / sigma of the host's own denoiser, whatever the family reads beside the text."""
    base = patcher.model

    def predict(x, sigma, seed):
        ((words, extra),) = text(seed, **held)
        conds = base.extra_conds(cross_attn=words, noise=x, device=x.device, **extra)
        given = {key: cond.process_cond(batch_size=len(x), area=None).cond for key, cond in conds.items()}
        words = given.pop("c_crossattn", words)
        with torch.inference_mode():
            clean = base.apply_model(x.float(), torch.full((len(x),), sigma), c_crossattn=words,
                                     transformer_options={}, **given)
        return (x - clean.double()) / sigma

    return predict


@pytest.mark.parametrize("made_of, shape", [(narrow_flow.hunyuan, VIDEO), (narrow_flow.ltxv, (1, 128, 2, 3, 4)),
                                            (narrow_flow.sd3, (2, 16, 4, 6)), (narrow_flow.flux2, (2, 128, 3, 4))])
def test_other_families_give_the_papers_numbers(made_of, shape):
    patcher, samples = made_of(), latent(*shape)
    before, marks = weights(patcher), traces(patcher)
    # LTX wants to know how long a text is.
    held = {"attention_mask": torch.ones(1, 5, dtype=torch.long)} if made_of is narrow_flow.ltxv else {}
    prompts = {name: text(i, **held) for i, name in enumerate(("source", "target", "negative"), 1)}
    found, _ = flow_edited(patcher, samples, steps=4, n_max=3, **prompts)
    expected = written_out(patcher, samples, hosts_velocity(patcher, **held), steps=4, n_max=3)
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()
    assert (found - samples).abs().max() > 0.02
    assert_untouched(patcher, before, marks)


@pytest.mark.parametrize("settings", [{}, {"n_avg": 2}, {"n_min": 2}, {"n_max": STEPS}])
def test_wan_gives_the_papers_numbers(settings):
    patcher, samples = narrow_flow.wan(), latent(*VIDEO)
    found, foreseen = flow_edited(patcher, samples, **settings)
    expected = written_out(patcher, samples, wan_velocity(patcher), **settings)
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()
    # The last step foresees its own result.
    assert (foreseen - found).abs().max() < NETWORK * found.abs().max()
    assert (found - samples).abs().max() > 0.1


@pytest.mark.parametrize("shared", [True, False])
def test_frames_of_an_image_model_share_their_noise_or_not(shared):
    patcher, samples = narrow_flow.flux(), latent(3, 16, 4, 6)
    found, _ = flow_edited(patcher, samples, shared_noise=shared)
    expected = written_out(patcher, samples, flux_velocity(patcher), shared=shared)
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()


def test_guidance_of_a_distilled_model_rides_in_its_prompts():
    patcher, samples = narrow_flow.flux(), latent(2, 16, 4, 6)
    pair = flow_edit(patcher, source=text(1, guidance=1.5), target=text(2, guidance=5.5), negative=None,
                source_guidance=1.0, target_guidance=1.0)
    found, _ = flow_edited(patcher, samples, pair)
    sides = {seed: flux_velocity(patcher, scale) for seed, scale in ((1, 1.5), (2, 5.5), (3, 1.0))}
    expected = written_out(patcher, samples, lambda x, sigma, seed: sides[seed](x, sigma, seed), scales=(1.0, 1.0))
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()


@pytest.mark.parametrize("n_min", [0, 2])
def test_outside_of_the_mask_the_latents_are_the_sources_bit_for_bit(n_min):
    patcher, samples = narrow_flow.wan(), latent(*VIDEO)
    mask = torch.zeros(9, 32, 48)
    mask[2, :, 24:] = 1
    mask[8, :, 20:24] = 1
    found, _ = flow_edited(patcher, samples, n_min=n_min, mask=mask)
    keep = torch.ones(1, 1, 3, 1, 6)
    keep[:, :, 1, :, 3:] = 0
    keep[:, :, 2, :, 2] = 0.5
    kept = (keep == 1).expand_as(samples)
    assert torch.equal(found[kept], samples[kept]) and not (found[~kept] == samples[~kept]).all()
    expected = written_out(patcher, samples, wan_velocity(patcher), n_min=n_min, keep=keep.double())
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()


@pytest.mark.parametrize("n_min", [0, 1])
def test_qwen_image_edits_each_frame_with_its_own_references_in_its_own_mask(n_min):
    patcher, samples = narrow_flow.qwen(), latent(3, 16, 1, 4, 6)
    references = [latent(3, 16, 1, 4, 6, seed=20), latent(1, 16, 1, 6, 4, seed=21)]
    mask = torch.zeros(3, 32, 48)
    mask[0, :, 24:], mask[2, :, 8:16] = 1, 0.5
    keep = torch.ones(3, 1, 1, 1, 6, dtype=torch.float64)
    keep[0, ..., 3:], keep[2, ..., 1] = 0, 0.5

    def predict(x, sigma, seed):
        ((words, _),), base = text(seed), patcher.model
        return torch.cat([base.diffusion_model(
            row.float(), torch.full((1,), sigma), words, None,
            [base.process_latent_in(reference[i % len(reference)][None]) for reference in references]).double()
            for i, row in enumerate(x.split(1))])

    sides = enumerate(("source", "target", "negative"), 1)
    prompts = {side: text(i, reference_latents=references) for i, side in sides}
    found, _ = flow_edited(patcher, samples, n_min=n_min, mask=mask, **prompts)
    expected = written_out(patcher, samples, predict, n_min=n_min, keep=keep)
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()
    kept = (keep == 1).expand_as(samples)
    assert torch.equal(found[kept], samples[kept]) and not (found[~kept] == samples[~kept]).all()


def test_each_frame_of_qwen_image_follows_its_own_hint():
    """Its VAE would make one clip of them."""
    patcher, samples, vae = narrow_flow.qwen(), latent(2, 16, 1, 4, 6), narrow_editors.vae(True)
    hints = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(4))

    def edited(samples, hints):
        control = narrow_editors.qwen_control()
        with torch.inference_mode():
            prompts = {name: ControlNetApplyAdvanced().apply_controlnet(text(i), text(i), control, hints, 0.8, 0.0, 1.0,
                                                                       vae)[0]
                       for i, name in enumerate(("source", "target", "negative"), 1)}
        found, _ = flow_edited(patcher, samples, **prompts)
        assert all(entry[1]["control"].vae is vae for prompt in prompts.values() for entry in prompt)
        return found

    whole = edited(samples, hints)
    alone = torch.cat([edited(samples[i : i + 1], hints[i : i + 1]) for i in range(2)])
    assert (whole - alone).abs().max() < NETWORK * alone.abs().max()


def test_each_side_has_its_own_negative():
    patcher, samples = narrow_flow.wan(), latent(*VIDEO)
    one, _ = flow_edited(patcher, samples)
    same, _ = flow_edited(patcher, samples, source_negative=text(3))
    other, _ = flow_edited(patcher, samples, source_negative=text(4))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_nothing_stays_behind_and_every_step_is_shown(monkeypatch):
    patcher, samples = narrow_flow.wan(), latent(*VIDEO)
    before, marks = weights(patcher), traces(patcher)
    shown = []
    monkeypatch.setattr(latent_preview, "prepare_callback", lambda model, steps, found: (
        lambda step, foreseen, x, total: shown.append((step + 1, total))))
    first, _ = flow_edited(patcher, samples)
    assert shown == [(1, 4), (2, 4), (3, 4), (4, 4)]
    guider, _ = pair = flow_edit(patcher)
    calls = []
    check = comfy.model_management.throw_exception_if_processing_interrupted

    def cancelled():
        calls.append(1)
        if len(calls) == 3:  # in the middle of the second step
            raise comfy.model_management.InterruptProcessingException
        check()

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        flow_edited(patcher, samples, pair)
    assert guider.side is None
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", check)
    assert torch.equal(flow_edited(patcher, samples, pair)[0], first)
    assert_untouched(patcher, before, marks)


def test_a_lora_on_the_model_has_its_part():
    patcher, samples = narrow_flow.wan(), latent(*VIDEO)
    plain, _ = flow_edited(patcher, samples)
    patched = patcher.clone()
    key = "diffusion_model.blocks.0.self_attn.q.weight"
    patched.add_patches({key: ("diff", (torch.ones_like(patcher.model.state_dict()[key]),))})
    assert not torch.equal(flow_edited(patched, samples)[0], plain)
    assert torch.equal(flow_edited(patcher, samples)[0], plain)


@pytest.mark.parametrize(("changes", "said"), [
    ({"samples": torch.zeros(VIDEO)}, "latent_image: is empty, but FlowEdit changes a source"),
    ({"samples": latent(2, 3, 4, 6)}, "latent_image: expected .batch, 16, frames, height, width. for this model"),
    ({"samples": latent(1, 12, 3, 4, 6)}, "latent_image: expected .batch, 16, frames, height, width. for this model"),
    ({"samples": torch.full(VIDEO, torch.nan)}, "latent_image: it holds NaN"),
    ({"extra": {"noise_mask": torch.ones(1, 32, 48)}}, "latent_image: carries a noise mask"),
    ({"noise": DisableNoise.execute()[0]}, "noise: FlowEdit draws noise at every step"),
    ({"steps": 3}, "n_max: 4 steps are more than the 3 that the sigmas have"),
    ({"patcher": narrow_flow.sd3(), "samples": latent(1, 16, 4, 6),
      "target": text(2, reference_latents=[latent(1, 16, 4, 6)])},
     "positive: holds reference latents, which this model does not read"),
    ({"target": text(2, concat_latent_image=latent(1, 16, 5, 4, 6))}, "latent_image: .3, 4, 6. is another size than"),
    ({"mask": torch.ones(4, 32, 48)}, "mask: 4 masks do not fit a latent of 3 frames, which are 9 frames of video"),
    ({"mask": torch.ones(9, 32, 32)}, "mask: 32x32 has other proportions"),
])
def test_bad_input_is_told_before_a_step_is_taken(changes, said):
    given = {"patcher": narrow_flow.wan(), "samples": latent(*VIDEO)} | changes
    with pytest.raises(ValueError, match=said):
        flow_edited(**given)


def test_other_models_guiders_and_samplers_are_told():
    with pytest.raises(TypeError, match="model: FlowEdit needs a flow model, such as Wan"):
        flow_edit(model())
    with pytest.raises(ValueError, match="model: carries gather-swap, which needs a hand in the sampler's run"):
        flow_edit(BACKEND.attach(narrow_flow.flux(), build_on(BACKEND, narrow_flow.flux(), "gather-swap", {})))
    patcher, samples = narrow_flow.wan(), latent(*VIDEO)
    guider, sampler = flow_edit(patcher)
    plain = comfy.samplers.CFGGuider(patcher)
    plain.set_conds(text(1), text(2))
    with pytest.raises(ValueError, match="sampler: FlowEdit's guider works with the sampler of the same node only"):
        flow_edited(patcher, samples, (guider, comfy.samplers.sampler_object("euler")))
    with pytest.raises(ValueError, match="guider: FlowEdit's sampler works with the guider of the same node only"):
        flow_edited(patcher, samples, (plain, sampler))
    with pytest.raises(ValueError, match="mask: is empty"):
        flow_edit(patcher, mask=torch.zeros(1, 32, 48))
