"""Text to image with the toy models alone (DDIM), and the judging of what comes out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ... import models
from ...models.control import controlled, edge_agreement, edges
from ...models.judge import classify
from ...world.rendering import render_frame
from ...world.scene import Scene, sample_scene
from ..recipes.unet import SCALE, alphas_cumprod


@torch.no_grad()
def generate(captions: list[str], steps: int = 30, guidance: float = 4.5, seed: int = 0, size: int = 128,
             parts: tuple | None = None, batch: int = 25, hints: torch.Tensor | None = None,
             controlnet=None) -> torch.Tensor:
    """Pictures for captions, along edges where `hints` are given.

    DDIM (eta 0), timesteps evenly spaced from 999 down, guidance e = e_0 + g (e_text - e_0).

    Args:
        parts: (vae, unet, text_encoder); None = the trained ones.
        hints: edges [B,H,W,3] of zeros and ones, which the ControlNet follows in both branches.
        controlnet: None = the trained one.
    Returns: [B,H,W,3] in 0..1.
    """
    vae, unet, text_encoder = parts or (models.load_vae(), models.load_unet(), models.load_text_encoder())
    abar = torch.cat([alphas_cumprod(), torch.ones(1)])  # index -1: clean
    times = torch.linspace(999, 0, steps + 1).round().long()[:-1].tolist() + [-1]
    pictures = []
    for start in range(0, len(captions), batch):
        part = captions[start:start + batch]
        context = text_encoder(models.tokenize(part + [""] * len(part))).last_hidden_state
        generator = torch.Generator().manual_seed(seed + start)
        z = torch.randn((len(part), 4, size // 8, size // 8), generator=generator)
        network = unet
        if hints is not None:
            shown = hints[start:start + batch].movedim(-1, 1).repeat(2, 1, 1, 1)
            network = controlled(unet, controlnet or models.load_controlnet(), shown)
        for now, then in zip(times, times[1:]):
            given, free = network(torch.cat([z, z]), now, context).sample.chunk(2)
            noise = free + guidance * (given - free)
            clean = (z - (1 - abar[now]).sqrt() * noise) / abar[now].sqrt()
            z = abar[then].sqrt() * clean + (1 - abar[then]).sqrt() * noise
        for few in z.split(8):
            pictures.append(vae.decode(few / SCALE, return_dict=False)[0])
    return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def prompts(count: int, offset: int = 200_000, draw: Callable[[int, str], Scene] = sample_scene) -> list[Scene]:
    """Held-out scenes whose captions are prompts; not in black and white, where no colour can be judged."""
    scenes: list[Scene] = []
    seed = offset
    while len(scenes) < count:
        scene = draw(seed, "test")
        seed += 1
        if scene.style != "bw":
            scenes.append(scene)
    return scenes


def judge_prompts(count: int = 200, steps: int = 30, guidance: float = 4.5, parts: tuple | None = None) -> dict:
    """Generate for `count` held-out captions and have the judge look; shares of right answers."""
    scenes = prompts(count)
    seen = classify(generate([s.caption for s in scenes], steps, guidance, parts=parts))
    colour = [a == s.main.colour for a, s in zip(seen["colour"], scenes)]
    shape = [a == s.main.shape for a, s in zip(seen["shape"], scenes)]
    single = [len(s.things) == 1 for s in scenes]
    both = [a and b for a, b in zip(colour, shape)]

    def share(values: list[bool]) -> float:
        return round(sum(values) / max(len(values), 1), 4)

    return {
        "prompts": count, "sampling_steps": steps, "guidance": guidance, "colour": share(colour),
        "shape": share(shape), "colour_and_shape": share(both),
        "colour_and_shape_single": share([b for b, s in zip(both, single) if s]),
        "colour_and_shape_several": share([b for b, s in zip(both, single) if not s]),
        "background": share([a == s.background for a, s in zip(seen["background"], scenes)]),
        "style": share([a == s.style for a, s in zip(seen["style"], scenes)]),
    }


def judge_control(count: int = 100, steps: int = 20, guidance: float = 4.5, parts: tuple | None = None) -> dict:
    """Generate for `count` held-out captions along the edges of their scenes, and from the same noise without.

    `edges`: mean F1 of the result's edges with the hint's (`control.edge_agreement`); `edges_without` of what the
    U-Net alone draws; `edges_autoencoder` of the scene itself behind the autoencoder, which is as well as any can do.
    `colour_and_shape`: of the results, as the judge sees them, with the ControlNet and without.
    """
    vae, unet, text_encoder = parts or (models.load_vae(), models.load_unet(), models.load_text_encoder())
    scenes = prompts(count)
    frames = torch.from_numpy(np.stack([render_frame(scene, 0)[0] for scene in scenes]))
    hint, captions = edges(frames), [scene.caption for scene in scenes]
    with torch.no_grad():
        again = torch.cat([vae.decode(vae.encode(few * 2 - 1).latent_dist.mean).sample
                           for few in frames.movedim(-1, 1).split(8)])
    answer = {"prompts": count, "sampling_steps": steps, "guidance": guidance, "edges_autoencoder": round(
        edge_agreement(edges((again / 2 + 0.5).clamp(0, 1).movedim(1, -1)), hint).mean().item(), 4)}
    for name, shown in (("", hint), ("_without", None)):
        pictures = generate(captions, steps, guidance, parts=(vae, unet, text_encoder), hints=shown)
        seen = classify(pictures)
        right = [c == s.main.colour and t == s.main.shape for c, t, s in zip(seen["colour"], seen["shape"], scenes)]
        answer[f"edges{name}"] = round(edge_agreement(edges(pictures), hint).mean().item(), 4)
        answer[f"colour_and_shape{name}"] = round(sum(right) / count, 4)
    return answer


@torch.no_grad()
def inversion_round_trip(count: int = 16, steps: int = 50, refinements: tuple[int, ...] = (0, 3)) -> dict:
    """DDIM inversion under the caption at guidance 1 and DDIM back, plain and refined (``diffusion.inversion``).

    `psnr`: against the autoencoder's reconstruction. `lost`: how much further from the source the result is than that
    reconstruction, PSNR(reconstruction, source) - PSNR(result, source). All in dB, means over `count` held-out stills.
    """
    from ....diffusion.inversion import ddim_inversion
    from ....diffusion.sampling import sample_euler
    from ....diffusion.schedule import DiscreteSchedule
    from ..data import held_out

    vae, unet, text_encoder = models.load_vae(), models.load_unet(), models.load_text_encoder()
    schedule = DiscreteSchedule(alphas_cumprod().double())
    frames, scenes, _ = held_out(count)
    context = text_encoder(models.tokenize([s.caption for s in scenes])).last_hidden_state

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = sigma[:, None, None, None]
        return x - level * unet(x / (1 + level**2).sqrt(), schedule.timestep(sigma), context).sample

    def decode(z: torch.Tensor) -> torch.Tensor:
        return torch.cat([vae.decode(few / SCALE).sample for few in z.split(8)]).clamp(-1, 1)

    def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return -10 * torch.log10(((a - b) / 2).pow(2).mean((1, 2, 3)))

    source = frames.permute(0, 3, 1, 2) * 2 - 1
    z = torch.cat([vae.encode(few).latent_dist.mean for few in source.split(8)]) * SCALE
    sigmas = torch.cat([torch.zeros(1), schedule.sigma(torch.linspace(0, 999, steps + 1)[1:].round()).float()])
    reconstruction, result = decode(z), {"inversion_steps": steps}
    for refinement in refinements:
        noise = ddim_inversion(denoise, z, sigmas, refinement=refinement)[-1]
        back = decode(sample_euler(denoise, noise, sigmas.flip(0)))
        name = f"inversion_refined_{refinement}" if refinement else "inversion"
        near, lost = psnr(back, reconstruction), psnr(reconstruction, source) - psnr(back, source)
        result |= {f"{name}_psnr": round(near.mean().item(), 2), f"{name}_psnr_worst": round(near.min().item(), 2),
                   f"{name}_lost": round(lost.mean().item(), 2), f"{name}_lost_worst": round(lost.max().item(), 2)}
    return result
