"""The rehearsal's checks: each lets a right result pass and names the fault that was planted."""

from __future__ import annotations

import pytest
import torch
from steadyedit.standalone.rehearsal import checks, media
from steadyedit.standalone.rehearsal.checks import Fault
from steadyedit.standalone.rehearsal.host_pack.keep import keep, tensors_of
from steadyedit.standalone.rehearsal.host_pack.packing import independent_condition
from steadyedit.video.write import write_clip

FRAMES, RATE = 9, media.FRAMES_A_SECOND


def sounding(**changed):
    return {"sample_rate": media.RATE, "waveform": media.sound(FRAMES)["waveform"], **changed}


@pytest.mark.parametrize(("clip", "fps", "sound", "sentence"), [
    (media.clip(FRAMES), RATE, sounding(), None),
    (media.clip(FRAMES - 1), RATE, sounding(), "has 8 frames, the source 9"),
    (media.clip(FRAMES), RATE / 2, sounding(), "has 6 frames a second, the source 12"),
    (media.clip(FRAMES), RATE, None, "has no sound, the source has"),
    (media.clip(FRAMES), RATE, sounding(waveform=media.sound(4)["waveform"]), "s of sound for 0.75 s of pictures"),
    (media.clip(FRAMES), RATE, sounding(waveform=torch.zeros(1, 1, 33075)), "has a silent sound"),
    (media.clip(FRAMES), RATE, sounding(waveform=media.sound(FRAMES)["waveform"][..., ::2].repeat(1, 1, 2)),
     "sounds at 8[78]. Hz, the source at 440 Hz"),
    (torch.full((FRAMES, 96, 168, 3), 0.5), RATE, sounding(), "shows one flat colour"),
])  # fmt: skip
def test_a_saved_video_is_the_source_s_in_frames_rate_and_sound(tmp_path, clip, fps, sound, sentence):
    saved = write_clip(tmp_path / "saved.mp4", clip, fps, sound)
    if sentence is None:
        return checks.video(saved, FRAMES, RATE, media.TONE)
    with pytest.raises(Fault, match=sentence):
        checks.video(saved, FRAMES, RATE, media.TONE)


def test_nothing_is_nan_or_missing():
    checks.finite("latents", {"samples": torch.ones(2)})
    with pytest.raises(Fault, match="latents holds NaN or infinite values .samples"):
        checks.finite("latents", {"samples": torch.tensor([1.0, float("nan")])})
    with pytest.raises(Fault, match="latents is empty"):
        checks.finite("latents", {"nothing": torch.zeros(0)})


def test_what_was_saved_gives_the_same_and_not_nothing():
    trained, plain = {"samples": torch.randn(9)}, {"samples": torch.randn(9)}
    checks.same("a.safetensors", trained, trained, plain)
    with pytest.raises(Fault, match="a.safetensors, loaded from its file, gives another result"):
        checks.same("a.safetensors", trained, {"samples": trained["samples"] + 0.1}, plain)
    with pytest.raises(Fault, match="changes nothing"):
        checks.same("a.safetensors", trained, trained, trained)


def encode(frames):
    """A VAE that only averages: [1, 16, latent frames, height / 8, width / 8]."""
    small = frames.reshape(len(frames), frames.shape[1] // 8, 8, -1, 8, 3).mean((2, 4, 5))
    later = [part.mean(0) for part in small[1:].split(4) if len(part)]
    return torch.stack([small[0], *later])[None, None].expand(-1, 16, -1, -1, -1)


@pytest.mark.parametrize(("pooling", "gray"), [("any", "mid-gray"), ("official", "official")])
@pytest.mark.parametrize("family", ["Wan 2.1 I2V", "HunyuanVideo I2V v1"])
@pytest.mark.parametrize("keep_what", ["outside, first frame", "outside", "first frame", "nothing", "everything"])
def test_the_independent_packing_agrees_and_sees_each_fault(family, pooling, gray, keep_what):
    from steadyedit.methods.lora_edit.condition import condition, generated

    video, first = media.clip(FRAMES)[:, :, :160], torch.rand(1, 96, 160, 3)
    mask = (torch.rand(FRAMES, 96, 160, generator=torch.Generator().manual_seed(2)) > 0.999).float()
    ours = condition(encode, video, generated(video, mask, keep_what), family=family, pooling=pooling, gray=gray,
                     first=first)
    kept = tensors_of(ours.onto([[torch.zeros(1, 2, 3), {}]]))
    packed = independent_condition(encode, video, mask, first, keep_what, family, pooling, gray)
    checks.packing(kept, packed)
    for place in ("0.1.concat_mask", "0.1.concat_latent_image"):
        for planted in (kept[place] + 1, kept[place][..., :1]):
            with pytest.raises(Fault, match=place.rsplit(".", 1)[-1]):
                checks.packing({**kept, place: planted}, packed)
        with pytest.raises(Fault, match="the condition has no"):
            checks.packing({name: value for name, value in kept.items() if name != place}, packed)


def test_what_is_outside_of_the_mask_is_kept_and_the_inside_is_not():
    original, mask = media.clip(4), torch.zeros(4, 96, 168)
    mask[:, 40:60, 40:60] = 1
    edited = original.clone()
    edited[:, 40:60, 40:60] += 0.1
    checks.composite(original, edited, mask, 8)
    outside = edited.clone()
    outside[2, 40, 80] += 1 / 255
    for result, where, sentence in [
        (outside, mask, "changed outside of the mask, by 1 of 255"), (original, mask, "did not change inside"),
        (edited, mask * 0 + 1, "covers every pixel"), (original, mask * 0, "the mask is empty"),
    ]:  # fmt: skip
        with pytest.raises(Fault, match=sentence):
            checks.composite(original, result, where, 8)


def test_a_probe_writes_every_tensor_of_a_value(tmp_path):
    from safetensors.torch import load_file

    class Seen:
        def __init__(self):
            self.image_embeds, self.size = torch.ones(1, 4), 3

    path = tmp_path / "a.safetensors"
    keep([[torch.ones(1, 2), {"concat_mask": torch.zeros(3), "clip_vision_output": Seen()}]], path)
    assert {name: tuple(tensor.shape) for name, tensor in load_file(path).items()} == {
        "0.0": (1, 2), "0.1.concat_mask": (3,), "0.1.clip_vision_output.image_embeds": (1, 4)}
    assert tensors_of(7.5) == {"value": torch.tensor(7.5)}
