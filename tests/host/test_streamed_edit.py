"""Videos edited window by window in the host, from file to file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from fractions import Fraction

import comfy.model_management
import comfy.samplers
import killed_edit
import pytest
import torch
from comfy_api.latest import InputImpl
from comfy_extras import nodes_custom_sampler as custom
from steadyedit import nodes
from steadyedit.backends.comfy_native import toy
from steadyedit.streaming import video as streaming
from steadyedit.streaming.store import WindowStore
from steadyedit.toyworld import models, render, sample_scene
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip
from tolerances import RUN
from toys import BACKEND, assert_untouched, attached, controlnet, text, traces, under, weights

FRAMES, SIDE, SEED = 7, 64, 3
SAME, OWN = "the same for all frames", "each frame its own"
NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}


@pytest.fixture(scope="module")
def parts():
    """MODEL and VAE of the toy world."""
    unet, _, vae = toy.load()
    return unet, vae


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    tone = {"waveform": torch.sin(torch.arange(8000) / 9)[None, None] / 2, "sample_rate": 8000}
    frames = render(sample_scene(3, "demo", frames=FRAMES, size=SIDE)).frames
    return write_clip(path, frames, Fraction(8), tone, timecode="01:02:03:06")


@pytest.fixture
def kept(monkeypatch):
    """The frames of all windows by their numbers, before the codec."""
    held, keep = {}, WindowStore.keep

    def watched(store, window, frames):
        held.update({window.first + i: frame.clone() for i, frame in enumerate(frames)})
        keep(store, window, frames)

    monkeypatch.setattr(WindowStore, "keep", watched)
    return held


def guider_of(patcher, cfg=1.5):
    return custom.CFGGuider.execute(patcher, text(1), text(2), cfg)[0]


def settings(patcher, vae, video, **more):
    given = dict(video=InputImpl.VideoFromFile(str(video)), guider=guider_of(patcher),
                 sampler=comfy.samplers.sampler_object("euler"),
                 sigmas=BACKEND.schedule(patcher).ddim_sigmas(10).float()[-3:].clone(), vae=vae, seed=SEED, noise=OWN,
                 window=3, start=0, count=0, stride=1, size=SIDE)  # fmt: skip
    return {**given, **more}


def streamed(**inputs):
    with torch.inference_mode():
        return NODES["SteadyEditStreamedEdit"].execute(**inputs).args


def in_one_piece(video, noise=OWN, guider=None, vae=None, sampler=None, sigmas=None, seed=SEED, empty=False, **rest):
    """The same by single nodes."""
    with torch.inference_mode():
        frames = NODES["SteadyEditLoadFrames"].execute(video, 0, 0, 1, SIDE).args[0]
        latent = {"samples": vae.encode(frames)}
        if empty:
            latent["samples"] = torch.zeros_like(latent["samples"])
        if noise == SAME:
            latent["batch_index"] = [0] * len(frames)  # LatentBatchSeedBehavior, fixed
        out = custom.SamplerCustomAdvanced.execute(custom.Noise_RandomNoise(seed), guider, sampler, sigmas, latent)
        return vae.decode(out[0]["samples"])


def in_order(kept):
    return torch.stack([kept[i] for i in sorted(kept)])


@pytest.mark.parametrize("noise, window", [(OWN, 3), (SAME, 3), (OWN, FRAMES)])
def test_windows_give_the_frames_of_one_piece(parts, video, kept, noise, window):
    inputs = settings(*parts, video, noise=noise, window=window)
    before, marks = weights(parts[0]), traces(parts[0])
    result, info = streamed(**inputs)
    whole = in_one_piece(**inputs)
    torch.testing.assert_close(in_order(kept), whole, atol=RUN, rtol=0)
    assert (whole[0] - whole[-1]).abs().max() > 0.05
    assert_untouched(parts[0], before, marks)
    clip = read_clip(result.get_stream_source())
    assert len(clip.frames) == FRAMES and clip.fps == 8 and clip.audio["sample_rate"] == 8000
    assert info.startswith("7 frames at 8 a second, with sound, timecode 01:02:03:06")


def test_the_timecode_outlives_the_hosts_saving(parts, video, tmp_path):
    """The host copies the file's tags, and no more."""
    result, info = streamed(**settings(*parts, video, start=3))
    assert "timecode 01:02:04:01" in info
    result.save_to(str(tmp_path / "saved.mp4"))
    assert read_clip(tmp_path / "saved.mp4").timecode == "01:02:04:01"
    told = NODES["SteadyEditLoadFrames"].execute(InputImpl.VideoFromFile(str(video)), 3, 0, 1, SIDE).args[3]
    assert "timecode 01:02:04:01, which Create Video does not write" in told


