"""RAVE and ControlNets on a diffusers U-Net, against the paper's own loop, which shuffles what lies in the sampler."""

from __future__ import annotations

import pytest
import torch
from steadyedit.backends.diffusers import Denoiser
from steadyedit.backends.diffusers.control import ControlNet, fit
from steadyedit.methods.rave import Rave, from_grid, to_grid
from steadyedit.methods.registry import build
from tiny_editor import BACKEND, CONFIG, SIDE, normal, text, tiny
from tolerances import FLOAT64, FLOAT64_CHAIN

FRAMES, STEPS = 4, 4
EXACT = FLOAT64_CHAIN


class Quiet:
    def update(self, value, preview=None, **numbers):
        """Shows nothing."""


@pytest.fixture(scope="module")
def painter():
    return tiny(in_channels=4)


@pytest.fixture(scope="module")
def net():
    """A random ControlNet whose outputs are not silent."""
    from diffusers import ControlNetModel

    left_out = ("sample_size", "out_channels", "up_block_types")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = ControlNetModel(in_channels=4, **{k: v for k, v in CONFIG.items() if k not in left_out})
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.double().eval().requires_grad_(False)


def raved(model, **settings):
    return BACKEND.attach(model, build("rave", BACKEND.sites(model), settings))


def hints(frames=FRAMES, seed=11):
    return normal(seed, frames, 8 * SIDE, 8 * SIDE, 3).sigmoid()


def under(conditioning, control):
    return [[conditioning[0][0], {**conditioning[0][1], "control": control}]]


def controlled(net, frames=FRAMES, **options):
    control = ControlNet(net).applied(hints(frames), options.pop("strength", 0.8), **options)
    return under(text(1), control), under(text(2), control)


def run(model, positive, negative, frames=FRAMES, sampler="euler", guidance=7.5, **options):
    sigmas = model.schedule.ddim_sigmas(STEPS).double()
    return BACKEND.sample(model, positive, negative, guidance, normal(5, frames, 4, SIDE, SIDE) * 80, sigmas, Quiet(),
                          sampler=sampler, **options)


def error(actual, expected) -> float:
    assert actual.shape == expected.shape and actual.isfinite().all()
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def papers_loop(model, net, strength, settings, positive, negative, frames=FRAMES, guidance=7.5):
    """Frames are shuffled where they lie, each grid is denoised as one picture, and frames are put in order last."""
    sigmas = model.schedule.ddim_sigmas(STEPS).double()
    x = BACKEND.to_model_space(model, normal(5, frames, 4, SIDE, SIDE) * 80)
    shown, grid = hints(frames).movedim(-1, 1), settings.grid
    for step, (sigma, after) in enumerate(zip(sigmas, sigmas[1:])):
        order = list(settings.order(frames, step))
        picture, hint = to_grid(x[order], grid), to_grid(shown[order], grid)
        t = model.schedule.timestep(sigma[None]).expand(len(picture))
        scaled, noises = picture / (1 + sigma**2).sqrt(), []
        for conditioning in (positive, negative):
            words = conditioning[0][0].expand(len(picture), -1, -1)
            down, middle = net(scaled, t, words, hint, conditioning_scale=strength, return_dict=False)
            noises.append(model.unet(scaled, t, words, down_block_additional_residuals=down,
                                     mid_block_additional_residual=middle).sample)
        noise = noises[1] + guidance * (noises[0] - noises[1])
        moved = from_grid(picture + (after - sigma) * noise, grid)
        x = x.clone()
        x[order[:frames]] = moved[:frames]
    return BACKEND.from_model_space(model, x)


@pytest.mark.parametrize("frames, grid", [(4, 2), (8, 2), (6, 2)])
def test_it_is_the_papers_loop(painter, net, frames, grid):
    positive, negative = controlled(net, frames)
    settings = Rave(grid, seed=3)
    with torch.no_grad():
        expected = papers_loop(painter, net, 0.8, settings, positive, negative, frames)
    assert error(run(raved(painter, grid=grid, seed=3), positive, negative, frames), expected) < EXACT


def test_a_grid_of_one_is_plain_sampling_bit_by_bit(painter, net):
    positive, negative = controlled(net)
    assert torch.equal(run(raved(painter, grid=1), positive, negative), run(painter, positive, negative))


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
def test_chunks_and_seeds(painter, net, sampler):
    """The number of grids in a call changes nothing, the seed of the orders does."""
    positive, negative = controlled(net, 8)
    whole = run(raved(painter, grid=2, seed=1), positive, negative, 8, sampler)
    assert error(run(raved(painter, grid=2, seed=1, chunk=1), positive, negative, 8, sampler), whole) < EXACT
    assert error(run(raved(painter, grid=2, seed=2), positive, negative, 8, sampler), whole) > 1e-3


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
def test_samplers_keep_their_history(painter, sampler, monkeypatch):
    """Where the denoiser treats every pixel alone, RAVE changes nothing for any sampler, memory and noise included."""
    monkeypatch.setattr(Denoiser, "call", lambda self, x, sigma, *rest: x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2))
    plain = run(painter, text(1), text(2), 7, sampler, seed=4)
    assert torch.equal(run(raved(painter, grid=2), text(1), text(2), 7, sampler, seed=4), plain)


