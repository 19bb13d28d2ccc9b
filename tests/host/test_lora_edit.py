"""LoRA-Edit's nodes in the host: condition and training against the host's own nodes, and bad input."""

from __future__ import annotations

import comfy.model_base
import pytest
import torch
from steadyedit import nodes
from steadyedit.methods.lora_edit.choices import HUNYUAN, HUNYUAN_2, HUNYUAN_15, WAN
from tolerances import FLOAT32_STEP
from toys import Quiet, assert_untouched, traces, weights
from videos import BACKEND, TEXT, VISION, model

NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}


def run(node_id, **inputs):
    """Call a node as the host does, in inference mode, with the defaults of what is not given."""
    schema = NODES[node_id].GET_SCHEMA()
    given = {}
    for part in schema.inputs:
        if not part.optional and part.get_io_type() == "COMBO":
            given[part.id] = part.options[0]
        elif not part.optional and getattr(part, "default", None) is not None:
            given[part.id] = part.default
    with torch.inference_mode():
        return NODES[node_id].execute(**given | inputs).result


class VideoVAE:
    """Cells' means in the causal VAE's pattern, 16 channels of 8x8 pixels; for HunyuanVideo 1.5 32 of 16x16."""

    def __init__(self, channels=16, cell=8):
        self.channels, self.cell = channels, cell

    def encode(self, images):
        count, height, width = images.shape[:3]
        cells = images[..., :3].reshape(count, height // self.cell, self.cell, width // self.cell, self.cell, 3)
        cells = cells.mean((2, 4))
        frames = [cells[0]] + [cells[i : i + 4].mean(0) for i in range(1, len(cells), 4)]
        return torch.stack(frames).permute(3, 0, 1, 2)[None].repeat(1, 11, 1, 1, 1)[:, : self.channels]


class Vision:
    """Remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def encode_image(self, image, crop=True):
        import comfy.clip_vision

        self.seen.append((image.clone(), crop))
        out = comfy.clip_vision.Output()
        out["penultimate_hidden_states"] = torch.full((1, 5, VISION), float(image.mean()))
        return out


def video(frames=5, height=32, width=48):
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(1))


def mask(frames=5, height=32, width=48):
    found = torch.zeros(frames, height, width)
    found[:, 8:20, 10:30] = 1
    return found


def text(seed=1, pooled=False):
    generator = torch.Generator().manual_seed(seed)
    extra = {"pooled_output": torch.randn(1, 768, generator=generator)} if pooled else {}
    return [[torch.randn(1, 7, TEXT, generator=generator), extra]]


def sample_of(**changes):
    (samples,) = run("SteadyEditMaskSample", **{"positive": text(), "vae": VideoVAE(), "video": video(), "mask": mask()}
                     | changes)  # fmt: skip
    return samples


def test_the_host_hands_the_network_the_papers_mask():
    """Through the host's own ``concat_cond``: M is 1 where the clip is kept, before the condition's latents."""
    positive, negative, latent = run("SteadyEditMaskCondition", positive=text(1), negative=text(2), vae=VideoVAE(),
                                     video=video(), mask=mask(), edited_first_frame=video()[:1] * 0.5)  # fmt: skip
    assert latent["samples"].shape == (1, 16, 2, 4, 6) and not latent["samples"].any()
    noise = torch.zeros_like(latent["samples"])
    for conditioning in (positive, negative):
        found = model("plain").model.concat_cond(noise=noise, device=noise.device, **conditioning[0][1])
        keep = torch.ones(4, 2, 4, 6)
        keep[:, 1, 1:3, 1:4] = 0
        assert torch.equal(found[0, :4], keep)
        pixels = video() * (1 - mask()[..., None]) + 0.5 * mask()[..., None]
        pixels[0] = video()[0] * 0.5
        expected = model("plain").model.process_latent_in(VideoVAE().encode(pixels))
        assert torch.equal(found[0, 4:], expected[0])


def test_the_default_is_the_hosts_own_image_to_video():
    """``keep`` the first frame gives what WanImageToVideo gives."""
    import comfy_extras.nodes_wan as wan

    found, _, _ = run("SteadyEditMaskCondition", positive=text(), negative=text(2), vae=VideoVAE(), video=video(),
                      keep="first frame")  # fmt: skip
    arguments = (text(), text(2), VideoVAE(), 48, 32, 5, 1)
    given = wan.WanImageToVideo.execute(*arguments, start_image=video()[:1]).result[0]
    noise = torch.zeros(1, 16, 2, 4, 6)
    ours, theirs = (model("plain").model.concat_cond(noise=noise, device=noise.device, **conditioning[0][1])
                    for conditioning in (found, given))  # fmt: skip
    assert torch.allclose(ours, theirs, atol=FLOAT32_STEP)


def test_hunyuan_gets_its_one_rounded_channel():
    positive, _, _ = run("SteadyEditMaskCondition", positive=text(pooled=True), negative=text(pooled=True),
                         vae=VideoVAE(), video=video(), mask=mask() * 0.6, family=HUNYUAN)  # fmt: skip
    base, noise = model("hunyuan").model, torch.zeros(1, 16, 2, 4, 6)
    assert isinstance(base, comfy.model_base.HunyuanVideoI2V)
    found = base.concat_cond(noise=noise, device=noise.device, **positive[0][1])
    keep = torch.ones(2, 4, 6)
    keep[1, 1:3, 1:4] = 0
    assert found.shape[1] == 17 and torch.equal(found[0, 16], keep)


@pytest.mark.parametrize("soft", [False, True])
def test_hunyuan_1_5_gets_its_one_channel_in_cells_of_16(soft):
    """Noise, condition, mask: 65 channels of the host's own network."""
    given = mask() * 0.6
    positive, _, latent = run("SteadyEditMaskCondition", positive=text(pooled=True), negative=text(pooled=True),
                              vae=VideoVAE(32, 16), video=video(), mask=given, family=HUNYUAN_15, soft=soft)
    base = model("hunyuan 1.5").model
    assert type(base) is comfy.model_base.HunyuanVideo15 and latent["samples"].shape == (1, 32, 2, 2, 3)
    found = base.concat_cond(noise=latent["samples"], device=torch.device("cpu"), **positive[0][1])
    keep = torch.ones(2, 2, 3)
    keep[1, :, :2] = 0.4 if soft else 0
    assert found.shape[1] == 33 and torch.allclose(found[0, 32], keep, atol=FLOAT32_STEP)
    hidden = (given if soft else (given >= 0.5).float())[..., None]
    pixels = video() * (1 - hidden) + 0.5 * hidden
    pixels[0] = video()[0]
    expected = base.process_latent_in(VideoVAE(32, 16).encode(pixels))
    assert torch.allclose(found[0, :32], expected[0], atol=FLOAT32_STEP)


def test_hunyuan_1_5_with_the_first_frame_alone_is_the_hosts_own():
    import comfy_extras.nodes_hunyuan as hunyuan

    found, _, _ = run("SteadyEditMaskCondition", positive=text(), negative=text(2), vae=VideoVAE(32, 16), video=video(),
                      keep="first frame", family=HUNYUAN_15)  # fmt: skip
    arguments = (text(), text(2), VideoVAE(32, 16), 48, 32, 5, 1)
    given = hunyuan.HunyuanVideo15ImageToVideo.execute(*arguments, start_image=video()[:1]).result[0]
    noise = torch.zeros(1, 32, 2, 2, 3)
    ours, theirs = (model("hunyuan 1.5").model.concat_cond(noise=noise, device=noise.device, **conditioning[0][1])
                    for conditioning in (found, given))  # fmt: skip
    assert torch.allclose(ours, theirs, atol=FLOAT32_STEP)
    with pytest.raises(ValueError, match=r"vae: .* the video VAE of HunyuanVideo 1.5 I2V gives \[1, 32, 1, 2, 3\]"):
        run("SteadyEditMaskCondition", positive=text(), negative=text(2), vae=VideoVAE(), video=video(),
            keep="first frame", family=HUNYUAN_15)  # fmt: skip


def test_hunyuan_1_5_is_known_in_its_files_format_and_samples_with_its_condition():
    """By core's own loader, CFG and sampler."""
    import comfy.samplers
    import comfy.sd

    state = {key: value.clone() for key, value in model("hunyuan 1.5").model.diffusion_model.state_dict().items()}
    with torch.inference_mode():
        loaded = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": torch.float32})
    assert BACKEND.video_family(loaded) == HUNYUAN_15
    prompts = run("SteadyEditMaskCondition", positive=text(pooled=True), negative=text(2, pooled=True),
                  vae=VideoVAE(32, 16), video=video(), mask=mask(), family=HUNYUAN_15)  # fmt: skip
    guider = comfy.samplers.CFGGuider(loaded)
    guider.set_conds(*prompts[:2])
    guider.set_cfg(3.0)
    clip = prompts[2]["samples"]
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        out = guider.sample(noise, clip, comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0]), seed=0,
                            disable_pbar=True)
    assert out.shape == clip.shape and torch.isfinite(out).all() and out.std() > 0


