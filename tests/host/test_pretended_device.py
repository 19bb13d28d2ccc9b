"""The host with its models on a device that only pretends: everything equals the CPU.

Inputs arrive as users' do, on the CPU; what is left there beside the model's device raises, as on a GPU.
"""

from __future__ import annotations

import shutil
from fractions import Fraction

import comfy.model_management as mm
import comfy.model_patcher
import narrow_flow
import pretended
import pytest
import torch
import toys
import videos
from comfy_api.latest import InputImpl
from comfy_extras.nodes_custom_sampler import (
    CFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustom,
    SamplerCustomAdvanced,
)
from steadyedit import backends
from steadyedit.backends.comfy_native import toy
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora
from steadyedit.methods.registry import build_on
from steadyedit.methods.tokenflow import Source
from steadyedit.methods.tuning import TuneRecipe, tune
from steadyedit.methods.via.blend import BoundaryBlend
from steadyedit.nodes import adaptation, blend, inversion, null_text, prompt_to_prompt, streamed_edit
from steadyedit.streaming.store import WindowStore
from steadyedit.toyworld import models
from steadyedit.video.write import write_clip
from steadyedit.vision.segmentation import Prompt, segment_frame
from steadyedit.vision.segmentation import load as segmentation
from steadyedit.vision.segmentation.sam import Sam, TransformersEngine
from tiny_vision import TINY_SAM, shaken
from tolerances import RUN

import nodes

pytestmark = pytest.mark.skipif(pretended.missing() is not None, reason=str(pretended.missing()))
BACKEND = toys.BACKEND
ROOM = 20 * 2**30
METHODS = [(), ("stam", "ffam"), ("sparse-causal", "temporal-attention"), ("simda",), ("gather-swap",), ("rave",),
           ("norm-tune",), ("visual-adapter",)]  # fmt: skip
SETTINGS = {"gather-swap": {"group": 2}, "rave": {"grid": 2}, "approximate-windows": {"length": 2, "overlap": 1}}
def put_host_on(patch, device: str) -> None:
    """Let the host take a device for its own, as if it had a GPU with memory enough."""
    place, cpu = torch.device(device), torch.device("cpu")
    whole = {"get_torch_device": place, "supports_fp8_compute": False, "should_use_fp16": False,
             "should_use_bf16": False, "xformers_enabled": False, "unet_offload_device": cpu,
             "text_encoder_offload_device": cpu, "vae_offload_device": cpu, "unet_inital_load_device": cpu,
             "text_encoder_device": place, "vae_device": place, "soft_empty_cache": None,
             # Pinned memory needs a device in C++.
             "device_supports_non_blocking": False}  # fmt: skip
    for name, value in whole.items():
        patch.setattr(mm, name, lambda *args, value=value, **kwargs: value)
    # The second value is what torch itself keeps.
    for name in ("get_free_memory", "get_total_memory"):
        patch.setattr(mm, name, lambda dev=None, both=False, **kwargs: (ROOM, ROOM) if both or kwargs else ROOM)
    patch.setattr(mm, "vram_state", mm.VRAMState.NORMAL_VRAM)
    patch.setattr(mm, "set_vram_to", mm.VRAMState.NORMAL_VRAM)


def offload_half(patch) -> None:
    """Let the host find room for half of each model's weights: the others wait in the main memory until a layer is
    computed. What must be loaded whole is."""
    load = mm.LoadedModel.model_load

    def partly(loaded, room=0, *args, **kwargs):
        size = loaded.model_memory()
        found = load(loaded, size / 2 if room else room, *args, **kwargs)
        assert not room or 0 < loaded.model_loaded_memory() < size
        return found

    patch.setattr(mm.LoadedModel, "model_load", partly)


@pytest.fixture(autouse=True)
def freed():
    pretended.setup()
    yield
    mm.unload_all_models()


def on_both(run, room: str = "enough") -> None:
    """``run`` gives tensors: on the pretended device those of the CPU."""
    found = []
    for device in ("cpu", pretended.DEVICE):
        with pytest.MonkeyPatch.context() as patch:
            if device != "cpu":
                put_host_on(patch, device)
                if room == "half":
                    offload_half(patch)
            with torch.inference_mode():  # as the host runs its nodes
                torch.manual_seed(0)
                found.append([x.detach().float().cpu().clone() for x in run()])
            mm.unload_all_models()
    for number, (expected, got) in enumerate(zip(*found, strict=True)):
        error = ((got - expected).norm() / expected.norm()).item()
        assert error < RUN, f"result {number}, {tuple(expected.shape)}: off by {error:.1e}"


