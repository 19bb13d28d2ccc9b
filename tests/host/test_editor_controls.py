"""ControlNets and model patches of the host's editors beside gather-swap: each frame follows its own hint."""

from __future__ import annotations

import comfy.samplers
import narrow_editors
import narrow_flow
import pytest
import torch
from comfy_extras.nodes_model_patch import QwenImageDiffsynthControlnet
from narrow_flow import latent
from steadyedit.backends.comfy_native import guiding
from steadyedit.nodes.editor_conditioning import SIZES, EditorConditioning
from test_gather_swap_transformers import attached, sample
from tolerances import NETWORK

import nodes

FRAMES = 3
KINDS = {"qwen": (narrow_editors.qwen_clip, True, narrow_flow.qwen, narrow_editors.qwen_control),
         "flux": (narrow_editors.FluxText, False, narrow_flow.flux, narrow_editors.flux_control)}
#: The swap is left out, but its chunks are there.
CHUNKS_ALONE = {"group": 2, "frames": (0, 2), "end": 0.01}


def drawn(seed, frames=FRAMES):
    return torch.rand(frames, 32, 48, 3, generator=torch.Generator().manual_seed(seed))


def shown(kind):
    """MODEL, VAE and a clip's conditions and latent."""
    clip, video, model, _ = KINDS[kind]
    vae = narrow_editors.vae(video)
    with torch.inference_mode():
        return model(), vae, *EditorConditioning.execute(clip(), vae, drawn(1), "make it red", "", SIZES[0]).args


def with_hints(prompts, control, hints, vae):
    with torch.inference_mode():
        return nodes.ControlNetApplyAdvanced().apply_controlnet(*prompts, control, hints, 0.8, 0.0, 1.0, vae)


def of_frame(prompt, i):
    """A prompt for one frame alone."""
    ((text, extra),) = prompt

    def row(value):
        return value[i : i + 1] if torch.is_tensor(value) and len(value) > 1 else value

    return [[row(text), {**{key: row(value) for key, value in extra.items()},
                         "reference_latents": [row(reference) for reference in extra["reference_latents"]]}]]


@pytest.mark.parametrize("kind", KINDS)
def test_each_frame_follows_its_own_hint(kind, monkeypatch):
    """As the host's nodes edit the frame alone, in whatever chunks; Qwen's VAE makes one clip of a batch. Each hint is
    encoded once."""
    model, vae, *prompts, clip = shown(kind)
    control, hints, shape = KINDS[kind][3](), drawn(4), tuple(clip["samples"].shape)
    noise = latent(*shape, seed=8)

    def frame(i):
        hinted = with_hints([of_frame(prompt, i) for prompt in prompts], control, hints[i : i + 1], vae)
        return sample(model, None, *hinted, samples=noise[i : i + 1])

    alone = torch.cat([frame(i) for i in range(FRAMES)])
    given, seen, encode = with_hints(prompts, control, hints, vae), [], vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: (seen.append(len(pixels)), encode(pixels))[1])
    whole, parts = (sample(attached(model, **CHUNKS_ALONE, chunk=chunk), shape, *given) for chunk in (FRAMES, 2))
    for found in (whole, parts):
        assert (found - alone).abs().max() < NETWORK * alone.abs().max()
    assert seen == [1] * 2 * FRAMES and given[0][0][1]["control"].vae is vae
    one, other = (sample(attached(model, group=2, frames=(0, 2), chunk=chunk), shape, *given) for chunk in (1, FRAMES))
    assert (one - other).abs().max() < NETWORK * one.abs().max()
    assert (one - alone).abs().max() > 30 * NETWORK * one.abs().max(), "the swap must show"


def test_hints_of_a_streamed_edit_are_encoded_one_by_one():
    vae, hints = narrow_editors.vae(True), drawn(4)
    made = guiding.hinted({}, narrow_editors.qwen_control(), hints, 1.0, (0.0, 1.0), vae, {})["control"]
    with torch.inference_mode():
        found, expected = made.vae.encode(hints), torch.cat([vae.encode(hint) for hint in hints.split(1)])
    assert torch.equal(found, expected) and found.shape[:3] == (FRAMES, 16, 1)
    assert made.vae.spacial_compression_encode() == vae.spacial_compression_encode()


def test_a_model_patch_gives_all_frames_its_one_picture_and_refuses_several():
    model, vae, *prompts, clip = shown("qwen")
    shape = tuple(clip["samples"].shape)

    def patched(hints):
        with torch.inference_mode():
            node = QwenImageDiffsynthControlnet()
            return node.diffsynth_controlnet(model, narrow_editors.diffsynth(), vae, hints, 1.0)[0]

    one = patched(drawn(4, 1))
    plain, chunks = sample(one, shape, *prompts), sample(attached(one, **CHUNKS_ALONE, chunk=2), shape, *prompts)
    assert (plain - chunks).abs().max() < NETWORK * plain.abs().max()
    several = patched(drawn(4))
    with pytest.raises(ValueError, match="model: DiffSynthCnetPatch holds 3 pictures, of which gather-swap can not"):
        sample(attached(several, **CHUNKS_ALONE), shape, *prompts)
    guider = comfy.samplers.CFGGuider(several)
    with pytest.raises(ValueError, match="model: DiffSynthCnetPatch holds 3 pictures, of which an edit in windows"):
        guiding.check(guider, comfy.samplers.sampler_object("euler"))


@pytest.mark.parametrize(("reference", "said"), [
    (latent(1, 16, 2, 4, 6), "positive: holds a reference of 2 frames on one time axis, as a video VAE makes"),
    (latent(1, 16, 4, 6), r"positive: holds a reference of \[16, 4, 6\], but this model's latents are \[16, 1, 4, 6\]"),
    (latent(1, 4, 1, 4, 6), "positive: holds a reference of .* encode it with the model's own VAE"),
])
def test_references_that_are_no_pictures_of_the_model_are_told(reference, said):
    text, other = narrow_flow.text(1, reference_latents=[reference]), narrow_flow.text(2)
    with pytest.raises(ValueError, match=said):
        sample(attached(narrow_flow.qwen(), group=2, frames=(0, 2)), (3, 16, 1, 4, 6), text, other)


@pytest.mark.parametrize("made_of", [narrow_flow.flux, narrow_flow.qwen, narrow_flow.flux2, narrow_flow.sd3])
def test_only_models_that_read_references_take_them_in_a_streamed_edit(made_of):
    guider = comfy.samplers.CFGGuider(made_of())
    guider.set_conds(narrow_flow.text(1, reference_latents=[latent(1, 16, 4, 6)]), narrow_flow.text(2))
    if made_of is not narrow_flow.sd3:
        guiding.check(guider, comfy.samplers.sampler_object("euler"))
        return
    with pytest.raises(ValueError, match="positive: holds reference latents, which this model does not read"):
        guiding.check(guider, comfy.samplers.sampler_object("euler"))
