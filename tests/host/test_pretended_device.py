"""The host with its models on a device that only pretends: everything equals the CPU.

Inputs arrive as users' do, on the CPU; what is left there beside the model's device raises, as on a GPU.
"""

from __future__ import annotations

import comfy.model_management as mm
import comfy.model_patcher
import narrow_flow
import pretended
import pytest
import torch
import toys
import videos
from comfy_extras.nodes_custom_sampler import BasicScheduler, RandomNoise, SamplerCustomAdvanced
from steadyedit.backends.comfy_native import toy
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora
from steadyedit.methods.registry import build_on
from steadyedit.methods.tokenflow import Source
from steadyedit.methods.tuning import TuneRecipe, tune
from steadyedit.methods.via.blend import BoundaryBlend
from steadyedit.nodes.flow_edit import FlowEdit
from steadyedit.toyworld import models
from tolerances import RUN

pytestmark = pytest.mark.skipif(pretended.missing() is not None, reason=str(pretended.missing()))
BACKEND = toys.BACKEND
ROOM = 20 * 2**30
METHODS = [(), ("stam", "ffam"), ("sparse-causal", "temporal-attention"), ("simda",), ("gather-swap",), ("rave",),
           ("norm-tune",), ("visual-adapter",)]  # fmt: skip
SETTINGS = {"gather-swap": {"group": 2}, "rave": {"grid": 2}}


def put_host_on(patch, device: str) -> None:
    """Let the host take a device for its own, as if it had a GPU with memory enough."""
    place, cpu = torch.device(device), torch.device("cpu")
    whole = {"get_torch_device": place, "supports_fp8_compute": False, "should_use_fp16": False,
             "should_use_bf16": False, "xformers_enabled": False, "unet_offload_device": cpu,
             "text_encoder_offload_device": cpu, "vae_offload_device": cpu, "unet_inital_load_device": cpu,
             "text_encoder_device": place, "vae_device": place, "soft_empty_cache": None}  # fmt: skip
    for name, value in whole.items():
        patch.setattr(mm, name, lambda *args, value=value, **kwargs: value)
    # The second value is what torch itself keeps.
    for name in ("get_free_memory", "get_total_memory"):
        patch.setattr(mm, name, lambda dev=None, both=False, **kwargs: (ROOM, ROOM) if both or kwargs else ROOM)
    patch.setattr(mm, "vram_state", mm.VRAMState.NORMAL_VRAM)
    patch.setattr(mm, "set_vram_to", mm.VRAMState.NORMAL_VRAM)


@pytest.fixture(autouse=True)
def freed():
    pretended.setup()
    yield
    mm.unload_all_models()


def on_both(run) -> None:
    """``run`` gives tensors: on the pretended device those of the CPU."""
    found = []
    for device in ("cpu", pretended.DEVICE):
        with pytest.MonkeyPatch.context() as patch:
            if device != "cpu":
                put_host_on(patch, device)
            with torch.inference_mode():  # as the host runs its nodes
                torch.manual_seed(0)
                found.append([x.detach().float().cpu().clone() for x in run()])
            mm.unload_all_models()
    for expected, got in zip(*found, strict=True):
        error = ((got - expected).norm() / expected.norm()).item()
        assert error < RUN, f"{tuple(expected.shape)}: off by {error:.1e}"


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
        guider, sampler = FlowEdit.execute(
            patcher, source=narrow_flow.text(1), target=narrow_flow.text(2), negative=narrow_flow.text(3),
            source_guidance=2.0, target_guidance=4.5, n_max=2, n_min=1, n_avg=1, shared_noise=True, soft_mask=True,
            mask=mask,
        ).args  # fmt: skip
        sigmas = BasicScheduler.execute(patcher, "simple", 3, 1.0)[0]
        latent = {"samples": narrow_flow.latent(1, 16, 3, 4, 6)}
        yield SamplerCustomAdvanced.execute(RandomNoise.execute(1)[0], guider, sampler, sigmas, latent)[0]["samples"]

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


@pytest.mark.parametrize("methods", [("stam", "ffam"), ("norm-tune", "visual-adapter")], ids="+".join)
def test_one_shot_tuning(methods):
    def run():
        recipe = TuneRecipe(steps=2, learning_rate=1e-3)
        patcher = toy.unet_from(toys.diffusers_unet().state_dict())
        for name in methods:
            patcher = BACKEND.attach(patcher, build_on(BACKEND, patcher, name, {}))
        tuned = tune(BACKEND, patcher, toys.clip(), toys.text(), recipe, progress=toys.Quiet(), preview_every=0)
        yield torch.tensor(tuned.losses)
        yield toys.sample(tuned.model)

    on_both(run)


@pytest.mark.parametrize("kind", ["wan", "hunyuan"])
def test_a_mask_aware_lora(kind):
    def run():
        base = videos.filled({"wan": videos.wan_base, "hunyuan": videos.hunyuan_base}[kind](), seed=4).model
        patcher = comfy.model_patcher.ModelPatcher(base, mm.get_torch_device(), torch.device("cpu"))
        recipe = MaskLoRARecipe(TuneRecipe(steps=2, learning_rate=1e-3, queries=False), rank=2)
        tuned = train_mask_lora(BACKEND, patcher, [videos.sample(kind)], recipe, VideoSettings(preview_every=0),
                                progress=toys.Quiet())  # fmt: skip
        yield torch.tensor(tuned.losses)
        yield from (value for _, value in sorted(tuned.weights.tensors.items()) if value.norm() > 0)

    on_both(run)


def test_a_text_left_on_the_cpu_is_caught(monkeypatch):
    put_host_on(monkeypatch, pretended.DEVICE)
    patcher = unet()
    patcher.set_model_attn2_patch(lambda q, k, v, extra: (q, k.cpu(), v))
    with torch.inference_mode(), pytest.raises(RuntimeError, match="same device"):
        toys.sample(patcher)
