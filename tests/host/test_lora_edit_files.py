"""LoRA-Edit on a model that the host loads from a file: fp8 with scales, and its LoRA where this pack is not."""

from __future__ import annotations

import os
import subprocess
import sys

import comfy.sd
import comfy_extras.nodes_train
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file
from steadyedit.backends.comfy_native import video_network
from steadyedit.diffusion.flow import RectifiedFlow
from steadyedit.methods.lora_edit.choices import NOISE_RANGES, WAN
from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora
from steadyedit.methods.tuning import TuneRecipe
from test_lora_edit_training import gradients, moving_lora, relative_error
from tolerances import NETWORK, RUN
from toys import Quiet
from videos import BACKEND, filled, sample, wan_base

#: What the host assumes of every Wan file: heads of 128, text of 4096, timesteps of 256.
TEXT = 4096


def recipe(steps, sigmas=NOISE_RANGES["all"]):
    training = TuneRecipe(steps=steps, learning_rate=1e-2, betas=(0.9, 0.99), queries=False)
    return MaskLoRARecipe(training, rank=2, sigmas=sigmas)


def weights(image=False, seed=4):
    """A Wan I2V network by its file's names; without CLIP vision it is as an expert of Wan 2.2."""
    base = wan_base(dim=128, ffn=256, layers=2, image=image, heads=1, text=TEXT, freq=256)
    state = filled(base, seed).model.diffusion_model.state_dict()
    return {key: value.clone().contiguous() for key, value in state.items()}


def loaded(state, path):
    """As a loader node loads it: in inference mode."""
    save_file(state, path)
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(path))


def matrices(state):
    return [key for key in state if key.startswith("blocks.") and key.endswith(".weight") and state[key].ndim == 2]


def in_fp8(state):
    """The host's own form of such files, and the numbers that they stand for in float32."""
    stored, rounded = dict(state), dict(state)
    for key in matrices(state):
        scale = state[key].abs().max() / 448
        stored[key] = (state[key] / scale).to(torch.float8_e4m3fn)
        stored[key.removesuffix("weight") + "scale_weight"] = scale.reshape(())
        rounded[key] = stored[key].float() * scale
    stored["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    return stored, rounded


def test_fp8_with_scales_trains_as_the_weights_that_it_stands_for(tmp_path):
    """Gradients are those of the same numbers in float32."""
    state = weights()
    stored, rounded = in_fp8(state)
    narrow, wide = loaded(stored, tmp_path / "fp8.safetensors"), loaded(rounded, tmp_path / "wide.safetensors")
    found, lora = sample("plain", text=TEXT), moving_lora(wide)
    assert BACKEND.video_layers(narrow) == BACKEND.video_layers(wide)
    with torch.inference_mode():
        loss, got = gradients(narrow, found, lora, "float32")
        expected_loss, expected = gradients(wide, found, lora, "float32")
    assert loss == pytest.approx(expected_loss, rel=NETWORK)
    assert relative_error(got, {key: value.double() for key, value in expected.items()}) < RUN
    layers = video_network.network_of(narrow).layers.values()
    assert sum(video_network.stored_bytes(layer) for layer in layers) < 0.3 * sum(
        state[key].numel() * 4 for key in matrices(state)), "a byte a weight"  # fmt: skip


def test_fp8_that_the_device_cannot_read_is_refused(tmp_path, monkeypatch):
    """Told before the training begins; a device without fp8 fails at the first value, as Apple's does."""
    patcher, found = loaded(in_fp8(weights())[0], tmp_path / "fp8.safetensors"), sample("plain", text=TEXT)
    zeros = torch.zeros

    def without_fp8(*size, dtype=None, **more):
        if dtype == torch.float8_e4m3fn:
            raise TypeError("Trying to convert Float8_e4m3fn to the MPS backend but it does not have support for it.")
        return zeros(*size, dtype=dtype, **more)

    monkeypatch.setattr(torch, "zeros", without_fp8)
    with torch.inference_mode(), pytest.raises(ValueError, match="^model: its weights are float8_e4m3fn, which cpu cann"
                                               "ot read; load the model with weight_dtype default"):  # fmt: skip
        train_mask_lora(BACKEND, patcher, [found], recipe(1), VideoSettings("float32"), progress=Quiet())


def test_two_experts_train_on_their_own_noise_and_sample_one_after_the_other(tmp_path, monkeypatch):
    """Wan 2.2 as an artist uses it: a LoRA for each expert, and the core's two samplers that share the steps."""
    import nodes as core

    found, drawn, draw = sample("plain", text=TEXT), [], RectifiedFlow.draw
    monkeypatch.setattr(RectifiedFlow, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    names = [name for name in NOISE_RANGES if name != "all"]
    bases, tuned, latent = [], [], {"samples": torch.zeros_like(found.latent)}
    for seed, name in enumerate(names):
        bases.append(loaded(weights(seed=seed + 4), tmp_path / f"{seed}.safetensors"))
        drawn.clear()
        with torch.inference_mode():
            trained = train_mask_lora(BACKEND, bases[-1], [found], recipe(2, NOISE_RANGES[name]),
                                      VideoSettings("float32", preview_every=0), progress=Quiet())  # fmt: skip
        tuned.append(trained.model)
        low, high = NOISE_RANGES[name]
        assert len(drawn) == 2 and all(low <= float(sigma) <= high for sigma in drawn)

    def sampled(models):
        """Two of four steps each; the noise that is left goes on."""
        x = latent
        for number, model in enumerate(models):
            first = number == 0
            with torch.inference_mode():
                (x,) = core.KSamplerAdvanced().sample(
                    model, "enable" if first else "disable", 1, 4, 1.0, "euler", "simple", found.conditioning,
                    found.conditioning, x, 0 if first else 2, 2 if first else 4, "enable" if first else "disable",
                )  # fmt: skip
        return x["samples"]

    plain = sampled(bases)
    assert plain.isfinite().all() and plain.std() > 0
    for pair in ((tuned[0], bases[1]), (bases[0], tuned[1])):
        assert not torch.equal(sampled(pair), plain), "each expert's LoRA acts in its own steps"


@pytest.mark.parametrize("image", [True, False], ids=["Wan 2.1", "an expert of Wan 2.2"])
def test_a_file_is_a_model_with_a_mask(image, tmp_path):
    patcher = loaded(weights(image), tmp_path / "wan.safetensors")
    assert BACKEND.video_family(patcher) == WAN and len(BACKEND.video_layers(patcher)) == 2 * (12 if image else 10)


WITHOUT_THE_PACK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from comfy.cli_args import args
args.cpu = True
import folder_paths
for kind, folder in (("diffusion_models", sys.argv[2]), ("loras", sys.argv[2])):
    folder_paths.folder_names_and_paths[kind] = ([folder], {".safetensors"})
import nodes
given = torch.load(sys.argv[2] + "/given.pt")
with torch.inference_mode():
    (model,) = nodes.UNETLoader().load_unet("wan.safetensors", "default")
    (model,) = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "edit_4_steps_00001_.safetensors", 1.0)
    (out,) = nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "simple", given["positive"], given["positive"],
                                     {"samples": torch.zeros_like(given["latent"])})
