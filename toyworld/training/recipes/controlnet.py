"""The ControlNet: a copy of the U-Net's encoder that reads edges (Zhang, Rao, Agrawala 2023, "Adding Conditional
Control to Text-to-Image Diffusion Models").

    h_i <- h_i + Z_i(copy_i(z_t, t, text, E(edges)))  on the skips and in the middle,  Z_i a 1x1 convolution from zero

Loss, distribution of t and weights are the text-to-image recipe's; the U-Net and its text encoder stay as they are.
Half of the captions are dropped, as in the paper, so that the edges also say what is there. Edges rather than depth:
every picture has them, made by a function that each host ships (``control.edges``).

The copy differs from the U-Net in one thing: its GroupNorms have 32 groups. That is what ComfyUI gives every
ControlNet it loads, with no say in the file, and a file that only one loader reads rightly would be no stock file.
The norms and biases therefore train everywhere; so does all else but the matrices that are FROZEN, which the file does
not hold (``control_file``). What was trained is then made small (``controlnet_slim``).
"""

from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

from ... import models
from ...models.control import controlled
from ..edges import edges_chunk, hints_of
from ..loop import Run, publish
from .controlnet_slim import slim
from .unet import alphas_cumprod, encoder_digest, latent_chunk, loss_of

SEED = 71
DROP = 0.5
#: beginnings of names whose matrices and kernels stay the U-Net's
FROZEN = ("time_embedding.", "mid_block.", "down_blocks.3.", "down_blocks.2.resnets.", "down_blocks.0.downsamplers.",
          "down_blocks.1.downsamplers.", "down_blocks.2.downsamplers.")  # fmt: skip


def untrained():
    """The network as it trains, with the paper's 256 channels before the embedding's last layer."""
    return models.build_controlnet(conditioning_embedding_out_channels=(16, 32, 96, 256))


def starting_point():
    """A ControlNet with the U-Net's encoder weights and silent outputs."""
    unet, controlnet = models.load_unet(), untrained()
    result = controlnet.load_state_dict(unet.state_dict(), strict=False)
    assert all(key.startswith("controlnet_") for key in result.missing_keys), result.missing_keys
    # diffusers silences the edges' embedding too; the outputs alone suffice, and one silence is learnt faster than two
    torch.nn.init.kaiming_uniform_(controlnet.controlnet_cond_embedding.conv_out.weight, a=5**0.5)
    for name, parameter in controlnet.named_parameters():
        parameter.requires_grad_(not (name.startswith(FROZEN) and parameter.ndim >= 2))
    return unet, controlnet.to(memory_format=torch.channels_last)


def train(steps: int = 1200, batch: int = 16, peak: float = 1.5e-3, chunks: int = 6) -> None:
    """Train, and publish the running average."""
    torch.manual_seed(SEED)
    (unet, controlnet), text_encoder, vae = starting_point(), models.load_text_encoder(), models.load_vae()
    unet.to(memory_format=torch.channels_last)
    parts = [latent_chunk(vae, number) for number in range(chunks)]
    latents, near = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    ids = models.tokenize([caption for part in parts for caption in part[2]])
    packed = np.concatenate([edges_chunk(number) for number in tqdm(range(chunks), desc="edges")])
    empty, abar = models.tokenize([""])[0], alphas_cumprod()
    run = Run("controlnet", {"controlnet": controlnet}, steps, peak, SEED, ema=0.995, warmup=40)
    controlnet.train()
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        rows = torch.randint(0, len(latents), (batch,), generator=run.generator)
        words = torch.where(torch.rand((batch, 1), generator=run.generator) < DROP, empty, ids[rows])
        network = controlled(unet, controlnet, hints_of(packed[rows.numpy()]))
        run.advance(loss_of(network, text_encoder, latents[rows].float(), near[rows], words, abar, run.generator))
    release(run, batch)


def release(run: Run, batch: int) -> None:
    """Publish the running average, made small."""
    run.write_curve()
    network = untrained().eval()
    network.load_state_dict(run.ema.average["controlnet"])
    publish("controlnet", slim(network), {
        "recipe": "toyworld/training/recipes/controlnet.py", "seed": SEED,
        "steps": run.step, "planned_steps": run.steps,
        "batch": batch, "minutes": round(run.minutes, 1),
        "parameters": sum(p.numel() for p in models.build_controlnet().parameters()),
        "architecture": models.CONTROLNET_CONFIG, "encoder": encoder_digest(models.load_vae())})