def test_the_groups_frames_span_the_whole_video(parts, video, kept):
    patcher = attached(parts[0], "gather-swap")
    inputs = settings(patcher, parts[1], video)
    streamed(**inputs)
    whole = in_one_piece(**inputs)
    torch.testing.assert_close(in_order(kept), whole, atol=RUN, rtol=0)
    # Not what a window has without the group.
    plain = in_one_piece(**settings(*parts, video))
    assert (plain - whole).abs().max() > 10 * RUN


def test_an_editor_sees_each_frame(video, kept):
    torch.manual_seed(7)
    editor, (_, _, vae) = toy.unet_from(models.build_unet(in_channels=8).state_dict()), toy.load()
    clip = read_clip(video).frames

    def told(frames):
        return [[rows, {**extra, "concat_latent_image": vae.encode(frames)}] for rows, extra in text(1)]

    def guided(frames):
        return custom.CFGGuider.execute(editor, told(frames), told(frames), 2.0)[0]

    inputs = settings(editor, vae, video, guider=guided(clip[:1]))
    streamed(**inputs, start_from="an empty latent")
    whole = in_one_piece(**{**inputs, "guider": guided(clip), "empty": True})
    torch.testing.assert_close(in_order(kept), whole, atol=RUN, rtol=0)
    with pytest.raises(ValueError, match="guider: its condition 'positive' holds an image condition for 7 frames"):
        streamed(**{**inputs, "guider": guided(clip)})


def test_a_cancelled_edit_goes_on_after_its_last_window(parts, video, kept):
    inputs = settings(*parts, video)
    before, marks = weights(parts[0]), traces(parts[0])
    streamed(**{**inputs, "stride": 2})  # another edit, whose windows are none of these
    kept.clear()
    calls, real = [], parts[1].decode

    def decode(samples):
        calls.append(1)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing()
        return real(samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts[1], "decode", decode)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            streamed(**inputs)
    comfy.model_management.interrupt_current_processing(False)
    assert_untouched(parts[0], before, marks)
    finished = sorted(kept)
    # Windows of another size go on with those.
    _, info = streamed(**{**inputs, "window": 2})
    assert f"{len(finished)} of them found finished" in info and 0 < len(finished) < FRAMES
    torch.testing.assert_close(in_order(kept), in_one_piece(**inputs), atol=RUN, rtol=0)
    _, info = streamed(**inputs)
    assert "7 of them found finished" in info


