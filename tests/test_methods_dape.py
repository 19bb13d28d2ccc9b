"""DAPE's two stages on the test double: what trains, on top of what, and where the weights go."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from dape_stages import adapter_stage, joint_stage, norm_stage, run_stages
from double import RecordedProgress, double_model
from doubles import CONFIGS, FRAMES, HEIGHT, WIDTH, clip, condition, predict, randomised, with_methods
from steadyedit.methods.attachment import FrameLayout, NormSite, named_tensors
from steadyedit.methods.dape import AdjustableNorm, VisualAdapter, build_norm_tune, build_visual_adapter
from steadyedit.methods.dape.pipeline import run_stage
from steadyedit.methods.dape.positions import stages
from steadyedit.methods.dape.recipes import (
    ADAPTER_TUNING,
    JOINT_TUNING,
    NORM_TUNING,
)  # fmt: skip
from steadyedit.methods.lora import new_lora
from steadyedit.methods.registry import build_on
from steadyedit.methods.tuning import TuneRecipe, apply_tuned, load_tuned, save_tuned, tune
from tolerances import assert_close

QUICK = TuneRecipe(steps=3, learning_rate=1e-3, loss="huber", queries=False)
BOTH = ("norm-tune", "visual-adapter")
PLACE = CONFIGS["visual-adapter"]
STAGES = [norm_stage(QUICK), adapter_stage(QUICK, **PLACE)]
BLOCKS = ("input_blocks.1.1", "input_blocks.4.1", "middle_block.1", "output_blocks.3.1")
LAST = "output_blocks.3.1.transformer_blocks.0.attn2"

#: What each stage may change, and nothing else.
NORMS = ["input_blocks.1.0.in_layers.0"] + [
    f"{block}.{name}" for block in BLOCKS for name in ("norm", *(f"transformer_blocks.0.norm{i}" for i in (1, 2, 3)))
]
STAGE_1 = {f"norm-tune.{path}.{name}" for path in NORMS for name in ("gamma", "beta", "gamma0")}
STAGE_2 = {f"visual-adapter.{LAST}.{name}" for name in
           ("norm_weight", "norm_bias", "w0", "down", "down_bias", "conv", "up", "up_bias")}  # fmt: skip


def everything(backend, model):
    """All tensors of a MODEL, by where they are."""
    found = {f"unet.{name}": value.clone() for name, value in model.unet.state_dict().items()}
    for attachment in backend.attachments(model):
        found |= {name: value.detach().clone() for name, value in named_tensors(attachment).items()}
    return found


def changed(before, after):
    return {name for name, value in after.items() if name not in before or not before[name].equal(value)}


@pytest.mark.parametrize("base", [(), ("stam", "ffam"), ("temporal-attention", "sparse-causal"), ("simda",)], ids=str)
def test_each_stage_changes_what_it_names_and_nothing_else(base):
    backend, _, model = with_methods(*base)
    start = everything(backend, model)
    first, second = run_stages(backend, model, clip(), condition(), STAGES, preview_every=0)
    after_first, after_second = everything(backend, first.model), everything(backend, second.model)
    assert changed(start, after_first) == set(first.weights.tensors) == STAGE_1
    adapter = changed(after_first, after_second)
    assert adapter == set(second.weights.tensors) == STAGE_2
    assert changed(start, everything(backend, model)) == set() and len(backend.attachments(model)) == len(base)
    names = [entry["method"] for entry in second.weights.metadata["methods"]]
    assert names == ["visual-adapter"] and second.weights.metadata["recipe"]["loss"] == "huber"
    assert [a.method for a in backend.attachments(second.model)] == [*base, *BOTH]
    assert not predict(second.model, clip(), condition()).equal(predict(model, clip(), condition()))


def test_one_stage_trains_both_at_once():
    backend, model, _ = with_methods()
    tuned = run_stage(backend, model, clip(), condition(), joint_stage(QUICK, **PLACE), preview_every=0)
    assert set(tuned.weights.tensors) == STAGE_1 | STAGE_2
    one = apply_tuned(backend, model, tuned.weights, only=("norm-tune",))
    assert [a.method for a in backend.attachments(one)] == ["norm-tune"]
    both = apply_tuned(backend, one, tuned.weights, only=("visual-adapter",))
    assert predict(both, clip(), condition()).equal(predict(tuned.model, clip(), condition()))
    with pytest.raises(ValueError, match="^weights: hold norm-tune, visual-adapter, but no stam; choose another"):
        apply_tuned(backend, model, tuned.weights, only=("stam",))


def test_the_published_recipes():
    assert (NORM_TUNING.steps, NORM_TUNING.learning_rate) == (400, 5e-5)
    assert (ADAPTER_TUNING.steps, ADAPTER_TUNING.learning_rate) == (70, 1e-5)
    assert JOINT_TUNING.steps == 470
    assert all((r.loss, r.delta, r.queries) == ("huber", 1.0, False) for r in (NORM_TUNING, ADAPTER_TUNING))


@pytest.mark.parametrize("methods", [("norm-tune",), ("visual-adapter",), BOTH], ids=str)
def test_strength_0_is_the_plain_model_to_the_bit(methods):
    backend, model, attached = with_methods("stam", "ffam", *methods)
    attached = randomised(attached)
    plain = replace(attached, attached=replace(attached.attached, attachments=attached.attached.attachments[:2]))
    off = attached
    for attachment in attached.attached.attachments[2:]:
        quiet = build_on(backend, model, attachment.method, {**attachment.config, "strength": 0.0})
        for name, tensor in named_tensors(quiet).items():
            tensor.data = named_tensors(attachment)[name].data
        off = backend.attach(off, quiet)
    assert predict(off, clip(), condition()).equal(predict(plain, clip(), condition()))
    assert not predict(attached, clip(), condition()).equal(predict(plain, clip(), condition()))


def test_strength_scales_all_differences():
    torch.manual_seed(0)
    z, weight, bias = torch.randn(2, 6, 5), torch.randn(6), torch.randn(6)
    half, whole = AdjustableNorm(6, strength=0.5), AdjustableNorm(6)
    for own, other in zip(half.parameters(), whole.parameters(), strict=True):
        own.data = torch.randn(6)
        other.data = own.data / 2
    assert_close(half(z, weight, bias, 3, 1e-5), whole(z, weight, bias, 3, 1e-5).double())


def test_the_adapter_is_equation_3():
    torch.manual_seed(0)
    adapter, layout = VisualAdapter(6, bottleneck=4, kernel=3).double(), FrameLayout(1, 2, 3, 5)
    for parameter in adapter.parameters():
        parameter.data = torch.randn_like(parameter)
    z = torch.randn(2, 15, 6, dtype=torch.float64)
    a = adapter
    mean, var = z.mean(-1, keepdim=True), z.var(-1, correction=0, keepdim=True)
    normed = (z - mean) / (var + 1e-5).sqrt() * a.norm_weight + a.norm_bias + a.w0 * z
    d = normed @ a.down.T + a.down_bias
    padded = torch.nn.functional.pad(d.reshape(2, 3, 5, 4), (0, 0, 1, 1, 1, 1))
    conv = sum(padded[:, i : i + 3, j : j + 5] * a.conv[:, 0, i, j] for i in range(3) for j in range(3))
    hidden = d + conv.reshape(d.shape)
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    assert_close(adapter(z, layout), z + hidden @ a.up.T + a.up_bias)
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 6 * 4 + 4 * 6 + 4 * (3 * 3 + 1)


@pytest.mark.parametrize(("gamma0", "count"), [("channel", 16), ("scalar", 1), ("none", None)])
def test_gamma0_per_channel_one_for_all_or_none(gamma0, count):
    backend, model, attached = with_methods("norm-tune", norm_tune={"kinds": ["final"], "gamma0": gamma0})
    sizes = {name: len(value) for name, value in named_tensors(backend.attachments(attached)[0]).items()}
    expected = {"norm-tune.out.0.gamma": 16, "norm-tune.out.0.beta": 16}
    assert sizes == (expected | {"norm-tune.out.0.gamma0": count} if count else expected)


@pytest.mark.parametrize("placement", ["attn1", "attn2", "ff"])
def test_every_placement_and_position(placement):
    backend, model, attached = with_methods(
        "visual-adapter", visual_adapter={"positions": [1, 3], "placement": placement}
    )
    tree = backend.attachments(attached)[0].outputs
    assert list(tree) == [f"{b.replace('.', '/')}/transformer_blocks/0/{placement}" for b in (BLOCKS[0], BLOCKS[2])]
    assert not predict(randomised(attached), clip(), condition()).equal(predict(model, clip(), condition()))


def test_weights_move_between_bases_with_a_warning_and_to_no_other_architecture(tmp_path, caplog):
    backend, model, over = with_methods("stam", "ffam")
    tuned = run_stage(backend, model, clip(), condition(), STAGES[0], preview_every=0)
    save_tuned(tmp_path / "norms.safetensors", tuned.weights)
    weights = load_tuned(tmp_path / "norms.safetensors")
    again = apply_tuned(backend, model, weights)
    assert predict(again, clip(), condition()).equal(predict(tuned.model, clip(), condition()))
    assert not caplog.records
    moved = apply_tuned(backend, over, weights)
    assert [a.method for a in backend.attachments(moved)] == ["stam", "ffam", "norm-tune"]
    assert "tuned on another base" in caplog.text
    other = replace(weights, metadata={**weights.metadata, "architecture": "another"})
    with pytest.raises(ValueError, match="^model: these weights were tuned on a model with other layers; use one"):
        apply_tuned(backend, model, other)
    off = apply_tuned(backend, over, weights, strength=0.0)
    assert predict(off, clip(), condition()).equal(predict(over, clip(), condition()))
    ei2 = tune(backend, over, clip(), condition(), replace(QUICK, queries=True), preview_every=0)
    with pytest.raises(ValueError, match="^weights: stam has no strength; apply these weights as they are"):
        apply_tuned(backend, model, ei2.weights, strength=0.5)


def test_a_lora_and_the_base_s_name_survive():
    backend, model, attached = with_methods(*BOTH)
    lora = {key: torch.randn_like(value) for key, value in new_lora(backend.projections(model), 2, seed=0).items()}
    below = backend.add_lora(model, lora)
    assert backend.fingerprint(attached) == backend.fingerprint(model) != backend.fingerprint(below)
    tuned = run_stages(backend, below, clip(), condition(), STAGES, preview_every=0)[-1].model
    assert tuned.attached.deltas.keys() == below.attached.deltas.keys()
    assert all(tuned.attached.deltas[name].equal(value) for name, value in below.attached.deltas.items())


def test_with_gather_swap_the_frames_still_sample():
    backend, _, attached = with_methods("norm-tune", "visual-adapter", "gather-swap")
    attached = randomised(attached)
    backend2, model, _ = with_methods()
    swap = backend.attachments(attached)[2]
    sigmas = model.schedule.ddim_sigmas(2)
    noise = 14 * clip(frames=5)
    outs = [backend.sample(m, condition(), condition(1), 3.0, noise, sigmas, RecordedProgress())
            for m in (attached, backend2.attach(model, swap))]  # fmt: skip
    assert torch.isfinite(outs[0]).all() and not outs[0].equal(outs[1])


def test_loss_falls_in_both_stages():
    """Against the losses of the same noise without any training."""
    recipe = TuneRecipe(steps=40, learning_rate=2e-2, loss="huber", queries=False)
    backend, model, _ = with_methods()

    def last(stage):
        return sum(run_stage(backend, model, clip(), condition(), stage, preview_every=0).losses[-15:])

    untrained = last(norm_stage(replace(recipe, learning_rate=0.0)))
    assert last(norm_stage(recipe)) < 0.97 * untrained
    assert last(adapter_stage(recipe, **PLACE)) < 0.97 * untrained


def test_a_resumed_stage_equals_the_uninterrupted_one(tmp_path):
    backend, _, model = with_methods("stam", "ffam")
    model = run_stage(backend, model, clip(), condition(), STAGES[0], preview_every=0).model
    stage = adapter_stage(replace(QUICK, steps=5, checkpoint_every=2), **PLACE)
    whole = run_stage(backend, model, clip(), condition(), stage, preview_every=0)
    with pytest.raises(KeyboardInterrupt):
        run_stage(backend, model, clip(), condition(), stage, cache=tmp_path, progress=RecordedProgress(3))
    resumed = run_stage(backend, model, clip(), condition(), stage, cache=tmp_path, preview_every=0)
    assert resumed.losses == whole.losses and not resumed.from_cache
    assert all(resumed.weights.tensors[name].equal(value) for name, value in whole.weights.tensors.items())
    assert run_stage(backend, model, clip(), condition(), stage, cache=tmp_path, preview_every=0).from_cache
    # What lies below is part of the question.
    other = backend.attach(double_model(), build_on(backend, double_model(), "stam", {}))
    assert not run_stage(backend, other, clip(), condition(), stage, cache=tmp_path, preview_every=0).from_cache


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": []}, "^kinds: expected some of resnet, attention, final, but got none"),
        ({"kinds": ["resnet", "batch"]}, "^kinds: expected some of resnet, attention, final, but got resnet, batch"),
        ({"gamma0": "maybe"}, "^gamma0: expected one of channel, scalar, none, but got 'maybe'"),
    ],
)
def test_norms_that_there_are_not(change, message):
    with pytest.raises(ValueError, match=message):
        build_norm_tune([NormSite("out.0", "final", 8, 4, 1e-5)], **change)
    with pytest.raises(ValueError, match="^model: it has no norm layer of the kinds resnet; choose others"):
        build_norm_tune([NormSite("out.0", "final", 8, 4, 1e-5)], kinds=["resnet"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": (5,)}, "^positions: this U-Net has the attention stages 1 to 4, but got 5"),
        ({"positions": (0,)}, "^positions: this U-Net has the attention stages 1 to 4, but got 0"),
        ({"positions": ()}, "^positions: .* but got none"),
        ({"positions": (1,), "kernel": 4}, "^kernel: expected an odd number, but got 4"),
        ({"positions": (1,), "bottleneck": 0}, "^bottleneck: expected at least 1, but got 0"),
        ({"positions": (1,), "placement": "attn3"}, "^placement: expected one of attn1, attn2, ff, but got 'attn3'"),
    ],
)
def test_adapters_that_there_are_not(change, message):
    backend, model, _ = with_methods()
    with pytest.raises(ValueError, match=message):
        build_visual_adapter(backend.sites(model), **change)


def test_a_training_that_cannot_be():
    backend, model, attached = with_methods("norm-tune", norm_tune={"strength": 0.0})
    with pytest.raises(ValueError, match="^model: norm-tune has strength 0, so that nothing of it can be trained"):
        tune(backend, attached, clip(), condition(), QUICK, only=("norm-tune",))
    with pytest.raises(ValueError, match="^model: stam is to be trained, but is not attached; attach it first"):
        tune(backend, model, clip(), condition(), QUICK, only=("stam",))
    with pytest.raises(ValueError, match="^loss: expected one of mse, huber, but got 'l1'"):
        tune(backend, attached, clip(), condition(), replace(QUICK, loss="l1"))


def test_stages_are_told_by_part_and_map():
    backend, model, _ = with_methods()
    assert [[site.path.split(".transformer")[0] for site in stage] for stage in stages(backend.sites(model))] == [
        [block] for block in BLOCKS
    ]


def test_the_adapter_reads_any_map_and_any_number_of_frames():
    adapter = VisualAdapter(4, bottleneck=3)
    for parameter in adapter.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    z = torch.randn(FRAMES, HEIGHT * WIDTH, 4, generator=torch.Generator().manual_seed(1))
    together = adapter(z, FrameLayout(1, FRAMES, HEIGHT, WIDTH))
    apart = [adapter(frame[None], FrameLayout(1, 1, HEIGHT, WIDTH)) for frame in z]
    assert_close(together, torch.cat(apart).double())
    assert copy.deepcopy(adapter)(z, FrameLayout(1, FRAMES, HEIGHT, WIDTH)).equal(together)
