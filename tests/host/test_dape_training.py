"""DAPE trained through the host: a plain float64 copy's gradients, the other backend's numbers, no trace afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dape import dape, with_dape
from dape_stages import adapter_stage, joint_stage, norm_stage, run_stages
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.dape.pipeline import run_stage
from steadyedit.methods.dape.positions import stages
from steadyedit.methods.dape.recipes import NORM_TUNING
from steadyedit.methods.registry import build
from steadyedit.methods.tuning import apply_tuned
from test_training import gradients, reference, relative_error, reloaded
from tolerances import FLOAT32, NETWORK, RUN
from toys import (
    BACKEND,
    METHODS,
    Quiet,
    assert_close,
    assert_untouched,
    clip,
    diffusers_unet,
    model,
    moved,
    text,
    traces,
    weights,
)  # fmt: skip

OTHER = DiffusersBackend()
UNDER = ("temporal-attention", "sparse-causal")


def owned(patcher, *under):
    """DAPE on top of other methods, all of it trained."""
    return [moved(build(m, BACKEND.sites(patcher), METHODS[m]), 0.05) for m in under] + dape(patcher, scale=0.05)


@pytest.mark.parametrize(("under", "checkpointing"), [((), False), ((), True), (UNDER, True)])
def test_gradients_are_those_of_a_plain_copy(under, checkpointing):
    patcher = model()
    attachments = owned(patcher, *under)
    expected_loss, expected = reference(attachments)
    before, marks = weights(patcher), traces(patcher)
    with torch.inference_mode():
        loss, found = gradients(patcher, attachments, checkpointing=checkpointing)
    assert loss == pytest.approx(expected_loss, rel=NETWORK)
    assert found.keys() == expected.keys()
    for name in ("gamma", "beta", "gamma0", "w0", "conv", "up"):
        named = {key: value for key, value in expected.items() if key.endswith(f".{name}")}
        assert relative_error(found, named) < 5 * NETWORK, name
    assert_untouched(patcher, before, marks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_stored_weights_may_be_narrow(dtype):
    patcher, rounded = reloaded(dtype), reloaded(dtype, back=torch.float32)
    attachments = dape(patcher, scale=0.05)
    with torch.inference_mode():
        loss, found = gradients(patcher, attachments)
        expected_loss, expected = gradients(rounded, attachments)
    assert loss == pytest.approx(expected_loss, rel=NETWORK)
    assert relative_error(found, {k: v.double() for k, v in expected.items()}) < RUN


def test_a_lora_on_the_trained_norms_takes_part():
    """Differences are trained from the patched norms, and gradients are those of the merged weights."""
    patched, merged = model(), reloaded(torch.float32, back=torch.float32)
    site = BACKEND.norms(patched)[0]
    change = torch.randn(site.channels, generator=torch.Generator().manual_seed(1))
    assert patched.add_patches({f"diffusion_model.{site.path}.weight": ("diff", (change,))})
    with torch.inference_mode():
        merged.model.diffusion_model.get_submodule(site.path).weight.add_(change)
    attachments = dape(patched, scale=0.05)
    with torch.inference_mode():
        plain_loss, _ = gradients(model(), attachments)
        loss, found = gradients(patched, attachments)
        expected_loss, expected = gradients(merged, attachments)
    assert loss == pytest.approx(expected_loss, rel=FLOAT32) and abs(plain_loss - loss) > 1e-5
    assert relative_error(found, {k: v.double() for k, v in expected.items()}) < NETWORK


def both(*under):
    """(backend, MODEL) twice, with the same base."""
    for backend, value in ((BACKEND, model()), (OTHER, DiffusersModel(diffusers_unet()))):
        for method in under:
            value = backend.attach(value, moved(build(method, backend.sites(value), METHODS[method])))
        yield backend, value


def test_norms_blocks_and_starts_are_the_same_in_both_backends():
    (here, a), (there, b) = both()
    assert here.norms(a) == there.norms(b)
    assert stages(here.sites(a)) == stages(there.sites(b))


RECIPE = replace(NORM_TUNING, steps=3, learning_rate=1e-3)
STAGES = {
    "two stages": [norm_stage(RECIPE, kinds=["resnet", "attention", "final"]), adapter_stage(RECIPE, positions=[1, 5])],
    "one stage, mse": [joint_stage(replace(RECIPE, loss="mse"), norms={"gamma0": "scalar"}, placement="ff")],
}


@pytest.mark.parametrize(("recipe", "under"), [("two stages", UNDER), ("one stage, mse", ())])
def test_both_backends_train_the_same_and_their_weights_move(recipe, under):
    """The same losses, the same weights, and the same samples on the other host."""
    results = [run_stages(backend, value, clip(), text(1), STAGES[recipe], preview_every=2)
               for backend, value in both(*under)]  # fmt: skip
    for mine, theirs in zip(*results, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=RUN)
        assert mine.weights.metadata["methods"] == theirs.weights.metadata["methods"]
        assert mine.weights.tensors.keys() == theirs.weights.tensors.keys()
    (here, a), (there, b) = both(*under)
    sigmas = there.schedule(b).ddim_sigmas(3)
    for other in results[1]:
        a = apply_tuned(here, a, other.weights)
    first = here.sample(a, text(1), text(2), 4.0, clip(), sigmas, Quiet())
    second = there.sample(results[1][-1].model, text(1), text(2), 4.0, clip(), sigmas, Quiet())
    assert_close(first, second, RUN)


def test_only_the_stage_trains_and_the_base_is_untouched():
    plain = model()
    under = BACKEND.attach(plain, moved(build("stam", BACKEND.sites(plain), {})))
    under = with_dape(under, "norm-tune", scale=0.05)
    before, marks = weights(plain), traces(plain)
    held = {name: p.clone() for a in BACKEND.attachments(under) for t in a.trees for name, p in t.named_parameters()}
    tuned = run_stage(BACKEND, under, clip(), text(1), adapter_stage(RECIPE))
    assert {name.split(".")[0] for name in tuned.weights.tensors} == {"visual-adapter"}
    now = {name: p for a in BACKEND.attachments(under) for t in a.trees for name, p in t.named_parameters()}
    assert held.keys() == now.keys() and all(torch.equal(now[name], value) for name, value in held.items())
    assert [a.method for a in BACKEND.attachments(tuned.model)] == ["stam", "norm-tune", "visual-adapter"]
    plain.unpatch_model()
    assert_untouched(plain, before, marks)