def unet(*methods: str, inputs: int = 4):
    state = toys.diffusers_unet().state_dict()
    if inputs == 8:
        torch.manual_seed(1)
        state = models.build_unet(8).state_dict()
    patcher = toy.unet_from(state)
    for name in methods:
        attachment = toys.moved(build_on(BACKEND, patcher, name, SETTINGS.get(name, {})))
        patcher = BACKEND.attach(patcher, attachment)
    return patcher


@pytest.mark.parametrize("methods", METHODS, ids=lambda names: "+".join(names) or "plain")
def test_sampling_and_inversion(methods):
    def run():
        patcher = unet(*methods)
        yield toys.sample(patcher)
        sigmas = BACKEND.schedule(patcher).ddim_sigmas(2).flip(0)
        yield BACKEND.invert(patcher, toys.text(1), toys.clip(), sigmas, 1, toys.Quiet())[-1]

    on_both(run)


def named(given) -> str:
    return given if isinstance(given, str) else "+".join(given)


@pytest.mark.parametrize("methods, room", [
    # Modules of ours, keys and values kept, norms replaced.
    (("stam", "ffam"), "half"), (("gather-swap",), "half"), (("norm-tune",), "half"),
    (("stam", "approximate-windows"), "enough")], ids=named)  # fmt: skip
def test_sampling(methods, room):
    on_both(lambda: [toys.sample(unet(*methods), steps=1)], room)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_blend_follows_a_mask_and_an_inversion_on_the_cpu(sampler):
    def run():
        patcher = unet()
        sigmas = BACKEND.schedule(patcher).ddim_sigmas(2)
        path = Trajectory([toys.clip() + i for i in range(3)], sigmas.flip(0))
        keep = (torch.arange(64.0) / 64).reshape(1, 1, 8, 8)
        mixed = BACKEND.blend_sampler(sampler, BoundaryBlend(path, keep))
        yield BACKEND.sample(patcher, toys.text(1), toys.text(2), 3.0, toys.clip(), sigmas, toys.Quiet(),
                             sampler=mixed)  # fmt: skip

    on_both(run)


def test_an_editor_reads_frames_on_the_cpu():
    def run():
        patcher = unet("gather-swap", inputs=8)
        shown = [[toys.text(1)[0][0], {"concat_latent_image": toys.clip(seed=8)}]]
        sigmas = BACKEND.schedule(patcher).ddim_sigmas(2)
        yield BACKEND.sample(patcher, shown, [[toys.text(2)[0][0], dict(shown[0][1])]], 3.0, toys.clip(), sigmas,
                             toys.Quiet(), middle=shown, middle_guidance=1.2)  # fmt: skip

    on_both(run)


def test_tokenflow_reads_an_inversion_on_the_cpu():
    def run():
        patcher = unet()
        sigmas = BACKEND.schedule(patcher).ddim_sigmas(2)
        path = Trajectory([toys.clip() * (1 + i) for i in range(3)], sigmas.flip(0))
        config = {"source": Source(path, toys.text(3)), "spacing": 2, "chunk": 1}
        flowing = BACKEND.attach(patcher, build_on(BACKEND, patcher, "tokenflow", config))
        yield BACKEND.sample(flowing, toys.text(1), toys.text(2), 4.0, path[2, range(toys.FRAMES)].float(), sigmas,
                             toys.Quiet())  # fmt: skip

    on_both(run)


def test_flow_edit_follows_a_mask_on_the_cpu():
    mask = torch.zeros(1, 32, 48)
    mask[..., 16:] = 1

    def run():
        base = narrow_flow.wan().model
        patcher = comfy.model_patcher.ModelPatcher(base, mm.get_torch_device(), torch.device("cpu"))
        latent = narrow_flow.latent(1, 16, 3, 4, 6)
        yield narrow_flow.flow_edited(patcher, latent, steps=3, n_max=2, n_min=1, mask=mask)[0]

    on_both(run)


def test_a_vae_decodes_in_chunks():
    torch.manual_seed(0)
    state = models.BUILDERS["vae"]().state_dict()

    def run():
        vae = toy.vae_from(state)
        # Two frames at once, by what the host believes to be free.
        vae.memory_used_decode = lambda *args: ROOM // 2
        yield BACKEND.decoded(vae, toys.clip(3, side=4))

    on_both(run)


