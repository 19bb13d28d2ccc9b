"""A LoRA of ``train lora_edit``, trained without a host: core's own loader puts it on, and the host samples alike."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import comfy.model_patcher
import folder_paths
import torch
import wan_folder
from safetensors.torch import load_file
from steadyedit.backends.diffusers.wan_folder import WanFolder
from steadyedit.standalone.cli import main
from steadyedit.toyworld import render, sample_scene
from steadyedit.toyworld.models import wan
from steadyedit.video.write import write_clip
from test_lora_edit_both import THERE, conditioning, sampled_in_both
from toys import assert_close, assert_untouched, traces, weights
from videos import CPU, wan_base

import nodes as core

TEXT = 16


def in_the_host(state):
    """The folder's transformer as the host's MODEL."""
    base = wan_base(dim=24, ffn=32, image=False, text=TEXT, freq=TEXT)
    base.diffusion_model.load_state_dict(wan.to_wan(state))
    return comfy.model_patcher.ModelPatcher(base, CPU, CPU)


def test_cores_loader_takes_the_lora_of_the_command(tmp_path, monkeypatch):
    folder = wan_folder.write(tmp_path / "weights", look=False)
    frames = render(sample_scene(3, "demo", frames=5, size=32)).frames
    write_clip(tmp_path / "clip.mp4", frames, Fraction(8))
    mask = torch.zeros_like(frames)
    mask[:, 8:24, 8:24] = 1
    write_clip(tmp_path / "mask.mp4", mask, Fraction(8))
    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path / "kept"))
    assert main(["train", "lora_edit", str(folder), "--video", str(tmp_path / "clip.mp4"), "--mask",
                 str(tmp_path / "mask.mp4"), "--prompt", "a red ball", "--output", str(tmp_path / "edit.safetensors"),
                 "--frames", "5", "--size", "32x32", "--rank", "2", "--steps", "3", "--width", "float32",
                 "--learning-rate", "0.05"]) == 0  # fmt: skip

    there = WanFolder(folder).model(torch.float32)
    here = in_the_host(there.transformer.state_dict())
    there = replace(there, shift=here.model.model_sampling.shift)
    before, marks = weights(here), traces(here)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    lora = load_file(tmp_path / "edit.safetensors")
    (loaded,) = core.LoraLoaderModelOnly().load_lora_model_only(here, "edit.safetensors", 1.0)
    # Every layer of the file, and no other.
    assert len(loaded.patches) == len(lora) // 2
    positive = conditioning(1, width=TEXT)
    negative = conditioning(2, positive[0][1], width=TEXT)
    found, expected = sampled_in_both(loaded, THERE.add_video_lora(there, lora), positive, negative)
    assert_close(found, expected)
    plain, _ = sampled_in_both(here, there, positive, negative)
    assert (plain - found).abs().max() > 1e-3, "the LoRA does something"
    assert_untouched(here, before, marks)
