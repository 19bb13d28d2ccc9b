"""The conditioning of a clip for editors that read the picture as reference latents, in the host."""

from __future__ import annotations

from fractions import Fraction

import comfy.samplers
import comfy.sd
import comfy_extras.nodes_edit_model as edit_model
import comfy_extras.nodes_flux as flux
import comfy_extras.nodes_model_advanced as model_advanced
import comfy_extras.nodes_qwen as qwen
import narrow_editors
import narrow_flow
import pytest
import torch
from comfy_api.latest import InputImpl
from comfy_extras import nodes_custom_sampler as custom
from narrow_editors import FluxText
from steadyedit.nodes import node_list
from steadyedit.nodes.editor_conditioning import SIZES, EditorConditioning
from steadyedit.streaming.store import WindowStore
from steadyedit.video.write import write_clip
from test_gather_swap_transformers import attached, sample
from tolerances import NETWORK, RUN

import nodes

FRAMES, OWN, TRAINED = 3, *SIZES
BY_ID = {node.GET_SCHEMA().node_id: node for node in node_list()}
INSTRUCTION, NEGATIVE = "make the fish red", "blurred"


def clip_of(height=32, width=48, frames=FRAMES, seed=1):
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def parts():
    """CLIP, VAE and MODEL of each editor."""
    return {"qwen": (narrow_editors.qwen_clip(), narrow_editors.vae(True), narrow_flow.qwen()),
            "flux": (FluxText(), narrow_editors.vae(False), narrow_flow.flux())}


class OneByOne:
    """A VAE for hints in the host's own batch: without gather-swap, Qwen's makes one clip of them."""

    def __init__(self, vae):
        self.vae, self.spacial_compression_encode = vae, vae.spacial_compression_encode

    def encode(self, pixels):
        return torch.cat([self.vae.encode(picture) for picture in pixels.split(1)])


def made(clip, vae, images, size=OWN, **more):
    with torch.inference_mode():
        return EditorConditioning.execute(clip, vae, images, INSTRUCTION, NEGATIVE, size, **more).args


def by_the_hosts_nodes(kind, clip, vae, frame, text, size, picture=None):
    """One frame alone, as core's templates are wired."""
    shown = [frame] if picture is None else [frame, picture]
    with torch.inference_mode():
        if kind == "qwen" and size == TRAINED:
            return qwen.TextEncodeQwenImageEditPlus.execute(clip, text, vae, *shown).args[0]
        if kind == "qwen":
            out = qwen.TextEncodeQwenImageEditPlus.execute(clip, text, None, *shown).args[0]
        else:
            out = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        for one in shown:
            one = flux.FluxKontextImageScale.execute(one).args[0] if size == TRAINED else one
            out = edit_model.ReferenceLatent.execute(out, {"samples": vae.encode(one)}).args[0]
        return out


@pytest.mark.parametrize("picture", [None, clip_of(40, 32, 1, seed=9)], ids=["alone", "beside"])
@pytest.mark.parametrize("kind", ["qwen", "flux"])
def test_each_row_is_what_the_hosts_nodes_give_the_frame(parts, kind, picture):
    clip, vae, _ = parts[kind]
    images = clip_of()
    *prompts, latent = made(clip, vae, images, picture=picture)
    for prompt, text in zip(prompts, (INSTRUCTION, NEGATIVE), strict=True):
        ((words, extra),) = prompt
        for i in range(FRAMES):
            ((alone, other),) = by_the_hosts_nodes(kind, clip, vae, images[i : i + 1], text, OWN, picture)
            torch.testing.assert_close(words[i % len(words)], alone[0], atol=NETWORK, rtol=0)
            assert len(extra["reference_latents"]) == len(other["reference_latents"])
            for ours, theirs in zip(extra["reference_latents"], other["reference_latents"], strict=True):
                torch.testing.assert_close(ours[i % len(ours)], theirs[0], atol=NETWORK, rtol=0)
    if kind == "qwen":
        assert (prompts[0][0][0][0] - prompts[0][0][0][1]).abs().max() > 0.01, "the text must see the frame"
    with torch.inference_mode():
        assert torch.equal(latent["samples"], torch.cat([vae.encode(images[i : i + 1]) for i in range(FRAMES)]))


