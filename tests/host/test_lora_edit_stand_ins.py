"""Standalone's stand-ins for the core nodes around a LoRA and a flow model give what the host's own nodes give."""

from __future__ import annotations

import comfy_extras.nodes_model_advanced
import comfy_extras.nodes_train
import folder_paths
import pytest
import torch
from safetensors.torch import load_file
from steadyedit.files.places import Folders, using
from steadyedit.methods.lora import new_lora
from steadyedit.standalone import core_lora
from test_lora_edit_both import THERE, conditioning, pair
from toys import assert_close

import nodes as core

STRENGTH, SHIFT = 0.7, 5.0


@pytest.fixture
def lora():
    """Away from its start, so that it does something."""
    _, there = pair()
    generator = torch.Generator().manual_seed(3)
    return {key: value + 0.1 * torch.randn(value.shape, generator=generator)
            for key, value in new_lora(THERE.video_layers(there), 2, 0).items()}  # fmt: skip


def ours(name, **inputs):
    return core_lora.NODES[name].execute(**inputs).args


@pytest.mark.parametrize("steps", [None, 7])
def test_a_lora_is_saved_as_the_host_saves_it(lora, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "host"))
    given = {"lora": lora, "prefix": "loras/edit", "steps": steps}
    comfy_extras.nodes_train.SaveLoRA.execute(**given)
    with using(Folders(tmp_path, tmp_path / "here")):
        ours("SaveLoRA", **given)
    (theirs,), (here,) = (sorted((tmp_path / place).rglob("*.safetensors")) for place in ("host", "here"))
    assert theirs.relative_to(tmp_path / "host") == here.relative_to(tmp_path / "here")
    first, second = load_file(theirs), load_file(here)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_the_saved_lora_samples_alike_under_a_shift(lora, tmp_path, monkeypatch, cfg):
    """Save LoRA, Load LoRA (Model) at a strength, the shift and KSampler: the core nodes alone, no node of the pack."""
    here, there = pair()
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    comfy_extras.nodes_train.SaveLoRA.execute(lora, "edit")
    name, positive = "edit_00001_.safetensors", conditioning(1)
    negative, latent = conditioning(2, positive[0][1]), {"samples": torch.zeros(1, 16, 2, 4, 6)}
    settings = (5, 3, cfg, "euler", "simple")

    with torch.inference_mode():
        (loaded,) = core.LoraLoaderModelOnly().load_lora_model_only(here, name, STRENGTH)
        (shifted,) = comfy_extras.nodes_model_advanced.ModelSamplingSD3().patch(loaded, SHIFT)
        (expected,) = core.KSampler().sample(shifted, *settings, positive, negative, latent)
    with using(Folders(tmp_path, tmp_path)):
        (loaded,) = ours("LoraLoaderModelOnly", model=there, lora_name=name, strength_model=STRENGTH)
    (shifted,) = ours("ModelSamplingSD3", model=loaded, shift=SHIFT)
    names = ("seed", "steps", "cfg", "sampler_name", "scheduler")
    sampling = dict(zip(names, settings)) | {"negative": negative, "latent_image": latent, "denoise": 1.0}
    (found,) = ours("KSampler", model=shifted, positive=positive, **sampling)
    assert_close(found["samples"], expected["samples"])
    plain = ours("KSampler", model=there, positive=positive, **sampling)[0]["samples"]
    assert (plain - found["samples"]).abs().max() > 1e-2, "the LoRA and the shift do something"
    with torch.inference_mode():
        (at_once,) = comfy_extras.nodes_train.LoraModelLoader.execute(here, lora, STRENGTH).args
    assert at_once.patches.keys() and len(at_once.patches) == len(lora) // 2


def test_inputs_are_the_hosts():
    for name, theirs in (("SaveLoRA", comfy_extras.nodes_train), ("LoraModelLoader", comfy_extras.nodes_train)):
        expected = {wanted.id for wanted in getattr(theirs, name).GET_SCHEMA().inputs}
        assert {wanted.id for wanted in core_lora.NODES[name].GET_SCHEMA().inputs} <= expected
    for kind in (core.KSampler, core.LoraLoaderModelOnly, comfy_extras.nodes_model_advanced.ModelSamplingSD3):
        inputs = core_lora.NODES[kind.__name__].GET_SCHEMA().inputs
        assert [wanted.id for wanted in inputs] == list(kind.INPUT_TYPES()["required"])


def test_strength_zero_changes_nothing_and_wrong_inputs_are_told(lora, tmp_path):
    from steadyedit.backends.diffusers.model import DiffusersModel
    from toys import diffusers_unet

    _, there = pair()
    assert ours("LoraModelLoader", model=there, lora=lora, strength_model=0.0)[0] is there
    with using(Folders(tmp_path, tmp_path)), pytest.raises(FileNotFoundError, match="lora_name: 'x.safetensors' is n"):
        ours("LoraLoaderModelOnly", model=there, lora_name="x.safetensors", strength_model=1.0)
    with pytest.raises(TypeError, match="model: its noise levels have no shift"):
        ours("ModelSamplingSD3", model=DiffusersModel(diffusers_unet()), shift=3.0)