@pytest.mark.parametrize("methods, room", [
    (("stam", "ffam"), "half"), (("norm-tune", "visual-adapter"), "enough"), (("simda",), "enough"),
    (("temporal-attention", "sparse-causal"), "enough")], ids=named)  # fmt: skip
def test_one_shot_tuning(methods, room):
    def run():
        recipe = TuneRecipe(steps=2, learning_rate=1e-3)
        patcher = toy.unet_from(toys.diffusers_unet().state_dict())
        for name in methods:
            patcher = BACKEND.attach(patcher, build_on(BACKEND, patcher, name, {}))
        tuned = tune(BACKEND, patcher, toys.clip(), toys.text(), recipe, progress=toys.Quiet(), preview_every=0)
        yield torch.tensor(tuned.losses)
        yield toys.sample(tuned.model, steps=1)

    on_both(run, room)


BASES = {"wan": videos.wan_base, "hunyuan": videos.hunyuan_base, "hunyuan 1.5": videos.hunyuan15_base}


@pytest.mark.parametrize("kind, room", [("wan", "enough"), ("hunyuan", "half"), ("hunyuan 1.5", "enough")])
def test_a_mask_aware_lora(kind, room):
    def run():
        base = videos.filled(BASES[kind](), seed=4).model
        patcher = comfy.model_patcher.ModelPatcher(base, mm.get_torch_device(), torch.device("cpu"))
        recipe = MaskLoRARecipe(TuneRecipe(steps=2, learning_rate=1e-3, queries=False), rank=2)
        tuned = train_mask_lora(BACKEND, patcher, [videos.sample(kind)], recipe, VideoSettings(preview_every=0),
                                progress=toys.Quiet())  # fmt: skip
        yield torch.tensor(tuned.losses)
        yield from (value for _, value in sorted(tuned.weights.tensors.items()) if value.norm() > 0)

    on_both(run, room)


def drawn(seed: int, count: int, side: int = 64):
    """IMAGE on the CPU."""
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


def test_test_time_adapt():
    """The node itself: frames and texts on the CPU, the VAE and the editor on the device."""
    torch.manual_seed(1)
    state, vae = models.build_unet(8).state_dict(), toy.toyworld.state_of("vae")

    def run():
        tuned, _, losses = adaptation.TestTimeAdapt.execute(
            toy.unet_from(state), toys.text(1), toys.text(2), toy.vae_from(vae), drawn(0, 1), drawn(1, 1), steps=1,
            learning_rate=1e-2, rank=2, batch=1, variants=1, dropout=0.0, seed=0, reuse=False,
        ).args  # fmt: skip
        yield torch.tensor(losses["loss"])
        shown = [[toys.text(1)[0][0], {"concat_latent_image": toys.clip(1, seed=8)}]]
        yield toys.sample(tuned, 1.0, 1, toys.clip(1), shown, toys.text(2))

    on_both(run)


def test_null_text_inversion():
    def run():
        latent, _, negative, losses = null_text.NullTextInversion.execute(
            unet(), toys.text(1), toys.text(2), {"samples": toys.clip()}, steps=2, guidance=4.0, inner_steps=1,
            learning_rate=0.05, stop=0.0, per_frame=True, reuse=False,
        ).args  # fmt: skip
        yield from (latent["samples"], torch.tensor(losses["loss"]), *(words for words, _ in negative))

    on_both(run)


