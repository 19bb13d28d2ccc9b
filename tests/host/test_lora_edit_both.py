"""LoRA-Edit gives the same in the host and on diffusers: sampling under mask and LoRA, training."""

from __future__ import annotations

import comfy.sample
import torch
from steadyedit.backends.comfy_native import toy_wan
from steadyedit.backends.diffusers.video import DiffusersVideoBackend, DiffusersVideoModel
from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
from steadyedit.methods.lora_edit.samples import Sample
from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora
from steadyedit.methods.tuning import TuneRecipe
from steadyedit.toyworld.models import wan, wan_vae
from tolerances import NETWORK
from toys import Quiet, assert_close
from videos import BACKEND

THERE = DiffusersVideoBackend()


def pair():
    """One network with random weights in both."""
    torch.manual_seed(0)
    network = wan.build().eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    host = toy_wan.model_from(wan.to_wan(network.state_dict()))
    return host, DiffusersVideoModel(network, wan_vae.MEAN, wan_vae.STD, shift=wan.SHIFT)


def conditioning(seed, given=None, width=wan.CONFIG["text_dim"]):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, 9, width, generator=generator)
    extra = given or {
        "concat_latent_image": torch.randn(1, 16, 2, 4, 6, generator=generator),
        "concat_mask": (torch.randn(1, 4, 2, 4, 6, generator=generator) > 0).float(),
    }
    return [[text, extra]]


def sampled_in_both(here, there, positive, negative, seed=7, steps=4):
    """LATENT samples of one noise by the host and by diffusers."""
    latent = torch.zeros(1, 16, 2, 4, 6)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        found = comfy.sample.sample(here, noise, steps, 2.5, "euler", "simple", positive, negative, latent,
                                    disable_pbar=True, seed=seed)  # fmt: skip
    schedule = THERE.schedule(there)
    times = torch.tensor([999 - int(i * 1000 / steps) for i in range(steps)])
    sigmas = torch.cat([schedule.sigma(times), torch.zeros(1)])
    start = THERE.from_model_space(there, schedule.starting_noise(noise, float(sigmas[0])))
    return found, THERE.sample(there, positive, negative, 2.5, start, sigmas, Quiet())


def test_training_and_sampling_are_the_same_in_both(monkeypatch):
    here, there = pair()
    positive = conditioning(1)
    negative = conditioning(2, positive[0][1])
    samples = (Sample(torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(4)), positive),)
    training = TuneRecipe(steps=3, learning_rate=1e-2, betas=(0.9, 0.99), queries=False)
    recipe, quiet = MaskLoRARecipe(training, rank=2), VideoSettings(preview_every=0)
    with torch.inference_mode():
        a = train_mask_lora(BACKEND, here, samples, recipe, quiet, progress=Quiet())
    b = train_mask_lora(THERE, there, samples, recipe, quiet, progress=Quiet())
    assert a.weights.tensors.keys() == b.weights.tensors.keys()
    assert torch.allclose(torch.tensor(a.losses), torch.tensor(b.losses), rtol=NETWORK)

    # The same LoRA in both: AdamW makes much of the sign of a gradient near zero.
    with_lora = BACKEND.add_video_lora(here, b.weights.tensors)
    found, other = sampled_in_both(with_lora, b.model, positive, negative)
    assert_close(found, other)
    _, plain = sampled_in_both(here, there, positive, negative)
    assert (plain - other).abs().max() > 1e-3, "the LoRA does something"
