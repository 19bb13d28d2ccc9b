"""Whole runs on a device equal the CPU's: on a GPU where there is one, else on a device that only pretends.

On a GPU the kernels in half precision too; ``python -m steadyedit gpu`` runs this file there.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pretended
import pytest
import torch
from steadyedit.backends.diffusers import anyv2v
from steadyedit.backends.diffusers.video import DiffusersVideoBackend
from steadyedit.backends.offload import from_main_memory, to_main_memory
from steadyedit.benchmarks.kernels.contests import Contest, Size, contests
from steadyedit.benchmarks.kernels.norm_contests import norm_contests
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods import null_text
from steadyedit.methods.ei2 import build_ffam, build_stam
from steadyedit.methods.flow_edit import FlowEdit, FlowEditPrompts
from steadyedit.methods.registry import build_on
from steadyedit.methods.tokenflow import Source
from steadyedit.methods.tuning import TuneRecipe, tune
from tiny_editor import BACKEND, normal, text, tiny
from tolerances import RUN, assert_close
from torch.nn.functional import pad

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else pretended.DEVICE
pytestmark = [pytest.mark.cuda,
              pytest.mark.skipif(not GPU and pretended.missing() is not None, reason=str(pretended.missing()))]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZE = Size(4, 64, heads=2, dim=40)
FRAMES = 4


@pytest.fixture(autouse=True)
def device():
    if not GPU:
        pretended.setup()


def gradients(run, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The result, and the gradients along a fixed direction."""
    out = run(*inputs)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, direction)]


def compare(contest: Contest) -> None:
    wide = tuple(x.detach().double().requires_grad_() for x in contest.inputs)
    truth = gradients(contest.reference, wide)
    for name in contest.runs.keys() - {contest.baseline}:
        results = zip(gradients(contest.runs[name], contest.inputs), truth, strict=True)
        for number, (found, expected) in enumerate(results):
            assert_close(found, expected, name=f"{contest.name} {name} {number}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel_and_its_gradients(dtype):
    # Sums of a pretended device are the CPU's.
    device = torch.device("cuda" if GPU else "cpu")
    for contest in (*contests(SIZE, device, dtype), *norm_contests(SIZE, device, dtype)):
        compare(contest)


def on(device: str, inputs: int = 4):
    model = tiny(inputs, torch.float32)
    model.unet.to(device)
    return model


METHODS = [(), ("stam",), ("ffam",), ("sparse-causal",), ("temporal-attention",), ("simda",),
           ("gather-swap",), ("rave",),
           ("norm-tune",), ("visual-adapter",), ("stam", "ffam")]  # fmt: skip
SETTINGS = {"rave": {"grid": 2}, "visual-adapter": {"positions": (3,)}}


@pytest.mark.parametrize("methods", METHODS, ids=lambda names: "+".join(names) or "plain")
def test_inversion_and_sampling_equal_the_cpus(methods):
    """Latents and texts arrive on the CPU, as hosts give them."""
    results = []
    for device in ("cpu", DEVICE):
        model = on(device)
        for name in methods:
            model = BACKEND.attach(model, build_on(BACKEND, model, name, SETTINGS.get(name, {})))
        clip = normal(3, FRAMES, 4, 6, 6).float()
        condition = [[text(1)[0][0].float(), {}]]
        sigmas = BACKEND.schedule(model).ddim_sigmas(3)
        bar = BACKEND.progress(3, "")
        path = BACKEND.invert(model, condition, clip, sigmas.flip(0), 1, bar)
        results.append([path[-1], BACKEND.sample(model, condition, [[text(2)[0][0].float(), {}]], 3.0, path[-1].cpu(),
                                                 sigmas, bar, seed=1)])  # fmt: skip
    equal(*results)


def equal(expected: list[torch.Tensor], found: list[torch.Tensor]) -> None:
    for wanted, got in zip(expected, found, strict=True):
        assert ((got.cpu() - wanted).norm() / wanted.norm()).item() < RUN


def test_tokenflow_and_null_text_read_an_inversion_on_the_cpu():
    """Null-text inversion's own path is TokenFlow's source, and its texts are the negatives."""
    results = []
    for device in ("cpu", DEVICE):
        model, words, empty = on(device), [[text(1)[0][0].float(), {}]], [[text(2)[0][0].float(), {}]]
        bar = BACKEND.progress(8, "")
        found = null_text.invert(BACKEND, model, normal(3, FRAMES, 4, 6, 6).float(), words, empty, 2,
                                 null_text.NullTextRecipe(3.0, 1, 0.05, 0.0), progress=bar)  # fmt: skip
        path = Trajectory([x.cpu() for x in found.trajectory], found.sigmas.flip(0))
        config = {"source": Source(path, empty), "spacing": 2, "chunk": 1}
        flowing = BACKEND.attach(model, build_on(BACKEND, model, "tokenflow", config))
        edited = BACKEND.sample(flowing, words, found.negative, 3.0, path[2, range(FRAMES)], found.sigmas, bar)
        results.append([torch.tensor(found.losses), edited])
    equal(*results)


def test_tuning_equals_the_cpus():
    losses = []
    for device in ("cpu", DEVICE):
        model = on(device)
        sites = BACKEND.sites(model)
        for attachment in (build_stam(sites), build_ffam(sites)):
            model = BACKEND.attach(model, attachment)
        condition = [[text(1)[0][0].float(), {}]]
        losses.append(tune(BACKEND, model, normal(3, FRAMES, 4, 6, 6).float(), condition,
                           TuneRecipe(steps=4, learning_rate=1e-3), preview_every=0).losses)  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], rel=RUN)


