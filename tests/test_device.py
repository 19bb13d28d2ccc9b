"""Whole runs on a device equal the CPU's: on a GPU where there is one, else on a device that only pretends.

On a GPU the kernels in half precision too; ``python -m steadyedit gpu`` runs this file there.
"""

from __future__ import annotations

from dataclasses import replace

import pretended
import pytest
import torch
from steadyedit.backends.diffusers.video import DiffusersVideoBackend
from steadyedit.backends.offload import from_main_memory, to_main_memory
from steadyedit.benchmarks.kernels.contests import Contest, Size, contests
from steadyedit.benchmarks.kernels.norm_contests import norm_contests
from steadyedit.methods.ei2 import build_ffam, build_stam
from steadyedit.methods.registry import build_on
from steadyedit.methods.tuning import TuneRecipe, tune
from tiny_editor import BACKEND, normal, text, tiny
from tolerances import RUN, assert_close

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
    for expected, found in zip(*results, strict=True):
        assert ((found.cpu() - expected).norm() / expected.norm()).item() < RUN


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


def test_a_lora_trains_as_on_the_cpu():
    """Wan with LoRA-Edit's masks: the losses of some steps."""
    from steadyedit.benchmarks.lora_edit_size.run import MODELS, built
    from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
    from steadyedit.methods.lora_edit.samples import Sample
    from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora

    shape, losses = MODELS["tiny"], []
    recipe = MaskLoRARecipe(TuneRecipe(steps=3, learning_rate=1e-3, queries=False), rank=2)
    generator = torch.Generator().manual_seed(0)
    latent, seen = (torch.randn(1, 16, 2, 4, 4, generator=generator) for _ in range(2))
    words = torch.randn(1, shape.tokens, shape.text, generator=generator)
    weights = built(shape, "cpu", torch.float32).transformer.state_dict()
    for device in ("cpu", DEVICE):
        model = built(shape, "cpu", torch.float32)
        model.transformer.load_state_dict(weights)
        model = replace(model, transformer=model.transformer.to(device))
        extra = {"concat_latent_image": seen, "concat_mask": torch.ones(1, 4, 2, 4, 4)}
        tuned = train_mask_lora(DiffusersVideoBackend(), model, [Sample(latent, [[words, extra]])], recipe,
                                VideoSettings(preview_every=0))  # fmt: skip
        losses.append(tuned.losses)
    assert losses[1] == pytest.approx(losses[0], rel=RUN)


def test_what_waits_in_the_main_memory_comes_back():
    x = torch.randn(3, 5, device=DEVICE, dtype=torch.bfloat16)
    kept = to_main_memory(x)
    assert kept.device.type == "cpu" and from_main_memory(kept, x.device).equal(x)
