"""DAPE's nodes in the host: trained, saved, loaded, applied, as a LoRA by the core nodes, and refused in a sentence."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from dape import with_dape
from test_nodes import latent, no_unet, not_finite, run
from tolerances import FLOAT32_STEP, NETWORK
from toys import BACKEND, assert_close, assert_untouched, attached, model, sample, text, traces, weights

SHORT = {"steps": 2, "learning_rate": 1e-2}
NORMS, ADAPTER = "SteadyEditNormTune", "SteadyEditVisualAdapterTrain"
APPLY = {"norm-tune": "SteadyEditApplyNormTune", "visual-adapter": "SteadyEditApplyVisualAdapter"}


def train(node_id, patcher, **settings):
    inputs = {"latent": latent(), "conditioning": text(), **SHORT, **settings}
    return run(node_id, model=patcher, **inputs).args


@pytest.fixture(scope="module")
def tuned():
    """Both stages on EI2, trained once."""
    under = attached(model(), "stam", "ffam")
    norms = train(NORMS, under, reuse=False)
    return under, norms, train(ADAPTER, norms[0], reuse=False, bottleneck=8)


def test_two_stages_saved_loaded_and_applied(tuned, weights_folder, caplog):
    under, norms, adapter = tuned
    assert [len(given[2]["loss"]) for given in (norms, adapter)] == [2, 2]
    expected, plain = sample(adapter[0]), model()
    assert not torch.allclose(expected, sample(norms[0]), atol=NETWORK)
    patcher, bare = under, plain
    for name, (given, method) in {"n": (norms, "norm-tune"), "a": (adapter, "visual-adapter")}.items():
        run("SteadyEditSaveTuned", weights=given[1], filename_prefix=name)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            _, loaded = run("SteadyEditLoadTuned", model=plain, name=f"{name}_00001.safetensors").args
            # Tuned on EI2, loaded onto the plain model: that is worth a line, and no more.
            assert "another base" in caplog.text
            caplog.clear()
            patcher = run(APPLY[method], model=patcher, weights=loaded)[0]
            assert "another base" not in caplog.text
        bare = run(APPLY[method], model=bare, weights=loaded, strength=0.5)[0]
    assert torch.equal(sample(patcher), expected)
    assert [a.method for a in BACKEND.attachments(bare)] == ["norm-tune", "visual-adapter"]
    assert not torch.equal(sample(bare), sample(plain))


def test_strength_scales_and_0_is_the_model(tuned):
    under, norms, adapter = tuned
    expected = sample(under)
    for method, given in (("norm-tune", norms), ("visual-adapter", adapter)):
        none, near, far = (
            sample(run(APPLY[method], model=under, weights=given[1], strength=strength)[0])
            for strength in (0.0, 0.01, 0.02)
        )
        assert torch.equal(none, expected)
        assert (far - none).norm() / (near - none).norm() == pytest.approx(2, rel=0.1)


def test_one_stage_holds_both_and_each_apply_takes_its_own(weights_folder):
    plain = model()
    joint, held, _ = train(ADAPTER, plain, joint=True, loss="mse", bottleneck=8)
    assert {name.split(".")[0] for name in held.tensors} == set(APPLY)
    assert [a.method for a in BACKEND.attachments(joint)] == ["norm-tune", "visual-adapter"]
    patcher = plain
    for method, node_id in APPLY.items():
        patcher = run(node_id, model=patcher, weights=held)[0]
        assert BACKEND.attachments(patcher)[-1].method == method
    assert torch.equal(sample(patcher), sample(joint))


@pytest.mark.parametrize("final", [False, True])
def test_the_core_lora_nodes_carry_gamma_and_beta(final, tmp_path, monkeypatch):
    """Saved by SaveLoRA, read by LoraLoaderModelOnly: exactly the part without gamma0."""
    import folder_paths
    from comfy_extras.nodes_train import SaveLoRA

    import nodes

    plain = model()
    before, marks = weights(plain), traces(plain)
    tuned, held, _, lora = train(NORMS, plain, gamma0="none", final=final, reuse=False)
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    SaveLoRA.execute(lora, "loras/norms")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    (name,) = folder_paths.get_filename_list("loras")
    (loaded,) = nodes.LoraLoaderModelOnly().load_lora_model_only(plain, name, 1.0)
    sites = [site for site in BACKEND.norms(plain) if final or site.kind != "final"]
    assert len(loaded.patches) == 2 * len(sites) == len(lora)
    expected = sample(tuned)
    assert torch.equal(sample(loaded), expected)
    assert not torch.allclose(expected, sample(plain), atol=NETWORK)
    # With its gamma0 the same weights are more than a LoRA can hold.
    assert_close(sample(run(APPLY["norm-tune"], model=plain, weights=held)[0]), expected, FLOAT32_STEP)
    plain.unpatch_model()
    assert_untouched(plain, before, marks)


def test_a_lora_of_the_base_goes_before_or_after(tuned):
    import comfy.sd

    name = BACKEND.sites(model())[0].path + ".attn2.to_k"
    lora = {f"diffusion_model.{name}.lora_A.weight": torch.randn(4, 96), f"diffusion_model.{name}.lora_B.weight":
            torch.randn(64, 4) * 0.1}  # fmt: skip
    load = lambda m: comfy.sd.load_lora_for_models(m, None, lora, 1.0, 0.0)[0]  # noqa: E731
    dape = lambda m: run(APPLY["norm-tune"], model=m, weights=tuned[1][1])[0]  # noqa: E731
    after, before = load(dape(model())), dape(load(model()))
    assert len(after.patches) == len(before.patches) == 1
    assert torch.equal(sample(after), sample(before)) and not torch.equal(sample(after), sample(dape(model())))


@pytest.mark.parametrize("asked", [1, 500])
def test_cancelled_it_goes_on_where_it_stopped(asked, monkeypatch, weights_folder):
    import comfy.model_management

    interrupt = comfy.model_management.InterruptProcessingException
    under = with_dape(model(), "norm-tune", scale=0.05)
    before, marks = weights(under), traces(under)
    whole = train(ADAPTER, under, steps=3, reuse=False, checkpoint_every=1)
    calls = []

    def cancelled():
        calls.append(1)
        if len(calls) == asked:
            raise interrupt

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancelled)
    with pytest.raises(interrupt):
        train(ADAPTER, under, steps=3)
    assert_untouched(under, before, marks)
    assert bool(list(weights_folder.glob("cache/*.checkpoint"))) == (asked > 1)  # nothing to go on from before a step
    monkeypatch.undo()
    monkeypatch.setattr(type(BACKEND), "weights_folder", lambda self: weights_folder)
    rest = train(ADAPTER, under, steps=3)
    assert rest[2]["loss"] == whole[2]["loss"]
    assert all(torch.equal(rest[1].tensors[name], value) for name, value in whole[1].tensors.items())
    assert not list(weights_folder.glob("cache/*.checkpoint"))


def test_memory_that_runs_out_is_told_and_leaves_no_trace(monkeypatch):
    from steadyedit.backends.comfy_native.training import ComfyTraining

    plain = model()
    before, marks = weights(plain), traces(plain)

    def exhausted(self, *arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ComfyTraining, "predict_noise", exhausted)
    with pytest.raises(MemoryError, match="memory ran out, also with gradient checkpointing"):
        train(NORMS, plain)
    assert_untouched(plain, before, marks)


def other_weights(methods=("stam",), **metadata):
    from steadyedit.methods.tuning import TunedWeights

    entries = [{"method": method, "config": {}} for method in methods]
    return TunedWeights({}, {"version": 1, "methods": entries, "base": "", "architecture": "", **metadata})


def architecture():
    from steadyedit.methods.tuned_weights import architecture

    return architecture(BACKEND, model())


def clean(**inputs):
    return {"model": model(), "latent": latent(), "conditioning": text(), **inputs}


REFUSED = {
    "no norms": (NORMS, lambda: clean(resnet=False, attention=False), "resnet, attention, final: all three are off"),
    "NaN": (NORMS, lambda: clean(latent=not_finite()), "latent: .*NaN"),
    "NaN in stage 2": (ADAPTER, lambda: clean(latent=not_finite()), "latent: .*NaN"),
    "no U-Net": (NORMS, lambda: clean(model=no_unet()), "model: .* but got a Linear"),
    "no U-Net, apply": (APPLY["norm-tune"], lambda: {"model": no_unet(), "weights": other_weights()},
                        "model: .* but got a Linear"),
    "prompts": (NORMS, lambda: clean(conditioning=text(prompts=2)), "conditioning: holds 2 prompts"),
    "position 0": (ADAPTER, lambda: clean(positions="0"), "positions: .* 1 to 7, but got 0"),
    "position 8": (ADAPTER, lambda: clean(positions="5, 8"), "positions: .* 1 to 7, but got 5, 8"),
    "positions empty": (ADAPTER, lambda: clean(positions=" "), "positions: expected numbers such as 5"),
    "positions backwards": (ADAPTER, lambda: clean(positions="7-1"), "positions: expected numbers such as 5"),
    "positions of words": (ADAPTER, lambda: clean(positions="up"), "positions: expected numbers .* but got 'up'"),
    "even kernel": (ADAPTER, lambda: clean(kernel=4), "kernel: expected an odd number, but got 4"),
    "joint on tuned norms": (ADAPTER, lambda: clean(model=with_dape(model(), "norm-tune"), joint=True),
                             "joint: the model has tuned norms already"),
    "architecture": (APPLY["norm-tune"], lambda: {"model": model(), "weights": other_weights(["norm-tune"])},
                     "model: these weights were tuned on a model with other layers"),
    "another method": (APPLY["visual-adapter"], lambda: {"model": model(), "weights": other_weights(
        architecture=architecture())}, "weights: hold stam, but no visual-adapter"),
    "no weights": (APPLY["norm-tune"], lambda: {"model": model(), "weights": {"lora": 1}},
                   "weights: expected those of a tuning node .* but got a dict"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence(case):
    node_id, inputs, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        run(node_id, **inputs())
    assert "\n" not in str(caught.value) and not re.search(r"\. [A-Z]", str(caught.value))


def test_what_positions_may_look_like():
    from steadyedit.nodes.checks import ranges

    assert ranges("positions", "5") == (5,) and ranges("positions", "1-7") == (1, 2, 3, 4, 5, 6, 7)
    assert ranges("positions", " 7, 1,2 6-6") == (1, 2, 6, 7)
