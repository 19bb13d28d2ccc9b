"""Tuning as a service: found again, resumed, cancelled, refused, short of memory or disk."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace

import pytest
import torch
from double import RecordedProgress, double_model
from doubles import clip, condition, predict, with_methods
from PIL import Image
from steadyedit.files import writing
from steadyedit.methods import training_loop
from steadyedit.methods.tuning import Tuned, TunedWeights, TuneRecipe, apply_tuned, load_tuned, save_tuned, tune
from tolerances import FLOAT32

RECIPE = TuneRecipe(steps=6, learning_rate=1e-3, checkpoint_every=2)


def ei2():
    return with_methods("stam", "ffam")


def equal(a: Tuned, b: Tuned) -> bool:
    mine, other = a.weights.tensors, b.weights.tensors
    return a.losses == b.losses and mine.keys() == other.keys() and all(mine[n].equal(other[n]) for n in mine)


def test_loss_falls():
    backend, _, attached = ei2()
    losses = tune(
        backend, attached, clip(), condition(), TuneRecipe(steps=80, learning_rate=1e-2), preview_every=0
    ).losses
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


def test_an_equal_tuning_is_found_not_repeated(tmp_path):
    backend, _, attached = ei2()
    first = tune(backend, attached, clip(), condition(), RECIPE, cache=tmp_path)
    assert not first.from_cache and backend.opened == 1
    backend2, _, again = ei2()
    second = tune(backend2, again, clip(), condition(), replace(RECIPE, checkpoint_every=99), cache=tmp_path)
    assert second.from_cache and backend2.opened == 0
    assert equal(first, second)
    assert predict(first.model, clip(), condition()).equal(predict(second.model, clip(), condition()))
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize(
    "changed", ["clip", "condition", "seed", "weight_decay", "betas", "max_grad_norm", "method", "base", "queries"])
def test_anything_that_decides_the_outcome_is_in_the_hash(changed, tmp_path):
    backend, _, attached = ei2()
    tune(backend, attached, clip(), condition(), RECIPE, cache=tmp_path)
    samples, conditioning, recipe, model = clip(), condition(), RECIPE, attached
    if changed == "clip":
        samples = clip(seed=1)
    if changed == "condition":
        conditioning = condition(1)
    recipes = {"seed": 1, "weight_decay": 0.0, "betas": (0.8, 0.999), "max_grad_norm": 2.0, "queries": False}
    if changed in recipes:
        recipe = replace(RECIPE, **{changed: recipes[changed]})
    if changed == "method":
        _, _, model = with_methods("stam", "ffam", ffam={"ratio": 3})
    if changed == "base":
        model = replace(attached, unet=double_model(seed=1).unet)
    assert not tune(backend, model, samples, conditioning, recipe, cache=tmp_path).from_cache


def test_what_can_not_be_compared_is_not_cached(tmp_path):
    backend, _, attached = ei2()
    conditioning = [[condition()[0][0], {"control": object()}]]
    assert not tune(backend, attached, clip(), conditioning, RECIPE, cache=tmp_path).from_cache
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cancel_at", [1, 3, 4])
def test_cancelled_and_resumed_equals_uninterrupted(cancel_at, tmp_path):
    backend, _, attached = ei2()
    whole = tune(backend, attached, clip(), condition(), RECIPE)
    bar = RecordedProgress(cancel_at=cancel_at)
    with pytest.raises(KeyboardInterrupt):
        tune(backend, attached, clip(), condition(), RECIPE, cache=tmp_path, progress=bar)
    assert bar.values[-1] == cancel_at
    assert [p.suffix for p in tmp_path.iterdir()] == [".checkpoint"]
    bar = RecordedProgress()
    resumed = tune(backend, attached, clip(), condition(), RECIPE, cache=tmp_path, progress=bar)
    assert bar.values == list(range(cancel_at + 1, RECIPE.steps + 1))
    assert equal(whole, resumed) and not resumed.from_cache


def test_damaged_files_are_no_obstacle(tmp_path, caplog):
    backend, _, attached = ei2()
    whole = tune(backend, attached, clip(), condition(), RECIPE, cache=tmp_path)
    (weights,) = tmp_path.iterdir()
    weights.write_bytes(weights.read_bytes()[:100])
    weights.with_suffix(".checkpoint").write_bytes(b"half a file")
    with caplog.at_level(logging.WARNING):
        again = tune(backend, attached, clip(), condition(), RECIPE, cache=tmp_path)
    assert equal(whole, again) and not again.from_cache
    assert caplog.text.count("the work is done again") == 2
    assert str(weights.with_suffix(".checkpoint.damaged")) in caplog.text
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".damaged"}


def test_the_input_model_is_not_changed_by_a_cancel():
    backend, model, attached = ei2()
    before = predict(attached, clip(), condition())
    with pytest.raises(KeyboardInterrupt):
        tune(backend, attached, clip(), condition(), RECIPE, progress=RecordedProgress(cancel_at=3))
    assert predict(attached, clip(), condition()).equal(before)
    assert not any(p.requires_grad for p in model.unet.parameters())


def test_previews_show_sample_and_curve():
    backend, _, attached = ei2()
    bar = RecordedProgress()
    plain = tune(backend, attached, clip(), condition(), RECIPE, preview_every=0, progress=RecordedProgress())
    shown = tune(backend, attached, clip(), condition(), RECIPE, preview_every=1e-9, progress=bar)
    assert len({picture.tobytes() for picture in bar.previews}) == len(bar.previews) == RECIPE.steps
    assert equal(plain, shown)


def test_previews_keep_time(monkeypatch):
    """Two seconds apart and at both ends; a sample that takes long is drawn anew less often, the losses are not."""
    clock, samples = [0.0], []

    def draw(self, view, device):
        samples.append(clock[0])
        clock[0] += 1.0
        return Image.new("RGB", (4, 4))

    class Stepping(RecordedProgress):
        def update(self, value, preview=None, **numbers):
            super().update(value, preview, **numbers)
            clock[0] += 0.5

    backend, _, attached = ei2()
    monkeypatch.setattr(training_loop, "monotonic", lambda: clock[0])
    monkeypatch.setattr(training_loop.TrainingRun, "_draw", draw)
    bar = Stepping()
    tune(backend, attached, clip(), condition(), replace(RECIPE, steps=61), progress=bar)
    # 61 steps of half a second and four samples of one: the first picture, each two seconds, the last.
    assert len(samples) == 4 and all(later - sooner >= 10 for sooner, later in zip(samples, samples[1:]))
    assert len(bar.previews) == pytest.approx(61 * 0.5 / 2, abs=2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused_before_training(bad):
    backend, _, attached = ei2()
    samples = clip()
    samples[1, 2, 3, 3] = bad
    with pytest.raises(ValueError, match="latent: it holds NaN or infinite values"):
        tune(backend, attached, samples, condition(), RECIPE)
    assert backend.opened == 0


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (4, 5, 6), (1, 4, 3, 5, 6)])
def test_what_is_no_clip_is_refused(shape):
    backend, _, attached = ei2()
    with pytest.raises(ValueError, match="latent: expected"):
        tune(backend, attached, torch.zeros(shape), condition(), RECIPE)


def test_a_ratio_beyond_the_latent_is_refused():
    backend, _, attached = with_methods("ffam", ffam={"ratio": 7})
    with pytest.raises(ValueError, match=r"ratio: 7 is larger than the largest feature map \(5 x 6\)"):
        tune(backend, attached, clip(), condition(), RECIPE)


def test_a_model_with_nothing_attached_is_refused():
    backend, model, _ = ei2()
    with pytest.raises(ValueError, match="nothing to train"):
        tune(backend, model, clip(), condition(), RECIPE)


def test_weights_of_another_base_are_refused():
    backend, model, attached = ei2()
    tuned = tune(backend, attached, clip(), condition(), RECIPE)
    with pytest.raises(ValueError, match="tuned on another base model"):
        apply_tuned(backend, double_model(seed=1), tuned.weights)
    with pytest.raises(ValueError, match="tuned on another base model"):
        apply_tuned(backend, tuned.model, tuned.weights)


def test_weights_that_do_not_fit_are_refused():
    backend, model, attached = ei2()
    weights = tune(backend, attached, clip(), condition(), RECIPE).weights
    missing = {n: t for n, t in weights.tensors.items() if not n.endswith("middle_block.1.transformer_blocks.0.key")}
    with pytest.raises(ValueError, match="middle_block.1.transformer_blocks.0.key is missing"):
        apply_tuned(backend, model, TunedWeights(missing, weights.metadata))
    surplus = {**weights.tensors, "stam.nowhere.key": torch.zeros(1)}
    with pytest.raises(ValueError, match="belong to no method in the file, such as stam.nowhere.key"):
        apply_tuned(backend, model, TunedWeights(surplus, weights.metadata))


def test_tuning_goes_on_from_a_tuned_model():
    backend, _, attached = ei2()
    first = tune(backend, attached, clip(), condition(), RECIPE)
    second = tune(backend, first.model, clip(), condition(), replace(RECIPE, learning_rate=1e-9))
    assert not second.from_cache
    assert_near(predict(second.model, clip(), condition()), predict(first.model, clip(), condition()))


def assert_near(a, b):
    assert (a - b).abs().max() < FLOAT32 * b.abs().max()


@pytest.mark.parametrize("fails_at", [1, 4])
def test_memory_that_runs_out_once(fails_at, caplog):
    backend, _, attached = ei2()
    whole = tune(backend, attached, clip(), condition(), RECIPE, preview_every=0)
    backend.fails_at, backend.opened = fails_at, 0
    with caplog.at_level(logging.WARNING):
        retried = tune(backend, attached, clip(), condition(), RECIPE, preview_every=0)
    assert backend.opened == 2 and "gradient checkpointing" in caplog.text
    assert equal(whole, retried)


def test_memory_that_runs_out_twice():
    backend, _, attached = ei2()

    class Full(RecordedProgress):
        def update(self, value, preview=None, **numbers):
            raise MemoryError

    with pytest.raises(MemoryError, match="also with gradient checkpointing; use fewer frames"):
        tune(backend, attached, clip(), condition(), RECIPE, progress=Full())


@pytest.fixture
def full_disk(monkeypatch):
    """The disk is full once the bytes are to be made safe: a part of the file exists by then."""

    def no_space(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", no_space)


def test_a_full_disk_leaves_no_partial_file(tmp_path, full_disk):
    path = tmp_path / "tuned.safetensors"
    path.write_bytes(b"what was there before")
    with pytest.raises(
        OSError, match=r"tuned.safetensors: could not be saved in .* \(No space left on device\)"
    ) as info:
        save_tuned(path, TunedWeights({"a": torch.ones(3)}, {"version": 1}))
    assert info.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.safetensors"]
    assert path.read_bytes() == b"what was there before"


def test_a_full_disk_does_not_lose_a_tuning(tmp_path, full_disk, caplog):
    backend, _, attached = ei2()
    with caplog.at_level(logging.WARNING):
        tuned = tune(backend, attached, clip(), condition(), RECIPE, cache=tmp_path)
    assert len(tuned.losses) == RECIPE.steps and list(tmp_path.iterdir()) == []
    assert "No space left" in caplog.text and "will not be found again" in caplog.text


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 40])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="other.safetensors: not a whole file of weights tuned by SteadyEdit"):
        load_tuned(path)


def test_a_newer_format_is_refused(tmp_path):
    save_tuned(tmp_path / "new.safetensors", TunedWeights({"a": torch.ones(3)}, {"version": 2}))
    with pytest.raises(ValueError, match="has format version 2; this version reads 1"):
        load_tuned(tmp_path / "new.safetensors")


@pytest.mark.parametrize("losses", [[], [0.5], [0.0], [0.3, 0.3], [0.0, 0.0, 0.0], [1.0, 0.5]])
def test_the_loss_map_suits_the_hosts_graph(losses):
    """ComfyUI's LossGraphNode divides by the number of losses less one and by their range."""
    drawn = Tuned(None, TunedWeights({}), losses).loss_map["loss"]
    assert len(drawn) > 1 and max(drawn) > min(drawn)
    if len(set(losses)) > 1:
        assert drawn == losses


def test_the_published_weight_decay_is_used():
    """1e-2, as Tune-A-Video and EI2 have it; it reaches the optimizer."""
    backend, _, attached = ei2()
    default, told, none = (
        tune(backend, attached, clip(), condition(), replace(RECIPE, learning_rate=0.1, **more), preview_every=0)
        for more in ({}, {"weight_decay": 1e-2}, {"weight_decay": 0.0}))  # fmt: skip
    assert equal(default, told) and not equal(default, none)


@pytest.mark.parametrize("method", ["gather-swap", "rave"])
def test_what_changes_sampling_alone_is_no_part_of_the_base(method):
    """A training below it is found again, and its weights fit the same models."""
    from steadyedit.methods.tuned_weights import base_name

    backend, model, attached = with_methods("norm-tune")
    _, _, also = with_methods("norm-tune", method)
    for methods in (["visual-adapter"], ["norm-tune"], []):
        assert base_name(backend, also, methods) == base_name(backend, attached, methods)
    assert base_name(backend, attached, ["visual-adapter"]) != base_name(backend, model, ["visual-adapter"])