@pytest.mark.parametrize("error, seen, words", [
    (RuntimeError("a kernel failed"), RuntimeError, "a kernel failed"),
    (torch.OutOfMemoryError("out of memory"), MemoryError, "window: .*a smaller window"),
    (comfy.model_management.InterruptProcessingException(), comfy.model_management.InterruptProcessingException, None),
], ids=["an error", "no memory", "a cancel"])  # fmt: skip
def test_an_end_inside_of_the_second_window_leaves_the_model_as_it_was(parts, video, kept, error, seen, words):
    """It comes out of the network, under the sampler; the MODEL and the one that the guider holds are whole again."""
    patcher, network = attached(parts[0], "gather-swap"), parts[0].model.diffusion_model
    before, marks, whole, own = weights(parts[0]), traces(parts[0]), weights(patcher), traces(patcher)
    inputs, calls = settings(patcher, parts[1], video, seed=SEED + 1), []

    def break_off(module, given):
        calls.extend(kept)
        if len(calls) > 3:  # the second call after the first window of three frames
            raise error

    hook = network.register_forward_pre_hook(break_off)
    with pytest.raises(seen, match=words):
        streamed(**inputs)
    hook.remove()
    assert sorted(kept) == [0, 1, 2], "the first window is kept"
    assert_untouched(parts[0], before, marks)
    assert_untouched(patcher, whole, own)
    _, info = streamed(**inputs)
    assert "3 of them found finished" in info
    torch.testing.assert_close(in_order(kept), in_one_piece(**inputs), atol=RUN, rtol=0)


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A mask video, white in the right half but in the last frames, and a video of hints."""
    folder = tmp_path_factory.mktemp("beside")
    mask = torch.zeros(FRAMES, SIDE, SIDE, 3)
    mask[: FRAMES - 2, :, SIDE // 2 :] = 1
    hints = torch.rand(FRAMES, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(2))
    return [InputImpl.VideoFromFile(str(write_clip(folder / f"{name}.mp4", frames, Fraction(8))))
            for name, frames in (("mask", mask), ("hints", hints))]


def frames_of(video):
    return NODES["SteadyEditLoadFrames"].execute(video, 0, 0, 1, SIDE).args[0]


def test_hints_and_a_mask_as_videos(parts, video, beside, kept):
    patcher, control = attached(parts[0], "gather-swap"), controlnet()
    inputs = settings(patcher, parts[1], video)
    before, marks = weights(parts[0]), traces(parts[0])
    streamed(**inputs, mask_video=beside[0], feather=4, hint_video=beside[1], control_net=control, strength=0.5)
    assert control.cond_hint_original is None
    assert_untouched(parts[0], before, marks)
    mask, hints = (frames_of(part) for part in beside)
    told = [under(control, hints, condition, 0.5) for condition in (text(1), text(2))]
    edited = in_one_piece(**{**inputs, "guider": custom.CFGGuider.execute(patcher, *told, 1.5)[0]})
    without = in_one_piece(**inputs)
    whole = NODES["SteadyEditComposite"].execute(edited, frames_of(inputs["video"]), mask.mean(-1), 4, 0, True).args[0]
    torch.testing.assert_close(in_order(kept), whole, atol=RUN, rtol=0)
    assert (edited - without).abs().max() > 10 * RUN
    assert torch.equal(in_order(kept)[..., :20, :], frames_of(inputs["video"])[..., :20, :])
    assert torch.equal(in_order(kept)[-1], frames_of(inputs["video"])[-1])


@pytest.mark.parametrize("blend", ["none", "ramp"])
def test_the_sources_inversion_window_by_window(parts, video, beside, kept, blend):
    patcher = attached(parts[0], "gather-swap")
    inputs = settings(patcher, parts[1], video)
    with torch.inference_mode():
        inversion, sigmas = NODES["SteadyEditStreamedInversion"].execute(patcher, text(2), 3, 0, blend).args
    mask = beside[0] if blend != "none" else None
    streamed(**{**inputs, "inversion": inversion, "sigmas": sigmas, "mask_video": mask})
    with torch.inference_mode():
        original = frames_of(inputs["video"])
        latent = {"samples": parts[1].encode(original)}
        latent, levels = NODES["SteadyEditDDIMInversion"].execute(patcher, text(2), latent, 3, 0).args
        sampler = inputs["sampler"]
        if mask is not None:
            sampler = NODES["SteadyEditBoundaryBlend"].execute(
                sampler, latent, frames_of(mask).mean(-1), blend, "A", 0, True).args[0]
        noise = custom.Noise_EmptyNoise()
        done = custom.SamplerCustomAdvanced.execute(noise, inputs["guider"], sampler, levels, latent)
        whole = parts[1].decode(done[0]["samples"])
        if mask is not None:
            whole = NODES["SteadyEditComposite"].execute(whole, original, frames_of(mask).mean(-1), 8, 0, True).args[0]
    torch.testing.assert_close(in_order(kept), whole, atol=RUN, rtol=0)
    with pytest.raises(ValueError, match="sigmas: begin at noise level .* but the inversion ends at"):
        streamed(**{**inputs, "inversion": inversion, "sigmas": sigmas[1:], "mask_video": mask})


def ancestral(inputs):
    return {"sampler": comfy.samplers.sampler_object("euler_ancestral")}


def adaptive(inputs):
    return {"sampler": comfy.samplers.sampler_object("dpm_adaptive")}


def context_windows(inputs):
    patcher = inputs["guider"].model_patcher.clone()
    patcher.model_options["context_handler"] = object()
    return {"guider": guider_of(patcher)}


def on(*methods):
    return lambda inputs: {"guider": guider_of(attached(inputs["guider"].model_patcher, *methods))}


def prompts(inputs):
    return {"guider": custom.BasicGuider.execute(inputs["guider"].model_patcher, text(1, prompts=FRAMES))[0]}


def shorter():
    """A VIDEO of tensors."""
    from comfy_api.latest import Types

    components = Types.VideoComponents(images=torch.rand(5, SIDE, SIDE, 3), audio=None, frame_rate=Fraction(8))
    return InputImpl.VideoFromComponents(components)


@pytest.mark.parametrize("changed, message", [
    (ancestral, "sampler: euler_ancestral draws new noise"),
    (adaptive, "sampler: dpm_adaptive chooses its steps by the whole batch"),
    (context_windows, "guider: its model has context windows"),
    (on("stam"), "guider: its model has stam, in which every frame looks at the whole clip"),
    (on("ffam"), "guider: its model has ffam"),
    (on("rave"), "guider: its model has rave"),
    (prompts, "guider: its condition 'positive' holds prompts for 7 frames"),
    (lambda inputs: {"start": 99}, "start 99 is past the end; the clip has 7 frames"),
    (lambda inputs: {"control_net": object()}, "hint_video: is missing"),
    (lambda inputs: {"mask_video": inputs["video"], "video": shorter()}, "mask_video: has 7 frames in this range"),
    (lambda inputs: {"size": 60}, "size: 60 pixels do not divide by 8"),
])  # fmt: skip
def test_what_would_not_be_exact_is_refused_in_a_sentence(parts, video, changed, message):
    inputs = settings(*parts, video)
    with pytest.raises(ValueError, match=message) as caught:
        streamed(**{**inputs, **changed(inputs)})
    assert "\n" not in str(caught.value)


@pytest.mark.once
def test_an_edit_whose_process_was_killed_goes_on(tmp_path, weights_folder, monkeypatch):
    """SIGKILL after the first window; the rest is made by this process. ``killed_edit.py`` does it at ten moments."""
    folder = killed_edit.prepared(tmp_path, 12)
    command = [sys.executable, killed_edit.__file__, "--child", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not killed_edit.windows(folder):
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    node, inputs = killed_edit.edit_of(folder)
    frames, written = [], streaming.written
    monkeypatch.setattr(streaming, "written", lambda place, store, *rest: (frames.extend(store.frames()),
                                                                           written(place, store, *rest))[1])
    with torch.inference_mode():
        info = node.execute(**inputs).args[1]
    assert "found finished" in info
    rest = {name: inputs[name] for name in ("guider", "vae", "sampler", "sigmas")}
    whole = in_one_piece(inputs["video"], seed=1, **rest)
    # A level of 8 bits is what is kept.
    torch.testing.assert_close(torch.stack(frames), whole, atol=RUN + 0.5 / 255, rtol=0)
