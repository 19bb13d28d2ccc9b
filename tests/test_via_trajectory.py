"""Trajectories in memory and on disk."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods import trajectory_store as stored
from steadyedit.methods.trajectory_store import TrajectoryStore, of_latent, with_trajectory

SIGMAS = torch.tensor([0, 0.5, 2, 14.6], dtype=torch.float64)


def steps(frames=3):
    return list(torch.randn(4, frames, 4, 5, 3, generator=torch.Generator().manual_seed(0)) * 50)


def test_a_step_of_frames_in_any_order():
    values = steps()
    trajectory = Trajectory(values, SIGMAS)
    assert torch.equal(trajectory[2, (2, 0, 2)], values[2][[2, 0, 2]])
    assert torch.equal(trajectory[1, slice(1, None)], values[1][1:])
    assert [trajectory.step_of(float(s)) for s in SIGMAS.float()] == [0, 1, 2, 3]
    for sigma in (0.51, 0.01, 20):
        with pytest.raises(ValueError, match="has 3 steps and stopped nearest to it at"):
            trajectory.step_of(sigma)


def test_out_of_a_latent():
    clip = torch.randn(2, 4, 5, 3)
    latent = {"steadyedit_trajectory": torch.stack([clip, clip * 2]).half(), "steadyedit_sigmas": SIGMAS[:2]}
    assert torch.equal(of_latent(latent).source, clip.half().float())
    assert torch.equal(of_latent({**latent, "steadyedit_source": clip}).source, clip)
    with pytest.raises(ValueError, match="inverted: holds no trajectory"):
        of_latent({"samples": clip})


@pytest.mark.parametrize("change", ["flip", "select", "repeat", "scale"])
def test_a_latent_that_was_changed_after_its_inversion_is_recognised(change):
    clip = torch.randn(3, 4, 5, 6)
    latent = with_trajectory({"samples": clip, "batch_index": [0, 1, 2]}, clip * 2, [clip, clip * 2], SIGMAS[:2])
    assert torch.equal(of_latent(latent).source, clip) and latent["batch_index"] == [0, 1, 2]
    x = latent["samples"]
    x = {"flip": x.flip(3), "select": x[:2], "repeat": x[[0, 0, 1, 1, 2, 2]], "scale": x * 1.5}[change]
    with pytest.raises(ValueError, match="inverted: was changed after its inversion"):
        of_latent({**latent, "samples": x})


def test_noise_takes_no_noise_mask_and_what_was_sampled_from_it_does():
    clip = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    noise = with_trajectory({"samples": clip}, clip * 15, [clip, clip * 15], SIGMAS[:2])
    mask = torch.ones(1, 1, 40, 48)
    for value in (noise, noise.copy(), deepcopy(noise)):
        for put in (lambda value: value.__setitem__("noise_mask", mask), lambda value: value.update(noise_mask=mask)):
            with pytest.raises(ValueError, match="^mask: a noise mask on the latent of DDIM Inversion"):
                put(value)
    done = noise.copy()
    done["samples"] = clip + 0.1
    done["noise_mask"] = mask
    assert "noise_mask" not in noise and done["noise_mask"] is mask
    flow = with_trajectory({"samples": clip}, clip, [clip, clip * 15], SIGMAS[:2])
    flow["noise_mask"] = mask  # its noise goes beside it


def test_on_disk_it_is_mapped_and_the_clip_is_exact(tmp_path):
    values = steps()
    trajectory = stored.write(tmp_path / "clip", values, SIGMAS)
    assert torch.equal(trajectory.source, values[0]) and torch.equal(trajectory.sigmas, SIGMAS)
    for step in (1, 2, 3):
        assert torch.equal(trajectory[step, [1, 1]], values[step][[1, 1]].half())
        assert (tmp_path / "clip" / f"step_{step:04}.npy").stat().st_size < 2 * values[step].numel() + 200
    maps = open("/proc/self/maps").read()
    assert "step_0003.npy" in maps


def test_what_was_cut_off_goes_on(tmp_path):
    values = steps()

    def begun():
        store = TrajectoryStore(tmp_path, values[0], SIGMAS)
        return store, store.begin()

    store, done = begun()
    assert done == 0
    store.write(0, values[0])
    store.write(1, values[1])
    with pytest.raises(ValueError, match="ended before step 2 of 3"):
        stored.read(tmp_path)
    store, done = begun()
    assert done == 2
    for step in (2, 3):
        store.write(step, values[step])
    assert begun()[1] == 4
    assert torch.equal(stored.read(tmp_path)[3, [0]], values[3][:1].half())


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_inversion_goes_on_to_the_same_bits(tmp_path, stop):
    clip, calls = steps()[0], []

    def advance(number, x, levels):
        if len(calls) == stop and "cut" in calls:
            raise KeyboardInterrupt
        calls.append(number)
        return x * 1.1 + levels[1] / 3 - levels[0] / 7

    whole, last = stored.inverted(tmp_path / "whole", clip, SIGMAS.float(), advance)
    assert calls == [0, 1, 2] and torch.equal(whole.source, clip)
    calls[:] = ["cut"] * (stop > 0)
    if stop:
        with pytest.raises(KeyboardInterrupt):
            stored.inverted(tmp_path / "cut", clip, SIGMAS.float(), advance)
    calls.clear()
    again, end = stored.inverted(tmp_path / "cut", clip, SIGMAS.float(), advance)
    assert calls == list(range(max(stop - 1, 0), 3)) and torch.equal(end, last)
    assert all(torch.equal(a, b) for a, b in zip(again.steps, whole.steps, strict=True))
    assert len(list((tmp_path / "cut").glob("last_*"))) == 1
    calls.clear()
    done, end = stored.inverted(tmp_path / "cut", clip, SIGMAS.float(), advance)
    assert not calls and torch.equal(end, last) and torch.equal(done.source, clip)


@pytest.mark.parametrize("damage", ["a step", "the last", "the header", "another clip", "another prompt", "all"])
def test_what_is_damaged_is_set_aside_and_inverted_again(damage, tmp_path, caplog):
    clip, calls = steps()[0], []

    def advance(number, x, levels):
        calls.append(number)
        return x * 1.1 + levels[1] / 3

    whole, last = stored.inverted(tmp_path / "whole", clip, SIGMAS, advance)
    folder = tmp_path / "clip"
    other = clip + 1 if damage == "another clip" else clip
    stored.inverted(folder, other, SIGMAS, advance, "one" if damage == "another prompt" else None)
    names = {"a step": ["step_0002.npy"], "the last": ["last_0003.npy"], "the header": ["trajectory.json"],
             "all": [path.name for path in folder.iterdir()]}.get(damage, [])  # fmt: skip
    for name in names:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 64
        (folder / name).write_bytes(data if name.endswith(".npy") else b"{")
    calls.clear()
    again, end = stored.inverted(folder, clip, SIGMAS, advance)
    assert torch.equal(end, last) and all(torch.equal(a, b) for a, b in zip(again.steps, whole.steps, strict=True))
    assert calls == [0, 1, 2] and "set aside as" in caplog.text and str(folder) in caplog.text


def test_bad_input_is_told(tmp_path):
    values = steps()
    store = TrajectoryStore(tmp_path, values[0], SIGMAS)
    store.begin()
    with pytest.raises(ValueError, match="in a folder of"):
        store.write(0, values[0][:1])
    with pytest.raises(ValueError, match="too large for float16"):
        store.write(1, values[1] * 1e6)
    assert not list(tmp_path.glob("*.npy"))
    with pytest.raises(FileNotFoundError):
        stored.read(tmp_path / "none")
    with pytest.raises(ValueError, match="4 latents for 3"):
        Trajectory(values, SIGMAS[:3])
    with pytest.raises(ValueError, match="do not ascend"):
        Trajectory(values, SIGMAS.flip(0))
