"""What comes after a tuning or an inversion in a graph: kept whole, or refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from dape import with_dape
from steadyedit import nodes
from steadyedit.methods.tuning import TuneRecipe, tune
from tolerances import NETWORK, RUN
from toys import BACKEND, Quiet, attached, clip, model, sample, text
from videos import BACKEND as VIDEO
from videos import model as video_model
from videos import sample as video_sample

NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}


def run(name, **inputs):
    """A node's outputs, as the host runs it."""
    with torch.inference_mode():
        return NODES[name].execute(**inputs).args


@pytest.fixture(scope="module")
def tuned():
    patcher = attached(model(), "stam", "ffam")
    recipe = TuneRecipe(steps=1, learning_rate=1e-2)
    with torch.inference_mode():
        return tune(BACKEND, patcher, clip(), text(1), recipe, progress=Quiet()).model


@pytest.mark.parametrize("node", ["SteadyEditSTAM", "SteadyEditTemporalAttention", "SteadyEditSimDA"])
def test_a_method_begins_anew_only_where_no_tuning_is_lost(node, tuned):
    slug = {"SteadyEditSTAM": "stam", "SteadyEditSimDA": "simda"}.get(node, "temporal-attention")
    once = run(node, model=model())[0]
    assert [a.method for a in BACKEND.attachments(run(node, model=once)[0])] == [slug], "untuned, again is as once"
    if slug == "stam":
        with pytest.raises(ValueError, match="model: stam is on it already, with tuned weights"):
            run(node, model=tuned)


def test_ffam_may_take_another_ratio_after_tuning(tuned):
    changed = run("SteadyEditFFAM", model=tuned, ratio=4, blocks="all")[0]
    assert {a.method: a.config.get("ratio") for a in BACKEND.attachments(changed)} == {"stam": None, "ffam": 4}


def test_a_dape_stage_does_not_replace_itself():
    from steadyedit.methods.dape.pipeline import run_stage
    from steadyedit.methods.dape.recipes import Stage

    recipe = TuneRecipe(steps=1, queries=False)
    with torch.inference_mode():
        first = run_stage(BACKEND, model(), clip(), text(1), Stage({"norm-tune": {}}, recipe), progress=Quiet())
        with pytest.raises(ValueError, match="model: norm-tune is on it already, with tuned weights"):
            run_stage(BACKEND, first.model, clip(), text(1), Stage({"norm-tune": {}}, recipe), progress=Quiet())


def test_a_merge_does_not_take_half_of_a_tuning(tuned):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    plain, merge = model(), ModelMergeSimple().merge
    with torch.inference_mode():
        with pytest.raises(ValueError, match="^model2: has tuned weights of this pack on it"):
            merge(plain, tuned.clone().clone(), 0.5)
        with pytest.raises(ValueError, match="^model1: has tuned weights of this pack on it"):
            merge(tuned.clone(), plain, 0.5)
        (whole,) = merge(tuned, plain, 1.0)
        assert torch.equal(sample(whole), sample(tuned)), "all of the first and nothing of the second"
        (both,) = merge(plain, model(), 0.5)
        assert torch.allclose(sample(both), sample(plain), atol=NETWORK), "untuned models merge as ever"
        norms = with_dape(model(), "norm-tune")
        assert merge(norms, plain, 0.5), "differences of norms stay whole on any base"


def test_a_clone_of_a_tuned_model_is_let_go(tuned):
    import gc
    import weakref

    gc.disable()
    try:
        gone = weakref.ref(tuned.clone())
        assert gone() is None
    finally:
        gc.enable()


def test_a_latent_that_was_flipped_after_its_inversion_is_recognised():
    latent = {"samples": clip()}
    noise, sigmas = run("SteadyEditDDIMInversion", model=model(), conditioning=text(), latent=latent, steps=2,
                        refinement=0)  # fmt: skip
    mask, more = torch.zeros(1, 64, 64), {"blend": "ramp", "reading": "A", "ramp_steps": 0, "soft_mask": True}
    mask[:, :32] = 1
    import comfy.samplers

    sampler = comfy.samplers.sampler_object("euler")
    assert run("SteadyEditBoundaryBlend", sampler=sampler, inverted=noise, mask=mask, **more)
    for changed in (noise["samples"].flip(3), noise["samples"][:2], noise["samples"].repeat(2, 1, 1, 1)):
        with pytest.raises(ValueError, match="^inverted: was changed after its inversion"):
            run("SteadyEditBoundaryBlend", sampler=sampler, inverted={**noise, "samples": changed}, mask=mask, **more)


def test_a_noise_mask_is_not_inverted():
    latent = {"samples": clip(), "noise_mask": torch.ones(1, 64, 64)}
    with pytest.raises(ValueError, match="^latent: carries a noise mask"):
        run("SteadyEditDDIMInversion", model=model(), conditioning=text(), latent=latent, steps=2, refinement=0)


