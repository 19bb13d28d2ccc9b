"""SDXL base in the host: found by its file's keys, and every method the same as on diffusers."""

from __future__ import annotations

import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import narrow_sdxl
import pytest
import torch
from shared import shared
from steadyedit.backends.comfy_native import ComfyBackend
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.dape.positions import stages
from steadyedit.methods.registry import build_on
from steadyedit.methods.tuning import TuneRecipe, tune
from tolerances import RUN
from toys import Quiet, assert_close, moved

HERE, THERE = ComfyBackend(), DiffusersBackend()
SIZES = {"height": 96, "width": 160, "crop_h": 8, "crop_w": 24, "target_height": 64, "target_width": 72}
SETTINGS = {
    "stam": {}, "ffam": {"ratio": 2}, "sparse-causal": {}, "temporal-attention": {}, "full-attention": {},
    "simda": {}, "gather-swap": {"group": 2, "chunk": 1}, "rave": {"grid": 2}, "norm-tune": {},
    "visual-adapter": {"positions": [4]},
}  # fmt: skip


def network_config(base: dict) -> dict:
    """The narrow U-Net in the host's words."""
    depths = narrow_sdxl.DEPTHS
    return {
        **base, "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": narrow_sdxl.CHANNELS[0],
        "channel_mult": [1, 2, 4], "num_res_blocks": [2, 2, 2], "num_head_channels": 32, "num_heads": -1,
        "transformer_depth": [d for d in depths for _ in range(2)], "transformer_depth_middle": depths[-1],
        "transformer_depth_output": [d for d in depths for _ in range(3)], "context_dim": narrow_sdxl.TEXT,
        "use_spatial_transformer": True, "use_linear_in_transformer": True, "use_temporal_attention": False,
        "num_classes": "sequential", "adm_in_channels": narrow_sdxl.POOLED + 6 * 256, "legacy": False,
        "use_checkpoint": False,
    }  # fmt: skip


@shared
def _shared():
    config = network_config({})
    settings = comfy.supported_models.SDXL(config)
    settings.unet_config["num_head_channels"] = config["num_head_channels"]  # the constructor says 64
    settings.set_inference_dtype(torch.float32, None)
    base = settings.get_model({}, "", device=torch.device("cpu"))
    lists = {key: value[:] for key, value in config.items() if isinstance(value, list)}
    names = comfy.utils.unet_to_diffusers({**config, **lists})
    state = {names[key]: weight for key, weight in narrow_sdxl.unet().state_dict().items()}
    base.diffusion_model.load_state_dict(state, strict=True)
    return comfy.model_patcher.ModelPatcher(base, comfy.model_management.get_torch_device(), torch.device("cpu"))


def both(*methods):
    found = []
    for backend, value in ((HERE, _shared().clone()), (THERE, DiffusersModel(narrow_sdxl.unet()))):
        for method in methods:
            value = backend.attach(value, moved(build_on(backend, value, method, SETTINGS[method])))
        found.append((backend, value))
    return found


def clip(frames: int = 3):
    return torch.randn(frames, 4, 8, 16, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("methods", [("stam", "ffam"), ("temporal-attention", "sparse-causal"), ("full-attention",),
                                     ("simda",), ("gather-swap",), ("rave",),
                                     ("norm-tune", "visual-adapter")])  # fmt: skip
def test_inversion_and_sampling_as_on_diffusers(methods):
    """Under a size condition that is not the trivial one, and with pooled text."""
    inverted, sampled, frames = [], [], 4 if "rave" in methods else 3
    for backend, value in both(*methods):
        sigmas = backend.schedule(value).ddim_sigmas(3).float()
        path = backend.invert(value, narrow_sdxl.conditioning(1, **SIZES), clip(frames), sigmas.flip(0), 0, Quiet())
        inverted.append(path[-1])
        sampled.append(backend.sample(value, narrow_sdxl.conditioning(1, **SIZES), narrow_sdxl.conditioning(2), 4.0,
                                      path[-1], sigmas, Quiet()))  # fmt: skip
    assert_close(*inverted, 1e-3)
    assert_close(*sampled, 1e-3)


def test_pooled_text_and_sizes_matter():
    backend, value = both()[0]
    sigmas = backend.schedule(value).ddim_sigmas(2).float()
    outs = [backend.sample(value, given, narrow_sdxl.conditioning(2), 4.0, clip() * 9, sigmas, Quiet())
            for given in (narrow_sdxl.conditioning(1), narrow_sdxl.conditioning(1, **SIZES))]  # fmt: skip
    assert (outs[0] - outs[1]).abs().max() > 1e-3


@pytest.mark.once
@pytest.mark.parametrize("methods", [("stam", "ffam"), ("norm-tune",), ("visual-adapter",)])
def test_tuning_as_on_diffusers(methods):
    recipe = TuneRecipe(steps=2, learning_rate=1e-3, queries="stam" in methods)
    losses = [tune(backend, value, clip(), narrow_sdxl.conditioning(1, **SIZES), recipe, progress=Quiet()).losses
              for backend, value in both(*methods)]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=RUN)


def test_lora_below_and_above_a_method():
    """A LoRA of ours on the host's weights and on diffusers', before and after STAM: the same picture."""
    (_, value), outs = both()[0], []
    name, (rows, columns) = next(iter(HERE.projections(value).items()))
    generator = torch.Generator().manual_seed(2)
    lora = {f"diffusion_model.{name}.lora_A.weight": torch.randn(2, columns, generator=generator) / 4,
            f"diffusion_model.{name}.lora_B.weight": torch.randn(rows, 2, generator=generator)}  # fmt: skip
    for backend, plain in both():
        for first in (True, False):
            value = backend.add_lora(plain, lora) if first else plain
            value = backend.attach(value, moved(build_on(backend, value, "stam", {})))
            value = value if first else backend.add_lora(value, lora)
            sigmas = backend.schedule(value).ddim_sigmas(2).float()
            outs.append(backend.sample(value, narrow_sdxl.conditioning(1), narrow_sdxl.conditioning(2), 4.0, clip() * 9,
                                       sigmas, Quiet()))  # fmt: skip
    for other in outs[1:]:
        assert_close(outs[0], other, RUN)


def test_the_real_file_is_found_by_its_keys_and_shapes():
    """SDXL base's own key names and shapes, without their values: the host takes it for SDXL, and its positions are
    five, of 2, 10, 10, 10 and 2 transformer blocks a layer."""
    config = comfy.supported_models.SDXL.unet_config
    full = {**network_config(config), "model_channels": 320, "num_head_channels": 64,
            "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048,
            "adm_in_channels": 2816}  # fmt: skip
    settings = comfy.supported_models.SDXL(full)
    settings.set_inference_dtype(torch.float16, None)
    with torch.device("meta"):
        built = comfy.model_base.SDXL(settings, device=torch.device("meta"))
    prefix = "model.diffusion_model."
    file = {prefix + key: value for key, value in built.diffusion_model.state_dict().items()}
    detected = comfy.model_detection.model_config_from_unet(file, prefix)
    assert type(detected) is comfy.supported_models.SDXL
    patcher = comfy.model_patcher.ModelPatcher(built, torch.device("meta"), torch.device("meta"))
    found = stages(HERE.sites(patcher))
    assert [len(stage) for stage in found] == [4, 20, 10, 30, 6]
    assert {site.channels for site in found[3]} == {1280} and {site.channels for site in found[4]} == {640}
