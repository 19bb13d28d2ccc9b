"""A Stable Diffusion 1.5 checkpoint of full size, random weights under the true names: load, patch, tune, sample."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import comfy.clip_model
import comfy.sd
import comfy.sd1_clip
import pytest
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file
from steadyedit.methods.registry import build
from steadyedit.methods.tuning import TuneRecipe, tune
from tolerances import NETWORK
from toys import BACKEND, Quiet, traces

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1, "channel_mult": [1, 2, 4, 4], "num_heads": 8, "context_dim": 768,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def skeletons():
    """(key prefix, module without memory) of the three parts of a checkpoint."""
    config = Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json")
    with torch.device("meta"):
        return [
            ("model.diffusion_model.", UNetModel(**UNET)),
            ("first_stage_model.", AutoencoderKL(ddconfig=VAE, embed_dim=4)),
            ("cond_stage_model.transformer.",
             comfy.clip_model.CLIPTextModel(json.loads(config.read_text()), None, None, torch.nn)),
        ]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file of two gigabytes; removed with the module's last test."""
    state = {}
    # Drawn once and repeated: a billion draws take most of a minute. A prime number of them, so that no rows are equal,
    # and each tensor begins elsewhere, so that no two of one shape are.
    drawn = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    for prefix, module in skeletons():
        for name, shape in ((n, p.shape) for n, p in module.state_dict().items() if "text_projection" not in n):
            tensor = torch.empty(shape, dtype=torch.float16)
            if len(shape) == 1:
                tensor.fill_(float(name.endswith("weight")))
            else:
                rounds = -(-shape.numel() // len(drawn))
                tensor = drawn.roll(len(state)).repeat(rounds)[: shape.numel()].view(shape).clone()
            state[prefix + name] = tensor
    path = tmp_path_factory.mktemp("checkpoints") / "full-size.safetensors"
    save_file(state, path)
    count = sum(tensor.numel() for key, tensor in state.items() if key.startswith("model."))
    del state
    gc.collect()
    assert count == 859_520_964, "not the size of Stable Diffusion 1.5"
    yield path
    path.unlink()


@pytest.mark.slow
def test_load_patch_tune_sample(checkpoint):
    with torch.inference_mode():
        patcher, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(checkpoint), model_options={"dtype": torch.float16})
        del vae
        sites = BACKEND.sites(patcher)
        assert [len([s for s in sites if s.stage == stage]) for stage in ("input", "middle", "output")] == [6, 1, 9]
        assert {site.channels for site in sites} == {320, 640, 1280} and {site.heads for site in sites} == {8}
        schedule = BACKEND.schedule(patcher)
        assert float(schedule.sigmas[-1]) == pytest.approx(14.6146, rel=NETWORK)
        conditioning = [clip.encode_from_tokens_scheduled(clip.tokenize(t))[0] for t in ("a man is skiing", "")]
        del clip
        marks, sample_of = traces(patcher), "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
        before = patcher.model.diffusion_model.get_submodule(sample_of).weight.clone()
        prepared = patcher
        for method, config in (("stam", {}), ("ffam", {"ratio": 2})):
            with torch.inference_mode(False):
                prepared = BACKEND.attach(prepared, build(method, sites, config))
        latent = torch.randn(2, 4, 16, 16)
        recipe = TuneRecipe(steps=1)
        tuned = tune(BACKEND, prepared, latent, conditioning[:1], recipe, progress=Quiet(), preview_every=0)
        assert torch.isfinite(torch.tensor(tuned.losses)).all()
        assert traces(patcher) == marks
        patcher.unpatch_model()
        assert torch.equal(patcher.model.diffusion_model.get_submodule(sample_of).weight, before)
        queries = [key for key in tuned.weights.tensors if key.startswith("queries.")]
        assert len(queries) == 32 and all(tuned.weights.tensors[key].abs().max() > 0 for key in queries)
        sigmas = schedule.ddim_sigmas(1)
        out = BACKEND.sample(tuned.model, conditioning[:1], conditioning[1:], 7.5, latent * 60, sigmas, Quiet())
        assert out.shape == latent.shape and torch.isfinite(out).all()


