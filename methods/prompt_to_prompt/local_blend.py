"""Prompt-to-Prompt's local blend: the edit stays where some words are (Hertz et al. 2022, as in the authors' code).

The cross-attention maps of the words are summed over the words and averaged over heads, layers and the steps so far;
widened by a 3x3 maximum, brought to the latent's size and divided by their maximum, they mark the cells above a
threshold. After every step a frame is the source's outside of the union of the source's and the target's marks:

    x = x_source + m (x_target - x_source).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

#: Maps are read in layers of about so many cells, those of 16x16 in Stable Diffusion 1.x at 512x512.
CELLS = 256


@dataclass(frozen=True, eq=False)
class LocalBlend:
    """Settings of the local blend; the defaults are the authors'.

    Args:
        source, target: [tokens] of either prompt, 1 for the words whose place may change; None where none is named.
        threshold: of a map whose maximum is 1.
        start: share of the steps after which it begins.

    Raises:
        ValueError: a setting outside of its range, or no word at all.
    """

    source: Tensor | None
    target: Tensor | None
    threshold: float = 0.3
    start: float = 0.2

    def __post_init__(self) -> None:
        if self.source is None and self.target is None:
            raise ValueError("blend_source, blend_target: both are empty, so that nothing could change; name a word.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold: expected a share of the strongest place, between 0 and 1, but got "
                             f"{self.threshold}.")
        if not 0 <= self.start <= 1:
            raise ValueError(f"blend_start: expected a share of the steps from 0 to 1, but got {self.start}.")

    def blended(self, target: Tensor, source: Tensor, x: Tensor, x_source: Tensor, sigma: float, below: float,
                mask: Tensor) -> Tensor:
        """The target's D(x, sigma) from which a step of DDIM (Euler) goes to the blended x at ``below``.

        With r = below / sigma a step is x' = r x + (1 - r) D, so that blending x' is

            D = D_s + m (D_t - D_s) + r / (1 - r) (1 - m) (x_s - x_t).

        Args:
            target, source: D_t, D_s, [frames, n * channels, h, w]: of every condition side by side, or guided.
            x, x_source: [frames, channels, h, w].
            mask: m [frames, 1, h, w], 1 where the edit is.
        """
        ratio = below / sigma
        shift = ratio / (1 - ratio) * (1 - mask) * (x_source - x)
        return source + mask * (target - source) + shift.repeat(1, target.shape[1] // x.shape[1], 1, 1)


@dataclass
class WordMaps:
    """The maps of words, summed over what has been evaluated of a run so far.

    Args:
        frames: of the call at work.
    """

    frames: Sequence[int] = ()
    size: tuple[int, int] = (1, 1)
    count: int = 1
    now: dict[tuple[str, bool], Tensor] = field(default_factory=dict)
    sums: dict[tuple[int, bool], Tensor] = field(default_factory=dict)

    def begin(self, size: Sequence[int], frames: int) -> None:
        """Begin an evaluation of so many frames of latents of this height and width."""
        self.size, self.count, self.now = (size[0], size[1]), frames, {}

    def add(self, path: str, found: Tensor, source: bool) -> None:
        """Note a layer's maps [rows, cells, channels], alike in all channels of a head.

        A call that is made again, as after memory ran out, writes over what it has noted.
        """
        cells = found.shape[1]
        if cells > 4 * CELLS or path.startswith("middle"):
            return
        if (path, source) not in self.now:
            self.now[path, source] = found.new_zeros(self.count, cells, dtype=torch.float32)
        self.now[path, source][list(self.frames)] = found.float().mean(2)

    def end(self) -> None:
        """End an evaluation."""
        for (_, source), found in self.now.items():
            key = found.shape[1], source
            self.sums[key] = self.sums[key] + found if key in self.sums else found

    def mask(self, threshold: float) -> Tensor:
        """m [frames, 1, height, width], 1 where the edit is.

        Raises:
            ValueError: no layer has maps of a fitting size.
        """
        if not self.sums:
            raise ValueError(f"latent_image: this model attends to words in no layer of {4 * CELLS} cells or less at "
                             f"{self.size[1]}x{self.size[0]} cells; leave the words to blend by empty, or use a "
                             "smaller size.")
        cells = min((held for held, _ in self.sums), key=lambda held: abs(math.log(held / CELLS)))
        sides = (self.sums[cells, source] for source in (True, False) if (cells, source) in self.sums)
        return torch.stack([self._marked(side, threshold) for side in sides]).amax(0)

    def _marked(self, found: Tensor, threshold: float) -> Tensor:
        """The cells above the threshold."""
        halved = ([-(-side // 2**level) for side in self.size] for level in range(8))
        height, width = next((h, w) for h, w in halved if h * w == found.shape[1])
        wide = F.max_pool2d(found.reshape(-1, 1, height, width), 3, stride=1, padding=1)
        whole = F.interpolate(wide, size=self.size)
        return (whole / whole.amax((2, 3), keepdim=True) > threshold).to(whole)
