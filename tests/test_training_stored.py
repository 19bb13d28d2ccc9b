"""What trainings keep on disk: what is damaged or foreign is set aside and made again; one process at a time."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace

import pytest
import torch
from double import RecordedProgress
from doubles import clip, condition, with_methods
from safetensors.torch import load_file, save_file
from steadyedit.methods.stored import KEY, store, stored
from steadyedit.methods.tensor_file import write_tensors
from steadyedit.methods.tuned_weights import METADATA_KEY, TunedWeights, load_tuned, save_tuned
from steadyedit.methods.tuning import TuneRecipe, tune

RECIPE = TuneRecipe(steps=4, learning_rate=1e-3, checkpoint_every=2)


def trained(folder=None, **more):
    """A short tuning with its own backend; the recipe may differ."""
    backend, _, attached = with_methods("stam")
    progress = more.pop("progress", None)
    return tune(backend, attached, clip(), condition(), replace(RECIPE, **more), cache=folder, progress=progress)


def interrupted(folder, **more):
    with pytest.raises(KeyboardInterrupt):
        trained(folder, progress=RecordedProgress(cancel_at=3), **more)
    (path,) = folder.iterdir()
    return path


def equal(a, b):
    return a.losses == b.losses and all(a.weights.tensors[n].equal(b.weights.tensors[n]) for n in a.weights.tensors)


def flip_exponent(path):
    """One bit of the last value of the file's last tensor."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 0b01000000
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole():
    return trained()


def set_aside(folder, caplog):
    """The only file set aside; the log names it by its path."""
    (path,) = folder.glob("*.damaged")
    assert str(path) in caplog.text
    return path


@pytest.mark.parametrize("damage", ["a bit", "another training's", "not finite", "no digest", "a list", "half"])
def test_a_damaged_checkpoint_is_set_aside_and_the_training_begins_anew(damage, tmp_path, whole, caplog):
    path = interrupted(tmp_path)
    if damage == "a bit":
        flip_exponent(path)
    if damage == "another training's":
        other = tmp_path / "other"
        other.mkdir()
        interrupted(other, seed=1).replace(path)
        other.rmdir()
    if damage in ("not finite", "no digest", "a list"):
        tensors = load_file(path)
        first = next(name for name in tensors if name.startswith("parameters."))
        held = stored(path, {"kind": "checkpoint of a training", "version": 1, "training": path.stem})[1]
        description = {"kind": "checkpoint of a training", "version": 1, "training": path.stem}
        if damage == "not finite":
            tensors[first] = tensors[first] * float("nan")
            write_tensors(path, tensors, KEY, {"description": description, "value": held})
        if damage == "no digest":
            save_file(tensors, path, {KEY: json.dumps({"description": description, "value": held})})
        if damage == "a list":
            write_tensors(path, tensors, KEY, {"description": description, "value": [1]})
    if damage == "half":
        path.write_bytes(path.read_bytes()[:-9])
    bar = RecordedProgress()
    with caplog.at_level(logging.WARNING):
        again = trained(tmp_path, progress=bar)
    assert bar.values == [1, 2, 3, 4] and equal(again, whole)
    assert set_aside(tmp_path, caplog).name.endswith(".checkpoint.damaged")


@pytest.mark.parametrize("damage", ["a bit", "not finite", "another training's", "a list", "no losses", "LoRA"])
def test_damaged_weights_are_set_aside_and_trained_again(damage, tmp_path, whole, caplog):
    trained(tmp_path)
    (path,) = tmp_path.iterdir()
    tensors, metadata = load_tuned(path).tensors, dict(load_tuned(path).metadata)
    first = min(tensors)
    if damage == "a bit":
        flip_exponent(path)
    if damage == "not finite":
        write_tensors(path, {**tensors, first: tensors[first] * float("nan")}, METADATA_KEY, metadata)
    if damage == "another training's":
        write_tensors(path, tensors, METADATA_KEY, {**metadata, "training": "another"})
    if damage == "a list":
        write_tensors(path, tensors, METADATA_KEY, ["version"])
    if damage == "no losses":
        write_tensors(path, tensors, METADATA_KEY, {k: v for k, v in metadata.items() if k != "losses"})
    if damage == "LoRA":
        del metadata["methods"], metadata["training"]
        write_tensors(path, {"diffusion_model.x.lora_A.weight": torch.ones(2, 2)}, METADATA_KEY, metadata)
    with caplog.at_level(logging.WARNING):
        again = trained(tmp_path)
    assert not again.from_cache and equal(again, whole)
    assert set_aside(tmp_path, caplog).name == path.name + ".damaged"
    assert trained(tmp_path).from_cache


def test_weights_of_version_0_1_0_are_found(tmp_path, whole):
    """They have no digest and do not name their training; the hash in their name is the same."""
    trained(tmp_path)
    (path,) = tmp_path.iterdir()
    weights = load_tuned(path)
    metadata = {key: value for key, value in weights.metadata.items() if key != "training"}
    save_file(dict(weights.tensors), path, {METADATA_KEY: json.dumps(metadata)})
    found = trained(tmp_path)
    assert found.from_cache and equal(found, whole)