def test_clip_vision_sees_the_original_in_training_and_the_edit_in_use():
    vision, edited = Vision(), video()[:1] * 0.25
    run("SteadyEditMaskCondition", positive=text(), negative=text(2), vae=VideoVAE(), video=video(), mask=mask(),
        edited_first_frame=edited, clip_vision=vision)  # fmt: skip
    (samples,) = [sample_of(clip_vision=vision)]
    assert torch.equal(vision.seen[0][0], edited) and torch.equal(vision.seen[1][0], video()[:1])
    assert "clip_vision_output" in samples[0].conditioning[0][1]


def test_samples_chain_and_cut():
    clips = sample_of(video=video(13), mask=mask(13), clip_length=5)
    assert [s.label for s in clips] == ["frames 0 to 4", "frames 4 to 8", "frames 8 to 12"]
    assert all(s.latent.shape == (1, 16, 2, 4, 6) and not s.conditioning[0][1]["concat_mask"][:, :, 0].any()
               for s in clips)  # fmt: skip
    frame = video(1)
    (both,) = run("SteadyEditFrameSample", positive=text(), vae=VideoVAE(), original_frame=frame,
                  edited_frame=1 - frame, mask=mask(1), samples=clips)  # fmt: skip
    assert len(both) == 4 and both[:3] == clips and both[3].repeats == 9
    last = both[3].conditioning[0][1]
    assert torch.equal(both[3].latent, VideoVAE().encode(1 - frame))
    assert last["concat_mask"][0, :, 0, 1:3, 1:4].min() == 1, "no frame is kept as a whole"
    assert torch.equal(last["concat_latent_image"], VideoVAE().encode(
        frame * (1 - mask(1)[..., None]) + 0.5 * mask(1)[..., None]))  # fmt: skip