def test_frames_see_each_other(painter):
    """A change of one frame reaches another, which plain sampling keeps apart."""
    sigma, sigmas = torch.full((FRAMES,), 3.0, dtype=torch.float64), painter.schedule.ddim_sigmas(STEPS)
    x = normal(1, FRAMES, 4, SIDE, SIDE)
    other = torch.cat([x[:1] + 1, x[1:]])

    def shift(model):
        denoise = Denoiser(model, text(1), frames=FRAMES)
        with torch.no_grad():
            first, second = (denoise(given, sigma, sample_sigmas=sigmas) for given in (x, other))
        return (first - second)[1:].abs().max()

    assert shift(raved(painter, grid=2)) > 1e-6
    assert shift(painter) < FLOAT64


def test_an_images_latent_lies_with_its_frame():
    """An image editor reads the picture of the same frame, wherever the order puts it."""
    editor = tiny()
    images = normal(9, FRAMES, 4, SIDE, SIDE)
    seen = []
    editor.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = images * 3
    denoise = Denoiser(raved(editor, grid=2), text(1, image=images), frames=FRAMES)
    with torch.no_grad():
        denoise(x, torch.full((FRAMES,), 1.0, dtype=torch.float64), sample_sigmas=editor.schedule.ddim_sigmas(STEPS))
    assert torch.allclose(seen[0][:, :4] * 2**0.5, seen[0][:, 4:] * 3) and seen[0].shape[-1] == 2 * SIDE


def test_inversion_leaves_it_out(painter):
    sigmas = painter.schedule.ddim_sigmas(3).flip(0).double()
    clip = normal(2, FRAMES, 4, SIDE, SIDE)
    both = [BACKEND.invert(model, text(1), clip, sigmas, 0, Quiet())[-1] for model in (painter, raved(painter, grid=2))]
    assert torch.equal(*both)


@pytest.mark.parametrize("other", ["stam", "ffam", "sparse-causal", "gather-swap"])
def test_what_mixes_frames_is_refused(painter, other):
    def with_other(model):
        return BACKEND.attach(model, build(other, BACKEND.sites(model), {}))

    with pytest.raises(ValueError, match=f"RAVE lays several frames out as one picture, but {other}"):
        with_other(raved(painter))
    with pytest.raises(ValueError, match=f"RAVE lays several frames out as one picture, but {other}"):
        raved(with_other(painter))


def test_a_prompt_per_frame_is_refused(painter):
    with pytest.raises(ValueError, match="positive: holds 4 prompts, one a frame, but RAVE"):
        run(raved(painter, grid=2), text(1, texts=FRAMES), text(2))


def test_a_controlnet_follows_frames_and_chunks(painter, net):
    positive, negative = controlled(net)
    together = run(painter, positive, negative)
    for i in range(FRAMES):
        control = ControlNet(net).applied(hints()[i : i + 1], 0.8)
        alone = BACKEND.sample(
            painter, under(text(1), control), under(text(2), control), 7.5,
            (normal(5, FRAMES, 4, SIDE, SIDE) * 80)[i : i + 1], painter.schedule.ddim_sigmas(STEPS).double(), Quiet())
        assert error(together[i : i + 1], alone) < EXACT


def test_strength_start_and_end_of_a_controlnet(painter, net):
    plain = run(painter, text(1), text(2))
    assert error(run(painter, *controlled(net, strength=0.0)), plain) < EXACT
    assert error(run(painter, *controlled(net, start=1.0)), plain) < EXACT
    whole, half = run(painter, *controlled(net)), run(painter, *controlled(net, end=0.5))
    assert error(half, whole) > 1e-3 and error(half, plain) > 1e-3


def test_controlnets_in_a_chain_add_up(painter, net):
    first = ControlNet(net).applied(hints(), 0.5)
    twice = ControlNet(net).applied(hints(), 0.25, previous=first)
    both = [under(text(seed), twice) for seed in (1, 2)]
    assert error(run(painter, *both), run(painter, *controlled(net, strength=0.75))) < EXACT


def test_only_the_controlled_condition_is_controlled(painter, net):
    positive, negative = controlled(net)
    sigma = torch.full((FRAMES,), 3.0, dtype=torch.float64)
    x = normal(1, FRAMES, 4, SIDE, SIDE)

    def denoised(*conditions):
        with torch.no_grad():
            return Denoiser(painter, *conditions, frames=FRAMES)(x, sigma)

    with torch.no_grad():
        mixed = Denoiser(painter, positive, text(2), 7.5, frames=FRAMES)(x, sigma)
    assert error(mixed, denoised(text(2)) + 7.5 * (denoised(positive) - denoised(text(2)))) < EXACT


def test_hints_are_cut_and_resized_around_their_centre():
    image = torch.arange(12.0).expand(1, 3, 6, 12)
    assert torch.equal(fit(image, 3, 3)[0, 0, 0], torch.tensor([4.0, 6, 8]))
    assert fit(image, 6, 12) is image


def test_training_under_a_controlnet(painter, net):
    """The ControlNet takes part, and nothing of it is trained."""
    positive, _ = controlled(net)
    noisy, t = normal(1, FRAMES, 4, SIDE, SIDE), torch.tensor(300)
    model = tiny(in_channels=4)
    attachments = [build("stam", BACKEND.sites(model), {})]
    with BACKEND.training(model, attachments, positive, FRAMES) as view:
        controlled_noise = view.predict_noise(noisy.float(), t)
        assert error(controlled_noise, view.predict_noise(noisy.float(), t, text(1))) > 1e-4
        controlled_noise.sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
