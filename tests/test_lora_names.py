"""A LoRA under names that diffusers loads with its own loader, all of it, at its full strength."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from shared import shared
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.lora import factors, new_lora
from steadyedit.methods.lora_names import diffusers_name, for_diffusers
from steadyedit.standalone import host_api
from tolerances import assert_close

BACKEND = DiffusersBackend()


@shared
def unet(layers):
    """Two sizes of a small U-Net with attention below, in the middle and above."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=layers, cross_attention_dim=16, norm_num_groups=8,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2).eval()  # fmt: skip


def lora_of(model):
    generator = torch.Generator().manual_seed(2)
    lora = new_lora(BACKEND.projections(model), 3, seed=1)
    return {key: value + 0.2 * torch.randn(value.shape, generator=generator) for key, value in lora.items()}


def predicted(network):
    generator = torch.Generator().manual_seed(4)
    noisy, text = (torch.randn(*shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 5, 16)))
    with torch.no_grad():
        return network(noisy, torch.tensor(400), text).sample


@pytest.mark.parametrize("layers", [1, 2])
def test_diffusers_own_loader_takes_all_of_it(layers):
    import copy

    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    network = copy.deepcopy(unet(layers))
    model = DiffusersModel(network)
    lora = lora_of(model)
    saved = for_diffusers(lora)
    assert len(saved) == 3 * len(factors(lora))
    found, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(saved), unet_config=network.config)
    assert len(found) == len(lora)
    by_hand = copy.deepcopy(network)
    for name, (down, up) in factors(lora).items():
        by_hand.get_submodule(diffusers_name(name, layers)).weight.data += up @ down
    network.load_lora_adapter(found, network_alphas=alphas, prefix="unet")
    assert_close(predicted(network), predicted(by_hand), torch.float32)
    assert (predicted(by_hand) - predicted(unet(layers))).abs().max() > 0.01


@pytest.mark.parametrize(("ldm", "diffusers"), [
    ("input_blocks.1.1.transformer_blocks.0.attn1.to_q", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),
    ("input_blocks.8.1.transformer_blocks.0.attn2.to_k", "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k"),
    ("middle_block.1.transformer_blocks.0.attn1.to_v", "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"),
    ("output_blocks.3.1.transformer_blocks.0.attn1.to_out.0",
     "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"),
    ("output_blocks.11.1.proj_in", "up_blocks.3.attentions.2.proj_in"),
    # Stable Diffusion XL's.
    ("output_blocks.2.1.transformer_blocks.9.attn2.to_v", "up_blocks.0.attentions.2.transformer_blocks.9.attn2.to_v"),
])  # fmt: skip
def test_stable_diffusions_names(ldm, diffusers):
    assert diffusers_name(ldm) == diffusers


def test_what_diffusers_has_no_place_for_is_told():
    pair = {"lora_A.weight": torch.ones(2, 4), "lora_B.weight": torch.ones(4, 2)}
    with pytest.raises(ValueError, match="^lora: blocks.0.self_attn.q is no layer in a transformer of Stable"):
        for_diffusers({f"diffusion_model.blocks.0.self_attn.q.{end}": value for end, value in pair.items()})
    with pytest.raises(ValueError, match="^lora: holds 1 differences of norm layers"):
        for_diffusers({"diffusion_model.input_blocks.1.0.in_layers.0.diff": torch.ones(4)})


@pytest.mark.parametrize("names", ["ComfyUI and diffusers", "ComfyUI"])
def test_the_node_writes_into_the_loras_folder(names, tmp_path, monkeypatch):
    from steadyedit import backends
    from steadyedit.standalone.run import known_nodes

    monkeypatch.setattr(type(backends.manager()), "folders", lambda self, name: [tmp_path / name])
    lora = lora_of(DiffusersModel(unet(1)))
    with host_api.installed():
        known_nodes()["SteadyEditSaveLoRA"].execute(lora, "films/mine", names)
    found = load_file(tmp_path / "loras" / "films" / "mine_00001.safetensors")
    assert found.keys() == (lora.keys() if names == "ComfyUI" else for_diffusers(lora).keys())