@pytest.mark.parametrize("kind", ["qwen", "flux"])
def test_at_the_models_own_size(parts, kind, monkeypatch):
    """A VAE that only halves: a million pixels take the true one half a minute."""

    class Halving:
        latent_channels, latent_dim = 16, 3 if kind == "qwen" else 2

        def encode(self, pixels):
            small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8).repeat(1, 6, 1, 1)[:, :16]
            return small[:, :, None] if kind == "qwen" else small

    clip, vae = parts[kind][0], Halving()
    images = clip_of(24, 40, 2)
    positive, _, latent = made(clip, vae, images, TRAINED)
    ours = positive[0][1]["reference_latents"]
    for i in range(2):
        theirs = by_the_hosts_nodes(kind, clip, vae, images[i : i + 1], INSTRUCTION, TRAINED)[0][1]["reference_latents"]
        assert torch.equal(ours[0][i], theirs[0][0])
    assert latent["samples"].shape[-2:] == (3, 5)


@pytest.mark.parametrize("kind", ["qwen", "flux"])
def test_a_batch_is_edited_as_its_frames_alone(parts, kind):
    clip, vae, model = parts[kind]
    images = clip_of()
    positive, negative, latent = made(clip, vae, images)
    whole = sample(model, tuple(latent["samples"].shape), positive, negative)
    noise = narrow_flow.latent(*latent["samples"].shape, seed=8)
    for i in range(FRAMES):
        alone = sample(model, None, *(by_the_hosts_nodes(kind, clip, vae, images[i : i + 1], text, OWN)
                                      for text in (INSTRUCTION, NEGATIVE)), samples=noise[i : i + 1])
        assert (whole[i] - alone[0]).abs().max() < NETWORK * whole.abs().max()
    swapped = sample(attached(model, group=2, frames=(0, 2)), tuple(latent["samples"].shape), positive, negative)
    assert swapped.shape == whole.shape and torch.isfinite(swapped).all()
    assert (swapped - whole).abs().max() > 30 * NETWORK * whole.abs().max()


def test_the_host_makes_room_for_the_references_of_one_call(parts, monkeypatch):
    """Not for those of the clip: it would put the model off the card for them."""
    clip, vae, model = parts["qwen"]
    positive, negative, latent = made(clip, vae, clip_of())
    asked, real = [], type(model.model).memory_required

    def memory_required(self, input_shape, cond_shapes=None):
        asked.append((input_shape, {key: list(shapes) for key, shapes in (cond_shapes or {}).items()}))
        return real(self, input_shape, cond_shapes or {})

    monkeypatch.setattr(type(model.model), "memory_required", memory_required)
    sample(attached(model, group=2, frames=(0, 2), chunk=1), tuple(latent["samples"].shape), positive, negative)
    cells = latent["samples"][0, 0].numel()
    # Twice a row of the clip, and a reference for each prompt: the group's two frames are the longest call.
    assert asked[0][0][0] == 2 * 2 and asked[0][1]["ref_latents"][0] == [1, 16, 2 * cells]
    assert latent["samples"].shape[0] > 2


def streamed(model, vae, video, prompts, **more):
    guider = custom.CFGGuider.execute(model, *prompts, 2.0)[0]
    inputs = {"video": InputImpl.VideoFromFile(str(video)), "guider": guider, "vae": vae, "seed": 3,
              "sampler": comfy.samplers.sampler_object("euler"), "sigmas": torch.linspace(1, 0, 3),
              "noise": "each frame its own", "window": 2, "start": 0, "count": 0, "stride": 1, "size": 32, **more}
    with torch.inference_mode():
        return BY_ID["SteadyEditStreamedEdit"].execute(**inputs).args[0]


@pytest.mark.parametrize("kind", ["qwen", "flux"])
def test_a_streamed_edit_makes_them_for_each_window(parts, kind, tmp_path, monkeypatch):
    clip, vae, model = parts[kind]
    video = write_clip(tmp_path / "clip.mp4", clip_of(32, 32, 5), Fraction(8))
    with torch.inference_mode():
        frames = BY_ID["SteadyEditLoadFrames"].execute(InputImpl.VideoFromFile(str(video)), 0, 0, 1, 32).args[0]
    held, keep = {}, WindowStore.keep

    def watched(store, window, done):
        held.update({window.first + i: frame.clone() for i, frame in enumerate(done)})
        keep(store, window, done)

    monkeypatch.setattr(WindowStore, "keep", watched)
    swap = attached(model, group=2, frames=(0, 4))
    # One frame for the stream, behind a node that adds something; all of them in one piece.
    once, every = (made(clip, vae, given) for given in (frames[:1], frames))
    method = lambda prompt: flux.FluxKontextMultiReferenceLatentMethod.execute(prompt, "index").args[0]  # noqa: E731
    first = streamed(swap, vae, video, [method(prompt) for prompt in once[:2]])
    guider = custom.CFGGuider.execute(swap, *[method(prompt) for prompt in every[:2]], 2.0)[0]
    with torch.inference_mode():
        out = custom.SamplerCustomAdvanced.execute(
            custom.Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, 3),
            every[2])[0]
        whole = nodes.VAEDecode().decode(vae, out)[0]
    torch.testing.assert_close(torch.stack([held[i] for i in sorted(held)]), whole.float(), atol=RUN, rtol=0)
    again = streamed(swap, vae, video, [method(prompt) for prompt in once[:2]])
    assert again.get_stream_source() == first.get_stream_source(), "a finished edit must be found again"
    if kind == "flux":
        changed = nodes.ConditioningZeroOut().zero_out(once[1])[0]
        with pytest.raises(ValueError, match="guider: a node behind Editor Conditioning changed its text"):
            streamed(swap, vae, video, [once[0], changed], seed=4)
    with pytest.raises(ValueError, match="holds reference latents for 5 frames"):
        streamed(swap, vae, video, every[:2], image_condition="as connected", seed=5)