@pytest.mark.parametrize("change", ["as it is", "flipped", "repeated", "half sampled", "sampled"])
def test_a_noise_mask_after_the_inversion_is_refused_where_it_is_set(change):
    """Outside of it the host's samplers would keep noise: 7.9 dB on the toy clip, and 36.7 with Boundary Blend."""
    import nodes as core

    patcher = model()
    # The ideal denoiser of one point: what is sampled ends there.
    patcher.set_model_unet_function_wrapper(lambda apply_model, given: torch.full_like(given["input"], 0.3))
    with torch.inference_mode():
        latent, _ = run("SteadyEditDDIMInversion", model=patcher, conditioning=text(), latent={"samples": clip()},
                        steps=4, refinement=0)  # fmt: skip
        if change == "flipped":
            copy = latent.copy()
            copy["samples"] = latent["samples"].flip(3)  # as LatentFlip and its like do
            latent = copy
        elif change == "repeated":
            (latent,) = core.RepeatLatentBatch().repeat(latent, 2)
        elif "sampled" in change:
            last = 1 if "half" in change else 10000
            (latent,) = core.KSamplerAdvanced().sample(patcher, "disable", 1, 4, 1.0, "ddim", "ddim_uniform", text(1),
                                                       text(2), latent, 0, last, "enable")  # fmt: skip
        if change == "sampled":
            (masked,) = core.SetLatentNoiseMask().set_mask(latent, torch.ones(1, 64, 64))
            assert masked["noise_mask"].shape == (1, 1, 64, 64), "a second pass over the result takes masks as ever"
        else:
            with pytest.raises(ValueError, match="^mask: a noise mask on the latent of DDIM Inversion would keep its"):
                core.SetLatentNoiseMask().set_mask(latent, torch.ones(1, 64, 64))


@pytest.mark.parametrize(("spans", "fits"), [
    ([(0.0, 1.0)], True), ([(0.5, 1.0)], False), ([(0.0, 0.7)], False), ([(0.0, 0.5), (0.5, 1.0)], True),
    ([(0.0, 0.3), (0.5, 1.0)], False), ([(0.4, 1.0), (0.0, 0.6)], True),
])  # fmt: skip
def test_prompts_that_leave_noise_levels_out_are_refused(spans, fits):
    """Tuning and inversion pass all of them; a schedule of prompts without a gap is right."""
    conditioning = [[text(n)[0][0], {"start_percent": a, "end_percent": b}] for n, (a, b) in enumerate(spans)]
    asked = {"conditioning": conditioning, "latent": {"samples": clip()}}

    def both():
        run("SteadyEditDDIMInversion", model=model(), steps=2, refinement=0, **asked)
        run("SteadyEditOneShotTune", model=attached(model(), "stam"), steps=2, learning_rate=1e-3, seed=0,
            tune_queries=True, reuse=False, **asked)  # fmt: skip

    if fits:
        both()
    else:
        with pytest.raises(ValueError, match="^conditioning: no prompt is at work from"):
            both()


def test_stage_two_with_model_and_lora_of_stage_one_is_told():
    from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
    from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora

    training = TuneRecipe(steps=1, learning_rate=1e-2, queries=False)
    recipe, quiet = MaskLoRARecipe(training, rank=2), VideoSettings(preview_every=0)
    with torch.inference_mode():
        first = train_mask_lora(VIDEO, video_model("plain"), [video_sample("plain")], recipe, quiet, progress=Quiet())
        with pytest.raises(ValueError, match="^lora: is on the model's weights already"):
            train_mask_lora(VIDEO, first.model, [video_sample("plain")], recipe, quiet,
                            start=first.weights.tensors, progress=Quiet())  # fmt: skip


def test_stam_runs_its_equation_to_the_letter_by_a_switch():
    graph = {"model": model()}
    configs = [BACKEND.attachments(run("SteadyEditSTAM", **graph, **more)[0])[0].config["recenter"]
               for more in ({}, {"recenter": True}, {"recenter": False})]  # fmt: skip
    assert configs == [True, True, False], "graphs from before the switch run as they did"


def test_a_lora_under_diffusers_names_is_the_same_to_the_hosts_loader():
    import comfy.sd
    from steadyedit.methods.lora import factors, new_lora
    from steadyedit.methods.lora_names import for_diffusers

    generator = torch.Generator().manual_seed(6)
    lora = {key: value + 0.1 * torch.randn(value.shape, generator=generator)
            for key, value in new_lora(BACKEND.projections(model()), 2, seed=0).items()}  # fmt: skip
    with torch.inference_mode():
        loaded, _ = comfy.sd.load_lora_for_models(model(), None, for_diffusers(lora), 1.0, 0.0)
        assert len(loaded.patches) == len(factors(lora))
        assert torch.allclose(sample(loaded), sample(BACKEND.add_lora(model(), lora)), atol=NETWORK)
        assert (sample(loaded) - sample(model())).abs().max() > 0.01


def test_joint_norms_are_the_same_on_both_hosts_and_in_training():
    """One mean and variance for all frames of the clip, in every condition by itself."""
    import comfy.model_management  # noqa: F401
    from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
    from steadyedit.methods.registry import build_on
    from toys import assert_close, diffusers_unet
    from toys import sample as sampled

    there, x = DiffusersBackend(), clip() * torch.tensor([0.3, 1.0, 2.0])[:, None, None, None]
    here = run("SteadyEditTemporalAttention", model=model(), joint_norms=True)[0]
    assert [a.method for a in BACKEND.attachments(here)] == ["joint-norms", "temporal-attention"]
    other = DiffusersModel(diffusers_unet())
    for method in ("joint-norms", "temporal-attention"):
        other = there.attach(other, build_on(there, other, method, {}))
    sigmas = BACKEND.schedule(here).ddim_sigmas(2)
    with torch.inference_mode():
        mine = sampled(here, samples=x)
        plain = sampled(run("SteadyEditTemporalAttention", model=model())[0], samples=x)
    theirs = there.sample(other, text(1), text(2), 7.5, x, sigmas, Quiet())
    assert_close(mine, theirs, RUN)
    assert (mine - plain).abs().max() > 0.01
    recipe = TuneRecipe(steps=2, learning_rate=1e-3)
    with torch.inference_mode():
        first = tune(BACKEND, here, x, text(1), recipe, progress=Quiet(), preview_every=0)
    second = tune(there, other, x, text(1), recipe, progress=Quiet(), preview_every=0)
    assert first.losses == pytest.approx(second.losses, rel=RUN)
