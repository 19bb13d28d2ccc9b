"""What speaks against a clip: too much motion, none, or a scene cut."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..vision.flow import consistent, estimate_flow

#: Flow is estimated on pictures of this size, in so many pairs of neighbours spread evenly over the clip.
SIDE, PAIRS = 128, 16


def small(picture: Tensor) -> Tensor:
    """A picture [H, W, 3] as the motion is measured on, [SIDE, SIDE, 3]."""
    plane = picture.movedim(-1, 0)[None]
    return torch.nn.functional.interpolate(plane, (SIDE, SIDE), mode="bilinear", antialias=True)[0].movedim(0, -1)


def motion(pictures: list[Tensor]) -> float:
    """Mean length of the flow from a frame to the next, in percent of the picture's side.

    Over the points where the flow back agrees (on plain areas an estimate says nothing); over all where none does.

    Args:
        pictures: ``small`` ones, all frames of a clip.
    """
    if len(pictures) < 2:
        return 0.0
    starts = torch.linspace(0, len(pictures) - 2, min(PAIRS, len(pictures) - 1)).round().int().unique().tolist()
    flows = [estimate_flow(torch.stack([*pictures[start : start + 2], pictures[start]])) for start in starts]
    there, back = torch.stack(flows).unbind(1)
    length, seen = there.norm(dim=-1), consistent(there, back)
    return 100 * float(length[seen].mean() if seen.any() else length.mean()) / SIDE


def cuts(video: Path) -> int:
    """Number of scene cuts in a video, by PySceneDetect's content detector.

    Raises:
        ValueError: PySceneDetect is not installed.
    """
    try:
        from scenedetect import ContentDetector, detect
    except ImportError as error:
        raise ValueError("curate: scene cuts are found by PySceneDetect, which is not here: pip install "
                         "scenedetect-headless, or leave them out by --no-cuts.") from error  # fmt: skip
    return max(0, len(detect(str(video), ContentDetector())) - 1)


def verdict(moved: float, scene_cuts: int | None, least: float, most: float) -> str:
    """Why a clip is left out, in words; nothing for one that stays."""
    if moved > most:
        return f"moves {moved:.2f} % of its width a frame, more than {most:g}"
    if moved < least:
        return f"moves {moved:.2f} % of its width a frame, less than {least:g}"
    return f"has {scene_cuts} scene cut{'s' * (scene_cuts > 1)}" if scene_cuts else ""
