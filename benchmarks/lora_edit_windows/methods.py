"""Ways to edit a clip that is longer than the model, all from the same weights, noise and edited first frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...diffusion.schedule import named_sigmas
from ...methods.lora_edit.clips import clip_ranges
from ...methods.lora_edit.condition import condition, generated
from ...methods.lora_edit.packing import latent_frames
from ...methods.lora_edit.samples import mask_samples
from ...methods.lora_edit.train import VideoSettings, train_mask_lora
from ...methods.lora_edit.window_chain import edit_in_windows, latents_of
from ...vision.colour import brought_back
from ..lora_edit.methods import FIRST, MASKED
from ..lora_edit.methods import Method as Training
from ..lora_edit.methods import Settings as Common

if TYPE_CHECKING:
    from torch import Tensor

    from ..common.cases import World
    from ..lora_edit.cases import VideoCase


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        keep: what the model is told to keep, in training and in use; see ``choices.KEEPS``.
        matched: the windows' colours are brought to the source's.
        windows: overlapping windows; else the clip in one piece.
        cut: only the clip's first window is there.
    """

    keep: str = MASKED
    matched: bool = False
    windows: bool = True
    cut: bool = False


METHODS: dict[str, Method] = {
    "windows": Method(matched=True),
    "windows-unmatched": Method(),
    "naive-chain": Method(keep=FIRST),
    "native-piece": Method(windows=False, cut=True),
    "one-piece": Method(windows=False),
}


@dataclass(frozen=True)
class Settings(Common):
    """What all methods have in common.

    Args:
        length: frames of a window, the model's own number.
        overlap: frames that a window takes over from the one before.
    """

    steps: int = 100
    sampling: int = 10
    length: int = 13
    overlap: int = 1


def first_window(found: VideoCase, length: int) -> VideoCase:
    """The case as long as the model takes."""

    def cut(clip: Any) -> Any:
        return replace(clip, frames=clip.frames[:length], masks=clip.masks[:, :length], flow=clip.flow[: length - 1],
                       flow_valid=clip.flow_valid[: length - 1])  # fmt: skip

    case = replace(found.case, source=cut(found.case.source), truth=cut(found.case.truth))
    return replace(found, case=case, boxes=found.boxes[:length], wanted=found.wanted[:length])


def edit(world: World, found: VideoCase, method: Method, settings: Settings, seed: int, kept: Path) -> Tensor:
    """The edited clip, [frames, height, width, 3].

    Args:
        found: of the first window alone where the method is ``cut``.
        seed: of the noise, one for the whole clip.
        kept: folder of finished trainings, which several methods share.
    """
    case, video = found.case, found.case.source.frames
    samples = mask_samples(world.vae.encode, video, found.boxes, case.source_text, keep=method.keep,
                           clip_length=settings.length)  # fmt: skip
    recipe = settings.recipe(Training(method.keep), settings.steps)
    model = train_mask_lora(world.backend, world.model, samples, recipe, VideoSettings(preview_every=0),
                            cache=kept).model  # fmt: skip
    sigmas = named_sigmas(world.backend.schedule(model), "simple", settings.sampling)
    noise: list[Tensor] = []

    def window(span: range, given: Tensor, generate: Tensor) -> Tensor:
        there = condition(world.vae.encode, given, generate)
        if not noise:
            shape = (*there.concat_latent_image.shape[:2], latent_frames(len(video)),
                     *there.concat_latent_image.shape[3:])  # fmt: skip
            noise.append(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
        start = world.backend.from_model_space(model, noise[0][:, :, latents_of(span)])
        progress = world.backend.progress(settings.sampling, "sampling")
        done = world.backend.sample(model, there.onto(case.target_text), there.onto(case.empty), settings.guidance,
                                    start, sigmas, progress, seed=seed)  # fmt: skip
        return world.vae.decode(done)

    length = settings.length if method.windows else len(video)
    spans = clip_ranges(len(video), length, settings.overlap)
    return edit_in_windows(video, generated(video, found.boxes, method.keep), case.truth.frames[:1], spans, window,
                           brought_back if method.matched else None)  # fmt: skip