def test_the_authors_gray_goes_through_every_node():
    hidden, lighter = mask()[..., None], 128 / 255
    expected = VideoVAE().encode(video() * (1 - hidden) + lighter * hidden)
    positive, _, _ = run("SteadyEditMaskCondition", positive=text(), negative=text(2), vae=VideoVAE(), video=video(),
                         mask=mask(), keep="outside", gray="official")  # fmt: skip
    (sample,) = sample_of(keep="outside", gray="official")
    frame = video(1)
    ((one,),) = run("SteadyEditFrameSample", positive=text(), vae=VideoVAE(), original_frame=frame, edited_frame=frame,
                    mask=mask(1), gray="official")  # fmt: skip
    for found in (positive, sample.conditioning):
        assert torch.equal(found[0][1]["concat_latent_image"], expected)
    assert torch.equal(one.conditioning[0][1]["concat_latent_image"], VideoVAE().encode(
        frame * (1 - hidden[:1]) + lighter * hidden[:1]))  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "hunyuan", "hunyuan 1.5"])
def test_a_trained_lora_goes_through_the_core_loaders(kind, tmp_path, monkeypatch):
    """Trained, saved and loaded by the host's own nodes: the same model; the input MODEL bit for bit as it was."""
    import comfy.utils
    import folder_paths

    import nodes as core

    monkeypatch.setattr(BACKEND.__class__, "progress", lambda self, total, label: Quiet())
    patcher = model(kind)
    before, marks = weights(patcher), traces(patcher)
    family = {"hunyuan": HUNYUAN, "hunyuan 1.5": HUNYUAN_15}.get(kind, WAN)
    vae = VideoVAE(32, 16) if family == HUNYUAN_15 else VideoVAE()
    samples = sample_of(positive=text(pooled=family != WAN), family=family, vae=vae)
    lora, trained, loss_map = run("SteadyEditMaskLoRATrain", model=patcher, samples=samples, steps=20,
                                  learning_rate=3e-3, rank=2)  # fmt: skip
    assert_untouched(patcher, before, marks)
    losses = loss_map["loss"]
    assert len(losses) == 20
    assert all(key.startswith("diffusion_model.") for key in lora)
    comfy.utils.save_torch_file(lora, str(tmp_path / "edit.safetensors"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    (loaded,) = core.LoraLoaderModelOnly().load_lora_model_only(patcher, "edit.safetensors", 1.0)
    assert loaded.patches.keys() == trained.patches.keys() and len(trained.patches) == len(lora) // 2
    key = next(iter(loaded.patches))
    with torch.inference_mode():
        one, other = (comfy.lora.calculate_weight(p.patches[key], before[key].clone(), key) for p in (loaded, trained))
    assert torch.equal(one, other) and not torch.equal(one, before[key])
    again = run("SteadyEditMaskLoRATrain", model=patcher, samples=samples, steps=20, learning_rate=3e-3, rank=2)
    assert all(torch.equal(again[0][key], lora[key]) for key in lora) and again[2] == loss_map
    assert average(losses, samples, trained) < average(losses, samples, patcher)


@torch.no_grad()
def average(losses, samples, patcher):
    """The flow's loss of a MODEL over a few noise levels."""
    from steadyedit.diffusion.flow import RectifiedFlow
    from steadyedit.methods.lora_edit.memory import MemoryPlan

    flow, clean = RectifiedFlow(), BACKEND.to_model_space(patcher, samples[0].latent.clone())
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode(), BACKEND.video_training(patcher, samples, {}, MemoryPlan(0, 0, 0, 0), "auto") as view:
        errors = []
        for level in (0.2, 0.5, 0.8):
            sigma = torch.tensor(level)
            velocity = view.predict_velocity(flow.add_noise(clean, noise, sigma), sigma, 0)
            errors.append((velocity - flow.target(clean, noise)).square().mean().item())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("node, changes, words", [
    ("SteadyEditMaskCondition", {"video": video(4)}, "video: 4 frames, .* use 1 or 5"),
    ("SteadyEditMaskCondition", {"mask": mask() * 0 + 1}, "mask: selects every pixel"),
    ("SteadyEditMaskCondition", {"mask": mask() * 0}, "mask: selects nothing"),
    ("SteadyEditMaskCondition", {"edited_first_frame": video(1, 48, 48)}, "edited_first_frame: 1 of 48x48"),
    ("SteadyEditMaskCondition", {"family": HUNYUAN_2}, "family: .* no mask channel"),
    ("SteadyEditMaskSample", {"clip_length": 4}, "clip_length: 4 frames"),
    ("SteadyEditMaskSample", {"video": video(12)}, "video: 12 frames, .* use 9 or 13"),
    ("SteadyEditMaskSample", {"mask": mask(13) * 0 + 1}, "mask: selects every pixel"),
    ("SteadyEditMaskSample", {"mask": mask(13) * 0}, "mask: selects nothing"),
    ("SteadyEditMaskSample", {"family": HUNYUAN_2}, "family: .* no mask channel"),
    ("SteadyEditMaskSample", {"positive": text() + text(2)}, "positive: expected one prompt"),
    ("SteadyEditFrameSample", {"edited_frame": video(1, 48, 48)}, "edited_frame: 1 of 48x48 .* original is 1 of 48x32"),
    ("SteadyEditFrameSample", {"original_frame": video(5)}, "original_frame: 5 frames"),
])  # fmt: skip
def test_bad_input_is_told_in_one_sentence(node, changes, words):
    given = {"positive": text(), "vae": VideoVAE(), **{
        "SteadyEditMaskCondition": {"negative": text(2), "video": video(), "mask": mask()},
        "SteadyEditMaskSample": {"video": video(13), "mask": mask(13)},
        "SteadyEditFrameSample": {"original_frame": video(1), "edited_frame": video(1), "mask": mask(1)},
    }[node]}  # fmt: skip
    with pytest.raises(ValueError, match=words):
        run(node, **given | changes)


def test_a_model_that_is_no_image_to_video_is_refused():
    from toys import model as unet

    with pytest.raises(TypeError, match="model: .* is no image-to-video model"):
        run("SteadyEditMaskLoRATrain", model=unet(), samples=sample_of())
    with pytest.raises(ValueError, match="samples: are made for Wan 2.1 I2V, but the model is HunyuanVideo"):
        run("SteadyEditMaskLoRATrain", model=model("hunyuan"), samples=sample_of())