def test_saved_weights_that_changed_are_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_tuned(path, TunedWeights({"a": torch.ones(3)}, {"version": 1}))
    assert load_tuned(path).tensors["a"].equal(torch.ones(3))
    flip_exponent(path)
    with pytest.raises(ValueError, match=r"mine.safetensors: not a whole file .* \(is damaged, for its values"):
        load_tuned(path)
    save_tuned(path, TunedWeights({"a": torch.full((3,), float("inf"))}, {"version": 1}))
    with pytest.raises(ValueError, match="mine.safetensors: a holds values that are not finite"):
        load_tuned(path)


def test_what_is_stored_is_found_by_its_description_alone(tmp_path):
    path, tensors = tmp_path / "x", {"frames": torch.arange(6, dtype=torch.uint8), "half": torch.ones(2).half()}
    assert stored(path, {"of": 1}) is None
    store(path, tensors, {"of": 1}, [1.5])
    found, value = stored(path, {"of": 1})
    assert value == [1.5] and all(found[name].equal(tensors[name]) for name in tensors)
    assert stored(path, {"of": 2}) is None and not path.exists() and (tmp_path / "x.damaged").exists()
    with pytest.raises(ValueError, match="x: half holds values that are not finite"):
        store(path, {"half": tensors["half"] * float("inf")}, {"of": 1})


def test_a_second_process_waits_and_takes_the_result(tmp_path, whole):
    inside, waiting = threading.Event(), threading.Event()

    class First(RecordedProgress):
        def update(self, value, preview=None, **numbers):
            inside.set()
            assert waiting.wait(20)

    class Second(RecordedProgress):
        def update(self, value, preview=None, **numbers):
            super().update(value, preview, **numbers)
            waiting.set()

    results, bar = {}, Second()
    first = threading.Thread(target=lambda: results.update(first=trained(tmp_path, progress=First())))
    first.start()
    assert inside.wait(20)
    second = trained(tmp_path, progress=bar)
    first.join()
    assert second.from_cache and not results["first"].from_cache
    assert set(bar.values) == {0}, "it only waited"
    assert equal(results["first"], second) and equal(second, whole)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_who_waits_can_be_cancelled(tmp_path):
    inside, over = threading.Event(), threading.Event()

    class First(RecordedProgress):
        def update(self, value, preview=None, **numbers):
            inside.set()
            assert over.wait(20)

    first = threading.Thread(target=lambda: trained(tmp_path, progress=First()))
    first.start()
    assert inside.wait(20)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, progress=RecordedProgress(cancel_at=0))
    over.set()
    first.join()


def test_a_folder_without_locks_is_no_obstacle(tmp_path, monkeypatch, caplog):
    import filelock

    def refuse(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with caplog.at_level(logging.WARNING):
        assert len(trained(tmp_path).losses) == RECIPE.steps
    assert "no lock in" in caplog.text


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """One rule for all trainings: what led to it is not kept."""
    from steadyedit.diffusion.training import NoiseTraining

    kept, step = [], NoiseTraining.step_of

    def breaks(self, samples, together=None):
        if len(self.losses) == 3:
            kept.extend(path.read_bytes() for path in tmp_path.glob("*.checkpoint"))
            ((predict, clean),) = samples
            samples = [(lambda *a: predict(*a) * float("nan"), clean)]
        return step(self, samples, together)

    monkeypatch.setattr(NoiseTraining, "step_of", breaks)
    with pytest.raises(FloatingPointError, match="training: the loss is nan at step 4"):
        trained(tmp_path)
    (path,) = tmp_path.iterdir()
    assert [path.read_bytes()] == kept
    monkeypatch.undo()
    bar = RecordedProgress()
    assert len(trained(tmp_path, progress=bar).losses) == 4 and bar.values == [3, 4]


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate 2 GiB", "MPS backend out of memory",
                                     "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"])  # fmt: skip
def test_plain_errors_count_as_out_of_memory(message, whole, caplog):
    class Once(RecordedProgress):
        failed = False

        def update(self, value, preview=None, **numbers):
            super().update(value, preview, **numbers)
            if value == 2 and not self.failed:
                self.failed = True
                raise RuntimeError(message)

    bar = Once()
    with caplog.at_level(logging.WARNING):
        again = trained(progress=bar)
    assert equal(again, whole) and bar.values == [1, 2, 3, 4]
    assert "trying again with gradient checkpointing" in caplog.text
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        class Other(RecordedProgress):
            def update(self, value, preview=None, **numbers):
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        trained(progress=Other())


def test_a_training_that_fails_at_its_first_step_leaves_nothing(tmp_path):
    """As where the clip's latents are another model's: there is nothing to go on from."""
    backend, _, attached = with_methods("stam")
    three = torch.randn(3, 3, 8, 8)
    with pytest.raises(RuntimeError):
        tune(backend, attached, three, condition(), RECIPE, cache=tmp_path)
    assert not list(tmp_path.iterdir())