@pytest.fixture
def wan():
    """The tiny Wan of LoRA-Edit's bench on both devices, a clip's latent and its CONDITIONING, on the CPU."""
    from steadyedit.benchmarks.lora_edit_size.run import MODELS, built

    shape = MODELS["tiny"]
    generator = torch.Generator().manual_seed(0)
    latent, seen = (torch.randn(1, 16, 2, 4, 4, generator=generator) for _ in range(2))
    words = torch.randn(1, shape.tokens, shape.text, generator=generator)
    models = [built(shape, "cpu", torch.float32) for _ in range(2)]
    models[1].transformer.load_state_dict(models[0].transformer.state_dict())
    models[1] = replace(models[1], transformer=models[1].transformer.to(DEVICE))
    return models, latent, [[words, {"concat_latent_image": seen, "concat_mask": torch.ones(1, 4, 2, 4, 4)}]]


def test_a_lora_trains_as_on_the_cpu(wan):
    """Wan with LoRA-Edit's masks: the losses of some steps."""
    from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
    from steadyedit.methods.lora_edit.samples import Sample
    from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora

    models, latent, condition = wan
    recipe = MaskLoRARecipe(TuneRecipe(steps=3, learning_rate=1e-3, queries=False), rank=2)
    losses = [train_mask_lora(DiffusersVideoBackend(), model, [Sample(latent, condition)], recipe,
                              VideoSettings(preview_every=0)).losses for model in models]  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], rel=RUN)


def test_a_video_is_edited_as_on_the_cpu(wan):
    """FlowEdit with a mask, and AnyV2V; texts, mask and latent arrive on the CPU."""
    models, latent, condition = wan
    other = [[condition[0][0].flip(1), condition[0][1]]]
    mask = torch.zeros(1, 32, 32)
    mask[..., 16:] = 1
    backend, sigmas, results = DiffusersVideoBackend(), torch.tensor([1.0, 0.5, 0.0]), []
    for model in models:
        prompts = FlowEditPrompts(condition, other, None, None, 1.0, 1.0)
        guider, _ = backend.flow_edit(model, prompts, FlowEdit(2, 1, mask=mask))
        edited = guider.sample(SimpleNamespace(seed=1), None, sigmas, {"samples": latent})["samples"]
        with torch.no_grad():
            led = anyv2v.edited(backend, model, latent, sigmas, condition, other, progress=backend.progress(6, ""))
        results.append([edited, led])
    equal(*results)


def test_what_is_written_into_a_view_of_a_view_is_in_the_tensor():
    ones = torch.ones(1, 2, 3, 4)
    assert pad(ones.to(DEVICE), (1, 1, 0, 1)).cpu().equal(pad(ones, (1, 1, 0, 1)))


def test_what_waits_in_the_main_memory_comes_back():
    x = torch.randn(3, 5, device=DEVICE, dtype=torch.bfloat16)
    kept = to_main_memory(x)
    assert kept.device.type == "cpu" and from_main_memory(kept, x.device).equal(x)
