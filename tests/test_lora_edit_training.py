"""LoRA-Edit's training on diffusers' Wan transformer: peft's own layers, resuming, stages, memory, bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from steadyedit.backends.diffusers.video import DiffusersVideoBackend, DiffusersVideoModel, velocity, with_loras
from steadyedit.diffusion.flow import RectifiedFlow
from steadyedit.methods.lora import factors, new_lora
from steadyedit.methods.lora_edit import memory
from steadyedit.methods.lora_edit.choices import HUNYUAN, NOISE_RANGES, SHOWN_STEPS
from steadyedit.methods.lora_edit.memory import MemoryPlan
from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe, targeted
from steadyedit.methods.lora_edit.samples import Sample, draw_sample
from steadyedit.methods.lora_edit.shown_clip import sampled, strip
from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora
from steadyedit.methods.preview import rough_picture
from steadyedit.methods.tuning import TuneRecipe
from tolerances import FLOAT32_STEP, FLOAT64_CHAIN, NETWORK

BACKEND = DiffusersVideoBackend()
ANY = MemoryPlan(0, 0, 0, 0)
QUIET = VideoSettings(preview_every=0)


class Quiet:
    def __init__(self, cancel_after=None):
        self.left, self.values = cancel_after, []

    def update(self, value, preview=None, **numbers):
        self.values.append(value)
        if value == self.left:
            raise KeyboardInterrupt


def transformer(seed=0):
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36, out_channels=16,
        text_dim=20, freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return DiffusersVideoModel(transformer(), (0.1,) * 16, (1.5,) * 16)


def sample(seed=1, frames=2, repeats=1, family=None):
    generator = torch.Generator().manual_seed(seed)
    random = [torch.randn(1, channels, frames, 4, 4, generator=generator) for channels in (16, 16, 4)]
    extra = {"concat_latent_image": random[1], "concat_mask": (random[2] > 0).float()}
    kind = {"family": family} if family else {}
    return Sample(random[0], [[torch.randn(1, 5, 20, generator=generator), extra]], repeats, f"seed {seed}", **kind)


def recipe(steps=4, **changes):
    training = TuneRecipe(steps=steps, learning_rate=changes.pop("learning_rate", 1e-3), betas=(0.9, 0.99),
                          checkpoint_every=2, queries=False)  # fmt: skip
    return MaskLoRARecipe(training, rank=2, **changes)


def moving(model, rank=2):
    shapes = BACKEND.video_layers(model)
    lora = new_lora({name: shapes[name] for name in targeted(shapes, "attention and feed-forward")}, rank, 0)
    generator = torch.Generator().manual_seed(4)
    return {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in lora.items()}


def test_loss_and_gradients_are_those_of_pefts_layers(model):
    """The same LoRA on the same batch, in float64 where diffusers computes in it."""
    from peft import LoraConfig, inject_adapter_in_model
    from steadyedit.toyworld.models.wan import to_diffusers

    wide = DiffusersVideoModel(copy.deepcopy(model.transformer).double(), model.mean, model.std)
    found, lora, sigma = sample(), moving(model), torch.tensor(0.4)
    clean = BACKEND.to_model_space(wide, found.latent.double())
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9)).double()
    flow = RectifiedFlow()
    noisy, target = flow.add_noise(clean, noise, sigma.double()), flow.target(clean, noise)
    with BACKEND.video_training(wide, [found], lora, ANY, "auto") as view:
        loss = (view.predict_velocity(noisy, sigma, 0) - target).square().mean()
        loss.backward()
        got = {key: p.grad.clone() for key, p in view.parameters.items()}

    theirs = copy.deepcopy(wide.transformer)
    names = {name: next(iter(to_diffusers({f"{name}.weight": 0}))).removesuffix(".weight") for name in factors(lora)}
    config = LoraConfig(r=2, lora_alpha=2, target_modules=[f"{name}" for name in names.values()])
    theirs = inject_adapter_in_model(config, theirs)
    with torch.no_grad():
        for name, (down, up) in factors(lora).items():
            layer = theirs.get_submodule(names[name])
            layer.lora_A["default"].weight.copy_(down)
            layer.lora_B["default"].weight.copy_(up)
    theirs.double()
    other = DiffusersVideoModel(theirs, model.mean, model.std)
    expected = (velocity(other, noisy, sigma, found.conditioning) - target).square().mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=FLOAT64_CHAIN)
    for name in names:
        layer = theirs.get_submodule(names[name])
        for part, grad in (("A", layer.lora_A["default"].weight.grad), ("B", layer.lora_B["default"].weight.grad)):
            ours = got[f"diffusion_model.{name}.lora_{part}.weight"].double()
            assert torch.allclose(ours, grad, rtol=NETWORK, atol=FLOAT64_CHAIN)


def test_training_lowers_the_loss_and_leaves_the_model(model):
    before = {key: value.clone() for key, value in model.transformer.state_dict().items()}
    asked = [p.requires_grad for p in model.transformer.parameters()]
    tuned = train_mask_lora(BACKEND, model, [sample()], recipe(20, learning_rate=1e-2), QUIET, progress=Quiet())
    after = model.transformer.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert asked == [p.requires_grad for p in model.transformer.parameters()]
    assert not any("forward" in module.__dict__ for module in model.transformer.modules())
    noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    assert error(tuned.model, noise, torch.tensor(0.5)) < error(model, noise, torch.tensor(0.5))
    assert len(tuned.loss_map["loss"]) == 20


@torch.no_grad()
def error(model, noise, sigma):
    found = sample()
    clean = BACKEND.to_model_space(model, found.latent)
    flow = RectifiedFlow()
    with with_loras(model, model.loras):
        predicted = velocity(model, flow.add_noise(clean, noise, sigma), sigma, found.conditioning)
    return (predicted - flow.target(clean, noise)).square().mean().item()


def test_resumed_equals_uninterrupted_and_nothing_trains_twice(model, tmp_path):
    samples = [sample(1), sample(2, frames=1, repeats=3)]
    whole = train_mask_lora(BACKEND, model, samples, recipe(), QUIET, progress=Quiet())
    with pytest.raises(KeyboardInterrupt):
        train_mask_lora(BACKEND, model, samples, recipe(), QUIET, cache=tmp_path, progress=Quiet(3))
    rest = Quiet()
    resumed = train_mask_lora(BACKEND, model, samples, recipe(), QUIET, cache=tmp_path, progress=rest)
    assert rest.values == [4]
    assert resumed.losses == whole.losses
    assert all(torch.equal(resumed.weights.tensors[k], whole.weights.tensors[k]) for k in whole.weights.tensors)
    unused = Quiet()
    again = train_mask_lora(BACKEND, model, samples, recipe(), QUIET, cache=tmp_path, progress=unused)
    assert again.from_cache and unused.values == [] and again.losses == whole.losses
    other = [sample(1), sample(2, frames=1, repeats=4)]
    assert not train_mask_lora(BACKEND, model, other, recipe(), QUIET, cache=tmp_path, progress=Quiet()).from_cache


def test_stage_two_goes_on_from_an_earlier_lora(model):
    first = train_mask_lora(BACKEND, model, [sample()], recipe(2), QUIET, progress=Quiet())
    start = dict(first.weights.tensors)
    none = train_mask_lora(BACKEND, model, [sample(2)], recipe(1, learning_rate=1e-12), QUIET, start=start,
                           progress=Quiet())  # fmt: skip
    assert all(torch.allclose(none.weights.tensors[key], start[key], atol=FLOAT64_CHAIN) for key in start)
    name = next(iter(factors(start)))
    halved = {**start, f"diffusion_model.{name}.alpha": torch.tensor(1.0)}
    scaled = train_mask_lora(BACKEND, model, [sample(2)], recipe(1, learning_rate=1e-12), QUIET, start=halved,
                             progress=Quiet())  # fmt: skip
    key = f"diffusion_model.{name}.lora_B.weight"
    assert torch.allclose(scaled.weights.tensors[key], start[key] / 2, atol=FLOAT64_CHAIN)
    with pytest.raises(ValueError, match="lora: has .* rank 2, but the recipe trains .* of rank 3"):
        train_mask_lora(BACKEND, model, [sample()], MaskLoRARecipe(rank=3), QUIET, start=start)


def test_a_lora_that_is_on_the_model_is_not_trained_a_second_time(model):
    """Stage 2 with the MODEL and the LORA of stage 1: it would count twice."""
    first = train_mask_lora(BACKEND, model, [sample()], recipe(2), QUIET, progress=Quiet())
    start = dict(first.weights.tensors)
    for given in (start, {key: value.bfloat16() for key, value in start.items()}):
        with pytest.raises(ValueError, match="lora: is on the model's weights already, where it would count twice"):
            train_mask_lora(BACKEND, first.model, [sample(2)], recipe(1), QUIET, start=given, progress=Quiet())
    other = train_mask_lora(BACKEND, model, [sample(5)], recipe(2, learning_rate=1e-2), QUIET, progress=Quiet())
    train_mask_lora(BACKEND, other.model, [sample(2)], recipe(1), QUIET, start=start, progress=Quiet())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(model, tmp_path):
    samples, kept = [sample()], []

    class Breaks(Quiet):
        def update(self, value, preview=None, **numbers):
            if value == 3:
                kept.extend((path, path.read_bytes()) for path in tmp_path.glob("*.checkpoint"))
                samples[0].conditioning[0][0].fill_(math.nan)

    with pytest.raises(FloatingPointError, match="training: the loss is nan at step 4"):
        train_mask_lora(BACKEND, model, samples, recipe(6), QUIET, cache=tmp_path, progress=Breaks())
    ((path, content),) = kept
    assert path.read_bytes() == content


@pytest.mark.parametrize("times", [1, 2])
def test_memory_that_runs_out_is_tried_again_with_less_of_the_model_on_the_device(model, monkeypatch, caplog, times):
    whole = train_mask_lora(BACKEND, model, [sample()], recipe(), QUIET, progress=Quiet())
    opened, opening = [], DiffusersVideoBackend.video_training

    def recorded(self, model, samples, lora, planned, precision):
        opened.append(planned.kept_weights)
        return opening(self, model, samples, lora, planned, precision)

    class Full(Quiet):
        failures = times

        def update(self, value, preview=None, **numbers):
            if value == 1 + len(opened) and self.failures:
                self.failures -= 1
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(DiffusersVideoBackend, "video_training", recorded)
    settings = VideoSettings(preview_every=0, blocks_kept=2)
    if times == 1:
        again = train_mask_lora(BACKEND, model, [sample()], recipe(), settings, progress=Full())
        assert again.losses == whole.losses and "no block of the model kept on the device" in caplog.text
    else:
        with pytest.raises(MemoryError, match="mask-aware LoRA: memory ran out, also with no block of the model kept "
                                              "on the device; cut the clip into shorter ones"):  # fmt: skip
            train_mask_lora(BACKEND, model, [sample()], recipe(6), settings, progress=Full())
    assert len(opened) == 2 and opened[1] < opened[0], "the second time no block stays on the device"


def test_an_epoch_holds_every_sample_as_often_as_it_repeats():
    samples = [sample(1), sample(2, repeats=9), sample(3, repeats=9)]
    numbers = [draw_sample(samples, step, 5) for step in range(38)]
    for epoch in (numbers[:19], numbers[19:]):
        assert [epoch.count(i) for i in range(3)] == [1, 9, 9]
    assert numbers[:19] != numbers[19:]


def test_noise_levels_are_uniform_in_their_range():
    generator = torch.Generator().manual_seed(0)
    for low, high in NOISE_RANGES.values():
        drawn_sigmas = RectifiedFlow(low, high).draw((4000,), generator)
        assert low <= drawn_sigmas.min() and drawn_sigmas.max() <= high
        assert drawn_sigmas.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


def test_the_flow_is_a_straight_line():
    clean, noise = torch.randn(2, 1, 3, 4, 4), torch.randn(2, 1, 3, 4, 4)
    flow, sigma = RectifiedFlow(), torch.tensor([0.25, 1.0])
    noisy = flow.add_noise(clean, noise, sigma)
    assert torch.allclose(noisy[0], 0.75 * clean[0] + 0.25 * noise[0])
    assert torch.allclose(flow.remove_noise(noisy, flow.target(clean, noise), sigma), clean, atol=FLOAT32_STEP)


def test_what_will_not_fit_is_refused_with_numbers_before_it_begins(model, monkeypatch):
    monkeypatch.setattr(BACKEND.__class__, "video_room", lambda self, model: (2**16, "a small card"))
    with pytest.raises(MemoryError) as told:
        train_mask_lora(BACKEND, model, [sample(frames=9)], recipe(), QUIET)
    message = str(told.value)
    assert message.startswith("samples: training on 33 frames of 32x32 needs") and "a small card has 0.0 GiB" in message


def test_the_frames_that_would_fit_are_named():
    """A 14B image-to-video model in fp8 at 832x480, as the paper uses it."""
    size = memory.NetworkSize(5120, 13824, 128, 40, memory.wan_moments(40, True), 2, 16 * 2**30, 0.37 * 2**30,
                              5120 * 13824, stored_itemsize=1, context_tokens=769)  # fmt: skip
    latent = (1, 16, 13, 60, 104)
    planned = memory.plan(size, latent, 16, 76_000_000)
    assert 12 < planned.needed / 2**30 < 14
    memory.check(planned, size, latent, 24 * 2**30, "24 GiB")
    with pytest.raises(MemoryError, match=r"cut the clip to (\d+) frames or less") as told:
        memory.check(planned, size, latent, 12 * 2**30, "12 GiB")
    frames = int(str(told.value).split("cut the clip to ")[1].split()[0])
    fits = (1, 16, (frames - 1) // 4 + 1, 60, 104)
    memory.check(memory.plan(size, fits, 16, 76_000_000), size, fits, 12 * 2**30, "12 GiB")
    more = (1, 16, fits[2] + 1, 60, 104)
    with pytest.raises(MemoryError):
        memory.check(memory.plan(size, more, 16, 76_000_000), size, more, 12 * 2**30, "12 GiB")
    needed, activations = planned.needed / 2**30, planned.activations / 2**30
    assert f"49 frames of 832x480 needs {needed:.1f} GiB ({activations:.1f} for activations, " in str(told.value)
    assert f"{needed - activations:.1f} for the rest), but 12 GiB has 12.0 GiB" in str(told.value)
    kept = memory.plan(size, latent, 16, 76_000_000, blocks_kept=8)
    assert kept.needed - planned.needed == pytest.approx(16 * 2**30 - 32 * 0.37 * 2**30, rel=FLOAT32_STEP)


@pytest.mark.parametrize("samples, words", [
    ([], "samples: none"),
    ([sample(family=HUNYUAN)], "samples: are made for HunyuanVideo"),
    ([sample(), sample(family=HUNYUAN)], "samples: are made for HunyuanVideo I2V v1 and Wan 2.1 I2V"),
])  # fmt: skip
def test_bad_samples_are_one_sentence(model, samples, words):
    with pytest.raises(ValueError, match=words):
        train_mask_lora(BACKEND, model, samples, recipe(), QUIET)


def test_a_model_without_a_mask_is_refused(model):
    plain = copy.deepcopy(model.transformer)
    plain.register_to_config(in_channels=16)
    with pytest.raises(TypeError, match="model: a Wan model with 16 input channels"):
        train_mask_lora(BACKEND, DiffusersVideoModel(plain, model.mean, model.std), [sample()], recipe(), QUIET)


def test_a_clip_is_sampled_along_the_flow_and_shown():
    """A velocity that points from the noise to one picture leads there exactly, whatever the range of an expert."""
    answer, clean = torch.full((1, 16, 3, 4, 4), 0.5), torch.zeros(1, 16, 3, 4, 4)
    for low, high in NOISE_RANGES.values():
        seen = []

        def velocity(x, sigma, seen=seen):
            seen.append(float(sigma))
            return (x - answer) / sigma

        found = sampled(velocity, clean, RectifiedFlow(low, high), 0)
        torch.testing.assert_close(found, answer, rtol=0, atol=FLOAT32_STEP)
        assert len(seen) == SHOWN_STEPS and seen == sorted(seen, reverse=True)
        assert low < min(seen) and max(seen) == pytest.approx(high)
    shown = strip(torch.zeros(1, 16, 5, 4, 6), rough_picture)
    assert shown.size == (12, 8), "four frames, two in a row"


def test_clips_are_shown_every_so_many_steps_and_change_nothing(model):
    pictures = []

    class Watching(Quiet):
        def update(self, value, preview=None, **numbers):
            pictures.append(preview)

    plain = train_mask_lora(BACKEND, model, [sample()], recipe(), QUIET, progress=Quiet())
    watched = train_mask_lora(BACKEND, model, [sample()], recipe(), VideoSettings(preview_every=0, sample_every=2),
                              progress=Watching())  # fmt: skip
    assert [picture is not None for picture in pictures] == [False, True, False, True]
    assert watched.losses == plain.losses
    assert all(torch.equal(watched.weights.tensors[key], value) for key, value in plain.weights.tensors.items())


def test_an_interrupted_training_can_be_taken_as_it_is(model, tmp_path):
    given = (BACKEND, model, [sample()], recipe(steps=6))
    with pytest.raises(KeyboardInterrupt):
        train_mask_lora(*given, QUIET, cache=tmp_path, progress=Quiet(cancel_after=3))
    enough = VideoSettings(preview_every=0, take_interrupted=True)
    taken = train_mask_lora(*given, enough, cache=tmp_path, progress=Quiet())
    assert len(taken.losses) == 3
    on = train_mask_lora(*given, QUIET, cache=tmp_path, progress=Quiet())
    assert len(on.losses) == 6 and on.losses[:3] == taken.losses
    assert len(train_mask_lora(*given, enough, cache=tmp_path, progress=Quiet()).losses) == 6, "finished is finished"