assert not any("steadyedit" in name for name in sys.modules)
torch.save(out["samples"].clone(), sys.argv[2] + "/out.pt")
"""


def test_the_lora_of_save_lora_works_in_a_host_without_the_pack(host, tmp_path, monkeypatch):
    """Trained here, saved by the core node; loaded and sampled by core nodes in a process of its own."""
    import nodes as core

    patcher, found = loaded(weights(), tmp_path / "wan.safetensors"), sample("plain", text=TEXT)
    with torch.inference_mode():
        tuned = train_mask_lora(BACKEND, patcher, [found], recipe(4),
                                VideoSettings("float32", preview_every=0), progress=Quiet())  # fmt: skip
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    comfy_extras.nodes_train.SaveLoRA.execute(dict(tuned.weights.tensors), "edit", 4)
    assert load_file(tmp_path / "edit_4_steps_00001_.safetensors").keys() == tuned.weights.tensors.keys()

    torch.save({"positive": found.conditioning, "latent": found.latent}, tmp_path / "given.pt")
    command = [sys.executable, "-c", WITHOUT_THE_PACK, str(host), str(tmp_path)]
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run(command, check=True, cwd=tmp_path, env=clean)
    with torch.inference_mode():
        samples = [core.KSampler().sample(model, 1, 2, 1.0, "euler", "simple", found.conditioning, found.conditioning,
                                          {"samples": torch.zeros_like(found.latent)})[0]["samples"]
                   for model in (tuned.model, patcher)]  # fmt: skip
    out = torch.load(tmp_path / "out.pt")
    assert torch.allclose(out, samples[0], atol=NETWORK)
    assert (out - samples[1]).abs().max() > 1e-2, "the LoRA does something"


@pytest.mark.parametrize("form", ["scaled fp8", "bf16"])
def test_what_was_trained_samples_at_once_in_a_fresh_host(form, tmp_path):
    """As the low-memory graph does it: load, train, sample with the LoRA on the weights; then without it again."""
    import nodes as core

    state = weights()
    stored = in_fp8(state)[0] if form == "scaled fp8" else {k: v.bfloat16() for k, v in state.items()}
    patcher, found = loaded(stored, tmp_path / "wan.safetensors"), sample("plain", text=TEXT)

    def sampled(model):
        with torch.inference_mode():
            latent = {"samples": torch.zeros_like(found.latent)}
            return core.KSampler().sample(model, 1, 2, 1.0, "euler", "simple", found.conditioning, found.conditioning,
                                          latent)[0]["samples"]  # fmt: skip

    with torch.inference_mode():
        tuned = train_mask_lora(BACKEND, patcher, [found], recipe(2),
                                VideoSettings("float32", preview_every=0), progress=Quiet())  # fmt: skip
    edited = sampled(tuned.model)
    plain = sampled(patcher)
    assert edited.isfinite().all() and not torch.equal(edited, plain)
    assert torch.equal(sampled(tuned.model), edited)
