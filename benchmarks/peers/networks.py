"""Segment Anything beside its authors' predictor, and gather-swap beside plain sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .contest import Absent, Contest

BOX = (200.0, 150.0, 700.0, 600.0)


def segmentation(folders: Mapping[str, Path], build: Any = None) -> Contest:
    """One frame and one box through vit_b with random weights; a frame that fills the network's square.

    Args:
        build: makes segment-anything's module; its own vit_b if None.
    """
    from ...vision.segmentation.load import official_works

    if not official_works():
        raise Absent("segment-anything cannot be imported (it needs torchvision)")
    from segment_anything import SamPredictor, sam_model_registry

    from ...vision.segmentation.prompt import Prompt
    from ...vision.segmentation.sam import OfficialEngine, Sam

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = (build or sam_model_registry["vit_b"])().eval()
    side = module.image_encoder.img_size
    generator = torch.Generator().manual_seed(0)
    picture = (torch.rand(side * 3 // 4, side, 3, generator=generator) * 255).round()
    box = torch.tensor(BOX) * side / 1024
    own, predictor = Sam(OfficialEngine(module)), SamPredictor(module)

    def ours() -> Tensor:
        features = own.encode((picture / 255)[None])[0]
        return own.predict(features, Prompt(boxes=box[None])).masks[0, 0]

    def theirs() -> Tensor:
        predictor.set_image(picture.byte().numpy())
        return torch.from_numpy(predictor.predict(box=box.numpy(), multimask_output=False, return_logits=True)[0][0])

    return Contest("a mask by Segment Anything, vit_b", "SamPredictor", ours, theirs, relative, 1e-4, rounds=2)


def gather_swap(folders: Mapping[str, Path], frames: int = 64, side: int = 8, steps: int = 10) -> Contest:
    """VIA's sampling of the toy editor over the same without gather-swap.

    Of equal frames with equal noise both give the same, since every frame's keys are the group's.
    """
    from ...methods.via.pipeline import ViaRecipe, sample_edit
    from ..common.cases import quiet_backend

    backend = quiet_backend()
    model, text, _ = backend.load_toy_editor()
    positive, negative = (text.encode_from_tokens_scheduled(text.tokenize(words)) for words in ("make it blue", ""))
    clip = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0)).expand(frames, -1, -1, -1)
    recipe = ViaRecipe(adaptation=None, blend=None, steps=steps)

    def edited(used: ViaRecipe) -> Tensor:
        return sample_edit(backend, model, clip.contiguous(), positive, negative, used)

    floor = 1 + 0.8 * 4 / frames

    def apart(ours: Tensor, theirs: Tensor) -> tuple[float, str]:
        return relative(ours, theirs)[0], f"equal on equal frames; the group alone costs {floor:.2f}"

    return Contest(f"VIA's sampling of {frames} frames with gather-swap", "the same without it", lambda: edited(recipe),
                   lambda: edited(replace(recipe, swap=None)), apart, 1e-3, rounds=1, weigh="")  # fmt: skip


def relative(ours: Tensor, theirs: Tensor) -> tuple[float, str]:
    """The largest difference to the largest value."""
    a, b = ours.detach().double(), theirs.detach().double()
    error = float((a - b).abs().max() / b.abs().max())
    return error, f"results {error:.0e} apart"
