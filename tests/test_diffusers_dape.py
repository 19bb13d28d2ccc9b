"""DAPE on diffusers: the norms by their LDM names, Stable Diffusion 1.5's counts, and a model left without a trace."""

from __future__ import annotations

import copy

import pytest
import torch
from dape_stages import adapter_stage, norm_stage, run_stages
from shared import shared
from steadyedit.backends.diffusers import Denoiser, DiffusersModel
from steadyedit.backends.diffusers.norms import located_norms
from steadyedit.backends.diffusers.paths import locate
from steadyedit.methods.attachment import NormSite, named_tensors
from steadyedit.methods.dape.pipeline import run_stage
from steadyedit.methods.dape.positions import at_positions, stages
from steadyedit.methods.registry import build_on
from steadyedit.methods.tuning import TuneRecipe, apply_tuned
from tiny_editor import BACKEND, SIDE, normal, text, tiny
from tolerances import assert_close

QUICK = TuneRecipe(steps=2, learning_rate=1e-2, loss="huber", queries=False)
#: The tiny U-Net has one level: its stages are the way down, the middle and the way up.
PLACE, FRAMES = {"positions": [3]}, 3


@shared
def stable_diffusion() -> DiffusersModel:
    """SD1.5's U-Net, shapes only."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return DiffusersModel(UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8))


def small(dtype=torch.float32):
    return tiny(in_channels=4, dtype=dtype)


def predict(model, dtype=torch.float32):
    one, other = ([[c[0][0].to(dtype), {}]] for c in (text(1), text(2)))
    denoise = Denoiser(model, one, other, 7.5, frames=FRAMES)
    with torch.no_grad():
        return denoise(normal(3, FRAMES, 4, SIDE, SIDE).to(dtype), torch.full((FRAMES,), 3.0, dtype=dtype))


def both(model, seed: int | None = None, **config):
    """The MODEL with both attachments, at their start or with random weights."""
    for method, settings in (("norm-tune", {"kinds": ["resnet", "attention", "final"]}), ("visual-adapter", PLACE)):
        attachment = build_on(BACKEND, model, method, {**settings, **config})
        for number, tensor in enumerate(named_tensors(attachment).values() if seed is not None else ()):
            tensor.data = 0.3 * normal(seed + number, *tensor.shape).float()
        model = BACKEND.attach(model, attachment)
    return model


@pytest.mark.parametrize(
    ("kinds", "layers", "affine", "shares"),
    [(["resnet", "attention"], 108, 199_680, 99_840), (["resnet", "attention", "final"], 109, 200_320, 100_160)],
    ids=["published", "with the final norm"],
)
def test_the_counts_of_stable_diffusion(kinds, layers, affine, shares):
    attachment = build_on(BACKEND, stable_diffusion(), "norm-tune", {"kinds": kinds})
    sizes = {"gamma": 0, "beta": 0, "gamma0": 0}
    for name, tensor in named_tensors(attachment).items():
        sizes[name.rsplit(".", 1)[1]] += tensor.numel()
    assert len(attachment.norms) == layers
    assert sizes["gamma"] + sizes["beta"] == affine and sizes["gamma0"] == shares


@pytest.mark.parametrize("bottleneck", [64, 16])
def test_the_adapter_s_count_is_its_formula(bottleneck):
    attachment = build_on(BACKEND, stable_diffusion(), "visual-adapter", {"bottleneck": bottleneck})
    c, m, k = 1280, bottleneck, 5
    assert list(attachment.outputs) == [f"output_blocks/{i}/1/transformer_blocks/0/attn2" for i in (3, 4, 5)]
    assert sum(t.numel() for t in named_tensors(attachment).values()) == 3 * (2 * c * m + 4 * c + m * (k * k + 1))


def test_position_5_is_the_first_decoder_block_with_attention():
    unet = stable_diffusion().unet
    own = {module: name for name, module in unet.named_modules()}
    blocks = {located.site.path: own[located.block] for located in locate(unet)}
    sites = BACKEND.sites(stable_diffusion())
    assert {blocks[site.path].split(".attentions")[0] for site in at_positions(sites, [5])} == {"up_blocks.1"}
    parts = [[site.path.split(".transformer")[0] for site in stage] for stage in stages(sites)]
    assert parts == [
        ["input_blocks.1.1", "input_blocks.2.1"], ["input_blocks.4.1", "input_blocks.5.1"],
        ["input_blocks.7.1", "input_blocks.8.1"], ["middle_block.1"],
        *([f"output_blocks.{first + i}.1" for i in range(3)] for first in (3, 6, 9)),
    ]  # fmt: skip


def test_norms_have_the_names_of_the_checkpoint():
    found = {site.path: site for site in BACKEND.norms(stable_diffusion())}
    layers = {site.path: layer for site, layer in located_norms(stable_diffusion().unet)}
    unet = stable_diffusion().unet
    expected = {
        "input_blocks.1.0.in_layers.0": unet.down_blocks[0].resnets[0].norm1,
        "input_blocks.8.0.out_layers.0": unet.down_blocks[2].resnets[1].norm2,
        "input_blocks.4.1.norm": unet.down_blocks[1].attentions[0].norm,
        "input_blocks.10.0.in_layers.0": unet.down_blocks[3].resnets[0].norm1,
        "middle_block.0.in_layers.0": unet.mid_block.resnets[0].norm1,
        "middle_block.1.transformer_blocks.0.norm2": unet.mid_block.attentions[0].transformer_blocks[0].norm2,
        "middle_block.2.out_layers.0": unet.mid_block.resnets[1].norm2,
        "output_blocks.0.0.in_layers.0": unet.up_blocks[0].resnets[0].norm1,
        "output_blocks.11.1.transformer_blocks.0.norm3": unet.up_blocks[3].attentions[2].transformer_blocks[0].norm3,
        "out.0": unet.conv_norm_out,
    }
    assert all(layers[path] is layer for path, layer in expected.items())
    assert found["output_blocks.5.0.in_layers.0"] == NormSite("output_blocks.5.0.in_layers.0", "resnet", 1920, 32, 1e-5)
    assert found["input_blocks.1.1.norm"].eps == 1e-6 and found["out.0"].kind == "final"
    assert list(found)[-1] == "out.0" and len({path.split(".")[0] for path in found}) == 4


def test_start_and_strength_0_are_the_plain_model_to_the_bit():
    model = small()
    before, weights = predict(model), copy.deepcopy(model.unet.state_dict())
    assert predict(both(model)).equal(before)
    random = both(model, seed=20)
    assert (predict(random) - before).abs().max() > 1e-2
    assert predict(both(model, seed=20, strength=0.0)).equal(before)
    assert predict(model).equal(before)
    assert all(weights[name].equal(value) for name, value in model.unet.state_dict().items())
    assert not any("forward" in module.__dict__ for module in model.unet.modules())
    assert BACKEND.fingerprint(random) == BACKEND.fingerprint(model)


def test_it_is_the_model_with_those_weights_in_its_layers():
    """gamma and beta in the layers themselves give what the attachment gives; gamma0 apart."""
    model = small(torch.float64)
    attachment = build_on(BACKEND, model, "norm-tune", {"gamma0": "none"})
    for number, tensor in enumerate(named_tensors(attachment).values()):
        tensor.data = 0.3 * normal(40 + number, *tensor.shape)
    unet = copy.deepcopy(model.unet)
    with torch.no_grad():
        for site, layer in located_norms(unet):
            if site.key in attachment.norms:
                layer.weight += attachment.norms[site.key].gamma
                layer.bias += attachment.norms[site.key].beta
    expected = predict(DiffusersModel(unet), torch.float64)
    assert_close(predict(BACKEND.attach(model, attachment), torch.float64), expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_road_that_trains_has_the_gradients_of_sampling_s(checkpointing):
    """Checkpointing or not: the same gradients, for everything that trains."""
    model = both(small(torch.float64), seed=60)
    for tree in (tree for a in BACKEND.attachments(model) for tree in a.trees):
        tree.double()
    found = []
    for recompute in (False, checkpointing):
        with BACKEND.training(model, BACKEND.attachments(model), text(1), FRAMES, False, recompute) as view:
            noise = view.predict_noise(normal(3, FRAMES, 4, SIDE, SIDE), torch.tensor(300))
            gradients = torch.autograd.grad(noise.square().sum(), list(view.parameters.values()))
            found.append(dict(zip(view.parameters, gradients, strict=True)))
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert_close(found[1][name], gradient, name=name)


def test_two_stages_over_tune_a_video_and_weights_of_another_architecture():
    model = small()
    plain = copy.deepcopy(model.unet.state_dict())
    base = model
    for method in ("sparse-causal", "temporal-attention"):
        base = BACKEND.attach(base, build_on(BACKEND, base, method, {}))
    samples, condition = normal(7, FRAMES, 4, SIDE, SIDE).float(), [[text(1)[0][0].float(), {}]]
    first, second = run_stages(BACKEND, base, samples, condition, [norm_stage(QUICK), adapter_stage(QUICK, **PLACE)],
                               preview_every=0)  # fmt: skip
    assert {a.method for a in BACKEND.attachments(second.model)} == {
        "sparse-causal", "temporal-attention", "norm-tune", "visual-adapter"}  # fmt: skip
    assert all(plain[name].equal(value) for name, value in model.unet.state_dict().items())
    assert predict(apply_tuned(BACKEND, first.model, second.weights)).equal(predict(second.model))
    assert not predict(second.model).equal(predict(first.model))
    with pytest.raises(ValueError, match="^model: these weights were tuned on a model with other layers; use one of"):
        apply_tuned(BACKEND, stable_shapes(), second.weights)


def stable_shapes() -> DiffusersModel:
    """A U-Net with one level more than the tiny one."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(16, 16), layers_per_block=1, cross_attention_dim=12, attention_head_dim=2,
        norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    return DiffusersModel(unet)


def test_a_norm_that_is_not_there_is_named():
    wide = build_on(BACKEND, stable_shapes(), "norm-tune", {})
    with pytest.raises(ValueError, match="^model: norm-tune names the norm layer .*, which this U-Net has not"):
        BACKEND.attach(small(), wide)


def test_a_stage_over_a_lora_keeps_it():
    from steadyedit.methods.lora import new_lora

    model = small()
    lora = {key: normal(9, *value.shape).float() for key, value in new_lora(BACKEND.projections(model), 2, 0).items()}
    below = BACKEND.add_lora(model, lora)
    samples, condition = normal(7, FRAMES, 4, SIDE, SIDE).float(), [[text(1)[0][0].float(), {}]]
    tuned = run_stage(BACKEND, below, samples, condition, norm_stage(QUICK), preview_every=0)
    assert tuned.model.query_deltas.keys() == below.query_deltas.keys()
    assert tuned.weights.metadata["base"] == BACKEND.fingerprint(below)
