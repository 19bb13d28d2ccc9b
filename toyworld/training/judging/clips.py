"""A clip from its first frame with the toy video model alone (Euler), and the judging of what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ... import models
from ...models import wan, wan_vae
from ...models.classifier import boxes_of
from ...models.judge import classify
from ...world.clips import FRAMES, slow_scene
from ...world.rendering import render
from ...world.scene import Scene
from ..recipes.wan import first_frame_mask, silence
from ..recipes.wan_vae import own_vae
from .prompts import prompts


def sigmas_of(steps: int, shift: float = wan.SHIFT) -> torch.Tensor:
    """Noise levels s t / (1 + (s - 1) t), t evenly from 1 to 0; [steps + 1]."""
    t = torch.linspace(1, 0, steps + 1)
    return shift * t / (1 + (shift - 1) * t)


@torch.no_grad()
def condition_of(vae: wan_vae.WanVAE, first: torch.Tensor, frames: int = FRAMES) -> torch.Tensor:
    """Mask and normalised latents [B,20,T',h,w] of the clips that show `first` [B,H,W,3] in 0..1, then gray."""
    gray = torch.zeros(len(first), 3, frames - 1, *first.shape[1:3])
    clip = torch.cat([first.permute(0, 3, 1, 2)[:, :, None] * 2 - 1, gray], 2)
    z = torch.cat([vae.moments(part)[0] for part in clip.split(2)])
    z = (z - wan_vae.channels(wan_vae.MEAN)) / wan_vae.channels(wan_vae.STD)
    return torch.cat([first_frame_mask(*z.shape[2:]).expand(len(z), -1, -1, -1, -1), z], 1)


@torch.no_grad()
def animate(first: torch.Tensor, captions: Sequence[str], steps: int = 20, guidance: float = 1.0, seed: int = 0,
            frames: int = FRAMES, parts: tuple | None = None, batch: int = 10) -> torch.Tensor:
    """Clips that begin with given frames.

    Euler along dz/ds = v from s = 1 to 0 over `sigmas_of(steps)`; guidance v = v_0 + g (v_text - v_0), where v_0 sees
    the first frame too.

    Args:
        first: [B,H,W,3] in 0..1. parts: (WanVAE, transformer, text encoder); None = the trained ones.
    Returns: [B,frames,H,W,3] in 0..1.
    """
    vae, network, encoder = parts or (own_vae(), models.load_wan(), models.load_text_encoder())
    sigmas, clips = sigmas_of(steps).tolist(), []
    for start in range(0, len(first), batch):
        y = condition_of(vae, first[start:start + batch], frames)
        text = encoder(models.tokenize(list(captions[start:start + batch]))).last_hidden_state
        if guidance != 1:
            text, y = torch.cat([text, silence().expand_as(text)]), torch.cat([y, y])
        shape = (len(first[start:start + batch]), wan_vae.LATENTS, *y.shape[2:])
        z = torch.randn(shape, generator=torch.Generator().manual_seed(seed + start))
        for now, then in zip(sigmas, sigmas[1:]):
            seen = torch.cat([z.repeat(len(y) // len(z), 1, 1, 1, 1), y], 1)
            v = network(seen, torch.full((len(y),), 1000 * now), text).sample
            if guidance != 1:
                given, free = v.chunk(2)
                v = free + guidance * (given - free)
            z = z + (then - now) * v
        z = z * wan_vae.channels(wan_vae.STD) + wan_vae.channels(wan_vae.MEAN)
        clips += [vae.decode(part) for part in z.split(2)]
    return (torch.cat(clips) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)


def follow(clip: torch.Tensor, box: torch.Tensor, reach: int = 8, side: int = 24) -> torch.Tensor:
    """Where the thing in `box` [4] of the first frame is in each frame of `clip` [T,H,W,3]; boxes [T,4], pixels.

    Template matching: each frame's box is the shift of the one before, by up to `reach` pixels each way, whose content
    differs least from the box before. It looks for what was there, and knows nothing of colours and shapes.
    """
    steps = torch.arange(-reach, reach + 1, 2).float()
    shifts = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).view(-1, 2)
    boxes = [box.float()]
    for before, now in zip(clip, clip[1:]):
        last = boxes[-1]
        best = last
        for moves in (shifts, shifts / reach):  # coarse, then by single pixels
            tried = best + torch.cat([moves, moves], 1)
            error = (cut(now, tried, side) - cut(before, last[None], side)).square().mean((1, 2, 3))
            best = tried[error.argmin()]
        boxes.append(best)
    return torch.stack(boxes)


def cut(frame: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """Contents of boxes [N,4] of one frame [H,W,3], as [N,3,side,side]."""
    height, width = frame.shape[:2]
    steps = (torch.arange(side) + 0.5) / side
    left, top, right, bottom = boxes.unbind(1)
    x = (left[:, None] + (right - left)[:, None] * steps) / width * 2 - 1
    y = (top[:, None] + (bottom - top)[:, None] * steps) / height * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)
    picture = frame.permute(2, 0, 1)[None].float().expand(len(boxes), -1, -1, -1)
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=False)


def edit_kept(clips: torch.Tensor, boxes: torch.Tensor, scenes: list[Scene],
              judge) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether colour and shape are the scene's in each frame, bool [N,T]; and how far the thing went, pixels [N]."""
    right, path = [], []
    for clip, box, scene in zip(clips, boxes, scenes):
        places = follow(clip, box)
        seen = classify(clip, places, judge)
        right.append([c == scene.main.colour and s == scene.main.shape for c, s in zip(seen["colour"], seen["shape"])])
        path.append((places[1:, :2] - places[:-1, :2]).norm(dim=1).sum())
    return torch.tensor(right), torch.stack(path)


def judge_clips(count: int = 64, steps: int = 20, guidance: float = 1.0, parts: tuple | None = None) -> dict:
    """Continue `count` held-out first frames and have the judge look, where a tracker finds the main object.

    `kept`: share of all frames with the right colour and shape; `kept_last`: of last frames; `kept_throughout`: of
    clips that are right in all 13 frames; `*_truth`: the same for the rendered clips, which is what the instruments
    can see at best; `travel`: how far the object goes in 13 frames, pixels, generated and true.
    """
    scenes, judge = prompts(count, 0, slow_scene), models.load_classifier()
    truth = [render(scene) for scene in scenes]
    frames = torch.stack([clip.frames for clip in truth])
    boxes = boxes_of(torch.stack([clip.masks[0, 0] for clip in truth]))
    clips = animate(frames[:, 0], [scene.caption for scene in scenes], steps, guidance, parts=parts)
    result = {"clips": count, "sampling_steps": steps, "guidance": guidance}
    for word, shown in (("", clips), ("_truth", frames)):
        right, path = edit_kept(shown, boxes, scenes, judge)
        result |= {f"kept{word}": right.float().mean(), f"kept_last{word}": right[:, -1].float().mean(),
                   f"kept_throughout{word}": right.all(1).float().mean(), f"travel{word}": path.mean()}
    first = -10 * torch.log10((clips[:, 0] - frames[:, 0]).square().mean((1, 2, 3)))
    return {key: round(float(value), 4) for key, value in {**result, "first_frame_psnr": first.mean()}.items()}