def test_a_graph_by_its_nodes():
    """The toy world's own MODEL, CLIP and VAE: frames and mask on the CPU, through the host's nodes and ours."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 20:] = 1

    def run():
        model, words, vae = BACKEND.load_toy()
        frames = drawn(2, 2)
        latent = nodes.VAEEncode().encode(vae, frames)[0]
        edited, positive, source = prompt_to_prompt.PromptToPrompt.execute(
            model, words, source="a green fish on grass", target="a purple fish on grass", edit="auto",
            cross_steps=0.8, self_steps=0.4, self_size=32, weights="purple: 2", threshold=0.9,
            blend_source="green fish", blend_target="purple", blend_start=0.2, chunk=0,
        ).args  # fmt: skip
        noise, sigmas = inversion.DDIMInversion.execute(model, source, latent, steps=2, refinement=0).args
        sampler = blend.BoundaryBlend.execute(KSamplerSelect.execute("euler")[0], noise, mask, "ramp", "A", 0, True)[0]
        empty = nodes.CLIPTextEncode().encode(words, "")[0]
        out = SamplerCustom.execute(edited, False, 0, 3.0, positive, empty, sampler, sigmas, noise)[0]
        pictures = nodes.VAEDecode().decode(vae, out)[0]
        yield from (latent["samples"], out["samples"], pictures)
        yield blend.Composite.execute(pictures, frames, mask, 4, 0, True)[0]

    on_both(run)


def test_a_streamed_edit(tmp_path, monkeypatch):
    """Two windows, with a group of the whole clip; the frames before the codec."""
    path = write_clip(tmp_path / "clip.mp4", drawn(5, 4), Fraction(8))
    kept, keep = [], WindowStore.keep
    monkeypatch.setattr(WindowStore, "keep", lambda *given: (kept.append(given[2].clone()), keep(*given))[1])

    def run():
        model, _, vae = toy.load()
        swapped = BACKEND.attach(model, build_on(BACKEND, model, "gather-swap", {"group": 2}))
        guider = CFGGuider.execute(swapped, toys.text(1), toys.text(2), 1.5)[0]
        sigmas = BACKEND.schedule(model).ddim_sigmas(10).float()[-2:].clone()
        # What one device has finished would be found by the other.
        shutil.rmtree(backends.current().weights_folder(), ignore_errors=True)
        kept.clear()
        streamed_edit.StreamedEdit.execute(
            InputImpl.VideoFromFile(str(path)), guider, KSamplerSelect.execute("euler")[0], sigmas, vae, seed=3,
            noise="each frame its own", window=2, start=0, count=0, stride=1, size=64,
        )  # fmt: skip
        assert [len(frames) for frames in kept] == [2, 2]
        yield from kept

    on_both(run)


def test_each_frame_follows_its_own_hint():
    hints = drawn(3, toys.FRAMES, 8 * toys.SIDE)

    def run():
        control = toys.controlnet()
        yield toys.sample(unet("gather-swap"), positive=toys.under(control, hints, toys.text(1)),
                          negative=toys.under(control, hints, toys.text(2)))  # fmt: skip

    on_both(run)


def test_gather_swap_on_flux():
    shown = {"reference_latents": [narrow_flow.latent(4, 16, 4, 6, seed=6)]}

    def run():
        base = narrow_flow.flux().model
        patcher = comfy.model_patcher.ModelPatcher(base, mm.get_torch_device(), torch.device("cpu"))
        swapped = BACKEND.attach(patcher, build_on(BACKEND, patcher, "gather-swap", {"group": 2, "frames": (0, 2)}))
        guider = CFGGuider.execute(swapped, narrow_flow.text(1, **shown), narrow_flow.text(2, **shown), 2.0)[0]
        latent = {"samples": narrow_flow.latent(4, 16, 4, 6)}
        yield SamplerCustomAdvanced.execute(RandomNoise.execute(1)[0], guider, KSamplerSelect.execute("euler")[0],
                                            torch.linspace(1, 0, 3), latent)[0]["samples"]  # fmt: skip

    on_both(run)


def test_segment_anything():
    """Boxes, points and earlier logits on the CPU; the network where the host moves it."""
    boxes, points = torch.tensor([[5.0, 6, 30, 40]]), torch.tensor([[[20.0, 30], [3, 3]]])

    def run():
        kept = backends.manager().manage(shaken(lambda: segmentation.build_transformers(TINY_SAM)))
        kept.load()
        sam = Sam(TransformersEngine(kept.module))
        features = sam.encode(drawn(4, 1))[0]
        first = segment_frame(sam, features, Prompt(boxes, points, torch.tensor([[1.0, 0]])))
        yield from (first.masks, sam.predict(features, Prompt(boxes, logits=first.logits.cpu())).masks)

    on_both(run)


def test_a_text_left_on_the_cpu_is_caught(monkeypatch):
    put_host_on(monkeypatch, pretended.DEVICE)
    patcher = unet()
    patcher.set_model_attn2_patch(lambda q, k, v, extra: (q, k.cpu(), v))
    with torch.inference_mode(), pytest.raises(RuntimeError, match="same device"):
        toys.sample(patcher)
