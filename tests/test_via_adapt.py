"""Test-time adaptation: what it learns, that it is found, resumed and cancelled, and what it refuses."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from double import DoubleBackend, RecordedProgress, double_model
from double.unet import CONTEXT
from shared import shared
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.lora import PROJECTIONS, differences, factors, new_lora
from steadyedit.methods.preview import PANEL
from steadyedit.methods.tuning import TuneRecipe
from steadyedit.methods.via.adapt import AdaptRecipe, PairTask, adapt
from steadyedit.toyworld import models
from tolerances import FLOAT32, NETWORK

SIZE = 32
RECIPE = AdaptRecipe(TuneRecipe(steps=4, learning_rate=1e-3, checkpoint_every=2, queries=False), rank=4, batch=2,
                     variants=3)  # fmt: skip


class Pooling:
    """A VAE of four averages a cell."""

    calls = 0

    def encode(self, pixels):
        self.calls += 1
        cells = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([cells, cells.mean(1, keepdim=True)], 1) * 4 - 2


@shared
def unet(channels: int = 8):
    torch.manual_seed(0)
    return models.build_unet(channels).eval().requires_grad_(False)


def editor():
    return DiffusersModel(unet())


def image(seed: int = 0, size: int = SIZE, count: int = 1):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


def condition(seed: int = 1, tokens: int = 77, prompts: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(prompts, tokens, 96, generator=generator), {}]]


def adapted(recipe=RECIPE, model=None, source=None, edited=None, positive=None, negative=None, **options):
    options.setdefault("preview_every", 0)
    options.setdefault("progress", RecordedProgress())
    return adapt(
        DiffusersBackend(), model or editor(), Pooling(), image(0) if source is None else source,
        image(1) if edited is None else edited, positive or condition(1), negative or condition(2), recipe, **options,
    )  # fmt: skip


def predict(model, seed=3):
    from steadyedit.backends.diffusers.denoiser import Denoiser

    x = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(seed))
    text, extra = condition(1)[0]
    with torch.no_grad():
        return Denoiser(model, [[text, {**extra, "concat_latent_image": x.flip(0)}]], frames=1)(x, torch.ones(1))


def equal(a, b) -> bool:
    mine, other = a.weights.tensors, b.weights.tensors
    return a.losses == b.losses and mine.keys() == other.keys() and all(mine[n].equal(other[n]) for n in mine)


def test_a_lora_on_every_attention_projection():
    tuned = once()
    layers = factors(tuned.weights.tensors)
    sites = [site.path for site in DiffusersBackend().sites(editor())]
    assert set(layers) == {f"{path}.{name}" for path in sites for name in PROJECTIONS}
    assert all(down.shape[0] == up.shape[1] == 4 and up.abs().max() > 0 for down, up in layers.values())
    assert all(tensor.dtype == torch.float32 for tensor in tuned.weights.tensors.values())


def test_the_lora_added_again_is_the_adapted_model():
    tuned = once()
    again = DiffusersBackend().add_lora(editor(), tuned.weights.tensors)
    assert predict(again).equal(predict(tuned.model))
    assert (predict(tuned.model) - predict(editor())).abs().max() > 1e-4


def test_the_input_model_is_untouched_also_by_a_cancel():
    before = {key: value.clone() for key, value in unet().state_dict().items()}
    model, answer = editor(), predict(editor())
    with pytest.raises(KeyboardInterrupt):
        adapted(model=model, progress=RecordedProgress(cancel_at=2))
    after = unet().state_dict()
    assert all(after[key].equal(before[key]) for key in before) and model.query_deltas == {}
    assert predict(model).equal(answer)


def test_the_loss_falls():
    """On the pair itself, without dropout and warps: what there is to learn is learned."""
    training = replace(RECIPE.training, steps=40, learning_rate=5e-3, checkpoint_every=999)
    losses = adapted(replace(RECIPE, training=training, dropout=0.0, batch=4, rank=16)).losses
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@shared
def once():
    """One finished adaptation for all tests that only look at it."""
    return adapted()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptations")
    adapted(cache=folder)
    return folder


def test_an_equal_adaptation_is_found(finished):
    second = adapted(cache=finished)
    assert second.from_cache and equal(once(), second)
    assert predict(once().model).equal(predict(second.model))
    assert [path for path in finished.iterdir() if path.suffix == ".safetensors"]


@pytest.mark.parametrize("changed", ["source", "edited", "positive", "negative", "rank", "seed", "model"])
def test_anything_that_decides_is_in_the_hash(changed, finished):
    other = {
        "source": {"source": image(8)}, "edited": {"edited": image(8)}, "positive": {"positive": condition(8)},
        "negative": {"negative": condition(8)}, "rank": {"recipe": replace(RECIPE, rank=5)},
        "seed": {"recipe": replace(RECIPE, training=replace(RECIPE.training, seed=8))},
        "model": {"model": DiffusersModel(unet(), query_deltas={"x": torch.ones(1)})},
    }[changed]  # fmt: skip
    # Looked for before a step is made, so that a cancel at the first one tells.
    with pytest.raises(KeyboardInterrupt):
        adapted(cache=finished, progress=RecordedProgress(cancel_at=1), **other)


def test_cancelled_and_resumed_equals_uninterrupted(tmp_path, cancel_at=3):
    whole, bar = once(), RecordedProgress(cancel_at=cancel_at)
    with pytest.raises(KeyboardInterrupt):
        adapted(cache=tmp_path, progress=bar)
    assert bar.values[-1] == cancel_at and [path.suffix for path in tmp_path.iterdir()] == [".checkpoint"]
    bar = RecordedProgress()
    assert equal(adapted(cache=tmp_path, progress=bar), whole)
    assert [value for value in bar.values if value] == list(range(cancel_at + 1, 5))


def test_memory_that_runs_out_once(monkeypatch, caplog):
    import steadyedit.diffusion.training as training

    whole, step, calls = once(), training.NoiseTraining.step_of, []

    def short(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return step(self, *args)

    monkeypatch.setattr(training.NoiseTraining, "step_of", short)
    with caplog.at_level(logging.WARNING):
        again = adapted()
    assert "adaptation: memory ran out; trying again with gradient checkpointing" in caplog.text
    assert again.losses == pytest.approx(whole.losses, rel=NETWORK) and len(again.losses) == 4


def test_previews_show_a_sample_and_the_curve():
    bar = RecordedProgress()
    adapted(progress=bar, preview_every=1e-9)
    assert len(bar.previews) == 4 and {picture.width for picture in bar.previews} == {PANEL}


def task(dropout: float, batch: int = 4000) -> PairTask:
    source, edited = torch.ones(3, 4, 1, 1), torch.zeros(3, 4, 1, 1)
    recipe = replace(RECIPE, dropout=dropout, batch=batch)
    return PairTask(None, None, source, edited, torch.ones(1, 2, 3), torch.zeros(1, 2, 3), {}, recipe)


def test_conditions_are_dropped_as_instructpix2pix_does():
    """Five percent each without text, without image, without both."""
    _, [[text, extra]] = task(0.05).batch(0)
    no_text = text.flatten(1).sum(1) == 0
    no_image = extra["concat_latent_image"].flatten(1).sum(1) == 0
    for share in ((no_text & ~no_image), (no_text & no_image), (~no_text & no_image)):
        assert abs(share.float().mean() - 0.05) < 0.012
    _, [[text, extra]] = task(0.0).batch(0)
    assert text.min() == 1 and extra["concat_latent_image"].min() == 1


def test_a_batch_is_a_function_of_its_step():
    first, again, other = task(0.3).batch(5), task(0.3).batch(5), task(0.3).batch(6)
    assert first[1][0][0].equal(again[1][0][0]) and not first[1][0][0].equal(other[1][0][0])


def test_prompts_of_different_length_are_repeated_to_one():
    tuned = adapted(positive=condition(1, tokens=4), negative=condition(2, tokens=6))
    assert len(tuned.losses) == 4


def test_a_lora_starts_as_nothing_and_by_its_seed():
    shapes = {"b.attn1.to_q": (6, 4), "a.attn1.to_q": (6, 4)}
    lora = new_lora(shapes, 16, seed=3)
    assert all(delta.eq(0).all() for delta in differences(lora).values())
    assert {name: down.shape for name, (down, _) in factors(lora).items()} == dict.fromkeys(shapes, (4, 4))
    assert all(lora[key].equal(other) for key, other in new_lora(dict(reversed(shapes.items())), 16, seed=3).items())


def test_a_lora_of_another_model_is_refused():
    lora = new_lora({"nowhere.attn1.to_q": (4, 4)}, 2, seed=0)
    with pytest.raises(ValueError, match="lora: was made for nowhere.attn1.to_q of shape .* use the model"):
        DiffusersBackend().add_lora(editor(), lora)
    with pytest.raises(ValueError, match="does not fit"):
        factors({"diffusion_model.a.lora_A.weight": torch.zeros(1, 1)})


@pytest.mark.parametrize(("options", "message"), [
    ({"source": image(count=2)}, "root_source: holds 2 images, but a root is one frame"),
    ({"edited": image(1, size=40)}, "root_edited: is 40x40, but root_source 32x32"),
    ({"source": image(0, size=4), "edited": image(1, size=4)}, "root_source: is 4x4, smaller than one latent cell"),
    ({"edited": image() / 0}, "root_edited: it holds NaN or infinite values"),
    ({"positive": condition(prompts=3)}, "positive: holds 3 prompts, but an adaptation learns one"),
    ({"negative": condition() * 2}, "negative: holds 2 conditions, but an adaptation learns one"),
    ({"negative": [[torch.zeros(1, 77, 5), {}]]}, "conditioning: prompts of 5 and 96 channels do not fit"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        adapted(**options)


def test_a_model_without_an_image_input_is_refused():
    with pytest.raises(TypeError, match="model: takes no image beside the noise; load an InstructPix2Pix checkpoint"):
        adapted(model=DiffusersModel(unet(4)))


def test_its_weights_meet_those_of_peft():
    """The same LoRA through peft's own layers gives the same prediction."""
    import copy

    peft = pytest.importorskip("peft")
    from steadyedit.backends.diffusers.paths import locate

    tuned = once()
    copied = copy.deepcopy(unet())
    own = {module: name for name, module in copied.named_modules()}
    names = {found.site.path: own[found.block] for found in locate(copied)}
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), copied)
    for name, (down, up) in factors(tuned.weights.tensors).items():
        path, _, layer = name.partition(".attn")
        wrapped = copied.get_submodule(f"{names[path]}.attn{layer}")
        wrapped.lora_A["default"].weight.data.copy_(down)
        wrapped.lora_B["default"].weight.data.copy_(up)
    expected, found = predict(DiffusersModel(copied)), predict(tuned.model)
    assert (found - expected).abs().max() < FLOAT32 * expected.abs().max()


@pytest.mark.parametrize("host", ["diffusers", "double"])
def test_what_trains_is_the_model_with_the_lora_on_it(host):
    """The road of training and that of the finished LoRA give the same prediction, and every matrix has a gradient."""
    backend, model = (DiffusersBackend(), editor()) if host == "diffusers" else (DoubleBackend(), double_model())
    told = condition(1) if host == "diffusers" else [[torch.randn(1, 7, CONTEXT), {}]]
    lora = new_lora(backend.projections(model), 2, seed=0)
    lora = {key: value + 0.05 for key, value in lora.items()}
    x, t = torch.randn(2, 4, 4, 4), torch.tensor(300)
    with backend.training(model, (), told, 2, False, False, lora) as view:
        found = view.predict_noise(x, t, told)
        found.square().mean().backward()
        assert set(view.parameters) == set(lora) and all(p.grad.abs().max() > 0 for p in view.parameters.values())
    with backend.training(backend.add_lora(model, lora), (), told, 2) as view:
        expected = view.predict_noise(x, t)
    assert (found - expected).abs().max() < FLOAT32 * expected.abs().max()
