"""What can be said of an edited clip whose true answer nobody knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from . import metrics
from .flow import consistent

if TYPE_CHECKING:
    from torch import Tensor

#: Of two frames [H, W, 3]: the flow [H, W, 2] from the first to the second.
PairFlow = Callable[["Tensor", "Tensor"], "Tensor"]
#: What papers print in units of 1e-2, said so behind the value. DAPE's tables head the two errors so, too, and no other
#: scale fits: 8.71 stands beside 21.94 dB, where 100 * 10^(-21.94 / 20) = 8.0 and 255 * 10^(-21.94 / 20) = 20.4.
PUBLISHED = ("CLIP-Frame", "CLIP-Text", "Interpolation Error (flow)", "Interpolation Error (network)", "Warping Error",
             "Warping Error (Lai et al.)")  # fmt: skip
#: What the Warping Error of each definition is called.
WARPING: dict[metrics.Warping, str] = {"pooled": "Warping Error", "lai": "Warping Error (Lai et al.)"}
#: How a reader sees each value.
LOOKS = {
    "CLIP-Frame": ".4f", "CLIP-Text": ".4f", "Interpolation Error (flow)": ".5f", "Interpolation PSNR (flow)": ".2f",
    "Interpolation Error (network)": ".5f", "Interpolation PSNR (network)": ".2f",
    "Warping Error": ".6f", "Warping Error (Lai et al.)": ".6f", "Input Similarity": ".4f", "CLIP Score": ".4f",
    "PSNR outside the mask": ".2f",
}  # fmt: skip
DECIBEL = ("Interpolation PSNR (flow)", "Interpolation PSNR (network)", "PSNR outside the mask")


@dataclass
class Measured:
    """Values by the papers' names, None where one means nothing, and what they rest on."""

    values: dict[str, float | None]
    details: dict[str, str | int | float | None] = field(default_factory=dict)

    def lines(self) -> str:
        """For a reader, one value a line."""
        own = [f"{name}: {value:{LOOKS[name]}}" + (" dB" if name in DECIBEL else "") + as_published(name, value)
               for name, value in self.values.items() if value is not None]  # fmt: skip
        return "\n".join(own + [f"{name}: {value}" for name, value in self.details.items() if value is not None])

    def json(self) -> str:
        return json.dumps({**self.values, **self.details}, indent=1)


def as_published(name: str, value: float) -> str:
    """The value on the papers' scale, in words behind it; nothing where the scale is the same."""
    return f" (in papers {100 * value:.2f})" if name in PUBLISHED else ""


def flows_of(frames: Tensor, pair: PairFlow, advance: Callable[[], None] = lambda: None) -> tuple[Tensor, Tensor]:
    """Flow [F - 1, H, W, 2] of a clip and where it can be trusted [F - 1, H, W], from flows both ways.

    Args:
        advance: called after every pair of frames.
    """
    there, back = [], []
    for one, two in zip(frames, frames[1:]):
        there.append(pair(one, two))
        back.append(pair(two, one))
        advance()
    if not there:
        return frames.new_zeros(0, *frames.shape[1:3], 2), frames.new_zeros(0, *frames.shape[1:3], dtype=torch.bool)
    forward = torch.stack(there)
    return forward, consistent(forward, torch.stack(back))


def along_flow(frames: Tensor, flow: Tensor, valid: Tensor, warping: metrics.Warping = "pooled"
               ) -> dict[str, float | None]:  # fmt: skip
    """Interpolation Error and PSNR, and Warping Error; arguments as in ``metrics.interpolation``."""
    error, psnr = metrics.interpolation(frames, flow, valid) or (None, None)
    return {"Interpolation Error (flow)": error, "Interpolation PSNR (flow)": psnr,
            WARPING[warping]: metrics.warp_error(frames, flow, valid, warping)}  # fmt: skip


def by_network(frames: Tensor, predicted: Tensor) -> dict[str, float | None]:
    """Interpolation Error and PSNR of a network; arguments as in ``metrics.network_interpolation``."""
    error, psnr = metrics.network_interpolation(frames, predicted) or (None, None)
    return {"Interpolation Error (network)": error, "Interpolation PSNR (network)": psnr}


def by_clip(embeddings: Tensor, text: Tensor | None, source: Tensor | None,
            first: Tensor | None = None) -> dict[str, float | None]:
    """CLIP-Frame, CLIP-Text, and LoRA-Edit's two: Input Similarity and CLIP Score.

    Input Similarity is the mean cosine of each frame's embedding and its source's, CLIP Score that of each frame's and
    the edited first frame's; that frame's own counts, too.

    Args:
        embeddings, source: [F, D]. text: [D]. first: [1, D].
    """
    def cosine(others: Tensor | None) -> float | None:
        return None if others is None else float(
            torch.nn.functional.cosine_similarity(embeddings.double(), others.double(), dim=-1).mean())  # fmt: skip

    return {
        "CLIP-Frame": metrics.clip_frame(embeddings),
        "CLIP-Text": None if text is None else metrics.clip_text(embeddings, text),
        "Input Similarity": cosine(source),
        **({} if first is None else {"CLIP Score": cosine(first)}),
    }
