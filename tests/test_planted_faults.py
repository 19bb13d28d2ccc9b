"""Faults that only a GPU would show, planted one by one: the pretended device catches each of them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pretended
import pytest
import torch
from steadyedit.backends import fingerprint
from steadyedit.backends.diffusers import denoiser, patching, video
from steadyedit.benchmarks.lora_edit_size.run import MODELS, built
from steadyedit.diffusion import samplers
from steadyedit.diffusion.schedule import DiscreteSchedule
from steadyedit.diffusion.training import NoiseTraining
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.kernels import boundary_blend
from steadyedit.kernels.frame_attention.reference import pool_tokens
from steadyedit.methods.registry import build_on
from steadyedit.methods.tuning import TuneRecipe, tune
from steadyedit.methods.via.blend import BlendRun, BoundaryBlend
from tiny_editor import BACKEND, normal, text, tiny

pytestmark = pytest.mark.skipif(pretended.missing() is not None, reason=str(pretended.missing()))
FRAMES = 3


@pytest.fixture(autouse=True)
def device():
    pretended.setup()


def condition(image=None):
    return [[text(1)[0][0].float(), {} if image is None else {"concat_latent_image": image}]]


def clip():
    return normal(3, FRAMES, 4, 6, 6).float()


def model(*methods: str, inputs: int = 4):
    made = tiny(inputs, torch.float32)
    made.unet.to(pretended.DEVICE)
    for method in methods:
        made = BACKEND.attach(made, build_on(BACKEND, made, method, {}))
    return made


def sampled(made, sampler="euler", samples=None):
    image = clip() if made.unet.config.in_channels == 8 else None
    sigmas = BACKEND.schedule(made).ddim_sigmas(2)
    bar = SimpleNamespace(update=lambda *args, **kwargs: None)
    return BACKEND.sample(made, condition(image), None, 1.0, clip() if samples is None else samples, sigmas, bar,
                          sampler=sampler)  # fmt: skip


def tuned(made):
    return tune(BACKEND, made, clip(), condition(), TuneRecipe(steps=1), preview_every=0).losses


def on_device(x):
    return x.to(pretended.DEVICE)


def text_left_behind(patch):
    def call(unet, x, timestep, words, *rest):
        return unet(on_device(x), on_device(timestep), encoder_hidden_states=words, return_dict=False)[0].cpu()

    patch.setattr(denoiser, "call_unet", call)
    return lambda: sampled(model())


def latents_left_behind(patch):
    def call(unet, x, timestep, words, *rest):
        return unet(x, on_device(timestep), encoder_hidden_states=on_device(words), return_dict=False)[0].cpu()

    patch.setattr(denoiser, "call_unet", call)
    return lambda: sampled(model(inputs=8))


def modules_left_behind(patch):
    def run():
        made = model("stam")
        made.attachments[0].modules.cpu()
        return sampled(made)

    return run


def difference_left_behind(patch):
    patch.setattr(patching, "shifted_linear", lambda linear, delta: lambda x: torch.nn.functional.linear(
        x, linear.weight + delta, linear.bias))  # fmt: skip
    made = model()
    name, (rows, columns) = next(iter(BACKEND.projections(made).items()))
    delta = torch.ones(rows, columns)
    return lambda: sampled(replace(made, query_deltas={f"{name}.weight": delta}))


def mask_left_behind(patch):
    """Where the run begins and in the kernel: either of them would carry it over."""
    begin = BlendRun.__init__

    def forgetful(self, blend, *rest, **more):
        begin(self, blend, *rest, **more)
        self.keep = blend.keep

    patch.setattr(BlendRun, "__init__", forgetful)
    patch.setattr(boundary_blend, "boundary_blend_lerp", torch.lerp)
    return blended


def blended():
    made = model()
    sigmas = BACKEND.schedule(made).ddim_sigmas(2)
    path = Trajectory([clip() + i for i in range(3)], sigmas.flip(0))
    blend = BoundaryBlend(path, (torch.arange(36.0) / 36).reshape(1, 1, 6, 6))
    return sampled(made, BACKEND.blend_sampler("euler", blend), on_device(clip()))


def source_left_behind(patch):
    def mix(self, step, z, index):
        return z if index is None else z + self.scale(self.blend.trajectory[index, self.ids].float())

    patch.setattr(BlendRun, "_mix", mix)
    return blended


def generator_of_the_cpu(patch):
    def noise(x, seed=None):
        generator = torch.Generator().manual_seed(0)
        return lambda sigma, target: torch.randn(x.shape, device=x.device, generator=generator)

    patch.setattr(samplers, "seeded_noise", noise)
    return lambda: sampled(model(), "euler_ancestral", on_device(clip()))


def table_indexed_from_the_device(patch):
    def coefficients(self, timestep, like):
        alpha = self.alphas_cumprod[timestep]
        return alpha.sqrt().to(like), (1 - alpha).sqrt().to(like)

    patch.setattr(DiscreteSchedule, "_coefficients", coefficients)
    noisy, step = on_device(clip()), on_device(torch.full((FRAMES,), 400))
    return lambda: DiscreteSchedule.scaled_linear().add_noise(noisy, noisy, step)


def positions_left_behind(patch):
    """Indices of what a kernel gathers, on the CPU, gathered by an operator that takes none of them."""

    def sparse(q, k, v, heads, frames):
        previous = torch.tensor([max(i - 1, 0) for i in range(frames)])
        return q + k.index_select(0, previous) + v.index_select(0, previous)

    from steadyedit.methods.tune_a_video import sparse_causal

    patch.setattr(sparse_causal, "sparse_causal_attention", sparse)
    return lambda: sampled(model("sparse-causal"))


def numbers_of_a_device_tensor(patch):
    patch.setattr(fingerprint, "of_tensors", lambda tensors: [tensor.numpy() for tensor in tensors])
    return lambda: BACKEND.fingerprint(model())


def target_left_behind(patch):
    step = NoiseTraining.step_of

    def forgetful(self, samples, together=None):
        self.residual = lambda found, target: torch.nn.functional.mse_loss(on_device(found), target.cpu())
        return step(self, samples, together)

    patch.setattr(NoiseTraining, "step_of", forgetful)
    return lambda: tuned(model("stam"))


def video_mask_left_behind(patch):
    def forgetful(made, noisy, extra):
        return torch.cat([noisy, 1 - extra["concat_mask"], extra["concat_latent_image"].to(noisy)], 1)

    patch.setattr(video, "network_input", forgetful)
    shape = MODELS["tiny"]
    made = built(replace(shape, blocks=1), "cpu", torch.float32)
    made.transformer.to(pretended.DEVICE)
    extra = {"concat_latent_image": torch.zeros(1, 16, 2, 4, 4), "concat_mask": torch.ones(1, 4, 2, 4, 4)}
    given = [[torch.zeros(1, shape.tokens, shape.text), extra]]
    return lambda: video.velocity(made, on_device(torch.zeros(1, 16, 2, 4, 4)), torch.tensor(0.5), given)


FAULTS = [
    text_left_behind, latents_left_behind, modules_left_behind, difference_left_behind, mask_left_behind,
    source_left_behind, generator_of_the_cpu, table_indexed_from_the_device, positions_left_behind,
    numbers_of_a_device_tensor, target_left_behind, video_mask_left_behind,
]  # fmt: skip


@contextmanager
def caught():
    with pytest.raises((RuntimeError, TypeError, NotImplementedError)) as found:
        yield
    said = str(found.value)
    words = ("same device", "should be on", "should be the same", "generator of the device", "numpy")
    assert any(word in said for word in words), said


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_caught(plant, monkeypatch):
    run = plant(monkeypatch)
    with caught():
        run()


def test_without_a_fault_all_of_it_runs():
    """What the plants change, as it is."""
    for made in (model(), model(inputs=8), model("stam"), model("sparse-causal")):
        assert sampled(made).isfinite().all()
    assert blended().cpu().isfinite().all() and len(BACKEND.fingerprint(model())) == 64
    assert all(value > 0 for value in tuned(model("stam")))


def test_the_device_refuses_what_cuda_refuses():
    x = on_device(torch.arange(6.0).reshape(2, 3))
    assert (x + torch.tensor(1.0)).cpu().equal(torch.arange(6.0).reshape(2, 3) + 1)
    assert x[torch.tensor([1])].cpu().equal(torch.tensor([[3.0, 4.0, 5.0]]))
    for wrong in (lambda: x + torch.ones(3), lambda: torch.ones(3) * x.sum(), lambda: torch.ones(6)[on_device(
                      torch.tensor([1]))], lambda: pool_tokens(x[None], 1, 2, 1) @ torch.ones(3, 3)):  # fmt: skip
        with caught():
            wrong()