def test_nodes_of_these_families_chain(parts):
    """A LoRA before and after, another shift and scheduler, core's ReferenceLatent and a ControlNet with a hint for
    each frame: chunks change nothing, and with the swap left out it is the host's own result."""
    clip, vae, model = parts["qwen"]
    positive, negative, latent = made(clip, vae, clip_of())
    shape = tuple(latent["samples"].shape)
    one_for_all = {"samples": narrow_flow.latent(1, *shape[1:], seed=21)}
    positive, negative = (edit_model.ReferenceLatent.execute(prompt, one_for_all).args[0]
                          for prompt in (positive, negative))  # fmt: skip
    hints = torch.rand(FRAMES, *clip_of().shape[1:], generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, narrow_editors.qwen_control(), hints, 0.8, 0.0, 1.0, OneByOne(vae))
    names = [f"diffusion_model.transformer_blocks.{i}.attn.to_q" for i in range(2)]
    lora = {}
    for i, name in enumerate(names):
        generator = torch.Generator().manual_seed(i)
        lora[f"{name}.lora_up.weight"] = torch.randn(48, 2, generator=generator)
        lora[f"{name}.lora_down.weight"] = torch.randn(2, 48, generator=generator) / 7

    def with_lora(patcher):
        return comfy.sd.load_lora_for_models(patcher, None, lora, 0.7, 0)[0]

    def run(patcher):
        patcher = model_advanced.ModelSamplingAuraFlow().patch_aura(patcher, 1.7)[0]
        sigmas = custom.BasicScheduler.execute(patcher, "beta", 3, 1.0).args[0]
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(positive, negative)
        guider.set_cfg(2.0)
        noise = narrow_flow.latent(*shape, seed=8)
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("dpmpp_2m"), sigmas,
                                 disable_pbar=True, seed=0)  # fmt: skip

    swap = {"group": 2, "frames": (0, 2)}
    before, after = run(attached(with_lora(model), **swap)), run(with_lora(attached(model, chunk=1, **swap)))
    assert (before - after).abs().max() < NETWORK * before.abs().max()
    left_out, plain = run(attached(with_lora(model), chunk=1, **{**swap, "end": 0.01})), run(with_lora(model))
    assert (left_out - plain).abs().max() < NETWORK * plain.abs().max()
    for other in (plain, run(attached(model, **swap))):
        assert (before - other).abs().max() > 30 * NETWORK * before.abs().max()
    model.unpatch_model()


def test_flux_2_is_shown_its_frames():
    class Patches:
        latent_channels, latent_dim = 128, 2

        def encode(self, pixels):
            return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 16).repeat(1, 43, 1, 1)[:, :128]

    images = clip_of(48, 64)
    positive, negative, latent = made(narrow_editors.Flux2Text(), Patches(), images)
    assert torch.equal(positive[0][1]["reference_latents"][0], latent["samples"]) and len(positive[0][0]) == 1
    whole = sample(attached(narrow_flow.flux2(), group=2, frames=(0, 2)), (FRAMES, 128, 3, 4), positive, negative)
    assert torch.isfinite(whole).all()


def test_bad_input_is_told(parts):
    clip, vae, _ = parts["qwen"]
    with pytest.raises(ValueError, match="vae: is an image VAE of 16 channels, but Qwen-Image-Edit, whose text"):
        made(clip, narrow_editors.vae(False), clip_of())
    with pytest.raises(ValueError, match="picture: holds 2 pictures, but one is shown beside every frame"):
        made(clip, vae, clip_of(), picture=clip_of(frames=2))
    with pytest.raises(ValueError, match="images: frames of mixed sizes, 32x32 and 48x32"):
        made(clip, vae, [clip_of(), clip_of(32, 32)])

    class Other(FluxText):
        encoders = ("g", "l", "t5xxl")

    with pytest.raises(TypeError, match="clip: its text encoder is g and l and t5xxl, but this needs that of Qwen"):
        made(Other(), vae, clip_of())
