"""RAVE's noise shuffling (Kara et al. 2024, section 3.2), as a change of the denoiser.

At step t the clip's frames are put into grids of g x g in a random order, the U-Net denoises each grid as one
picture, so that self-attention sees g^2 frames at once, and the frames are taken out again. As the order is another
one at every step, every frame meets every other.

    D(x_1 .. x_F; sigma) = P^-1 grid^-1 D_U-Net(grid(P x); sigma),   P = P(seed, step)

The paper shuffles what lies in the sampler; here the sampler sees frames in their own order and only the denoiser's
evaluation is laid out. For the paper's sampler that is the same, and one with a memory (dpmpp_2m) keeps it.

Hints of a ControlNet, images beside the noise and masks are laid out with their frames. The paper's clips fill their
grids; other lengths are filled up with frames of the clip (``grids.filled``), whose results are thrown away.
Inversion goes frame by frame, as in the authors' code, which lays grids out after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..attachment import Attachment, BlockSite
from ..sampling_plan import Calls, RunFacts, in_chunks
from .frame_grid import filled, from_grid, permutation, to_grid


@dataclass(frozen=True)
class Rave:
    """Settings of RAVE; the defaults are the paper's.

    Args:
        grid: frames a side of a grid; 1 is plain sampling, frame by frame.
        seed: of the random orders.
        shuffle: False keeps the clip's order at every step (the paper's ablation).
        chunk: grids in a call of the U-Net; 0 leaves it to the host. The result does not depend on it.

    Raises:
        ValueError: a setting outside of its range.
    """

    grid: int = 3
    seed: int = 0
    shuffle: bool = True
    chunk: int = 0

    name, kinds, apart, source = "RAVE", (), "lays several frames out as one picture", None
    edits_prompt = cuts_clip = False

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid: expected 1 frame a side or more, but got {self.grid}.")
        if self.chunk < 0:
            raise ValueError(f"chunk: expected 0 (all that memory allows) or a number of grids, but got {self.chunk}.")

    def __deepcopy__(self, memo: dict) -> Rave:
        # Immutable: hosts deep-copy the options of a model on every clone.
        return self

    @property
    def acts(self) -> bool:
        """Grids of 1x1 are plain sampling."""
        return self.grid > 1

    def reference_frames(self, frames: int) -> tuple[int, ...]:
        """None: every row of the sampler is a frame."""
        return ()

    def in_part(self, frames: int, ids: Sequence[int], anchors: Sequence[int]) -> Rave:
        """Grids of the window's frames, anchors among them."""
        return self

    def rows_together(self, frames: int) -> int:
        """One grid is enough."""
        return 1

    def begin_run(self, facts: RunFacts, sites: frozenset[str]) -> RaveRun:
        """See ``SamplingPlan.begin_run``."""
        return RaveRun(self, facts)

    def order(self, frames: int, step: int) -> tuple[int, ...]:
        """Frame numbers of all places of all grids, row by row; the first ``frames`` of them hold each frame once."""
        order = permutation(frames, self.seed, step) if self.shuffle else tuple(range(frames))
        return filled(order, self.grid)


def build_rave(sites: Iterable[BlockSite], **config: Any) -> Attachment:
    """RAVE on a whole U-Net. It owns no weights and touches no block of its own.

    Args:
        sites: all blocks of the U-Net.
        config: fields of ``Rave``.

    Raises:
        ValueError: a setting outside of its range.
    """
    settings = Rave(**config)
    return Attachment(method="rave", config=asdict(settings), plan=settings)


def back_in_order(tiles: Tensor, order: tuple[int, ...], frames: int) -> Tensor:
    """Frames [F, ...] in the clip's order, from those of all places [places, ...]; what only filled up is dropped."""
    place = [0] * frames
    for k, frame in enumerate(order[:frames]):
        place[frame] = k
    return tiles[place]


def denoise_in_grids(
    settings: Rave, pictures: Callable[[Tensor, tuple[int, ...]], Tensor], x: Tensor, step: int
) -> Tensor:
    """One evaluation of the denoiser on frames laid out in grids.

    Args:
        settings: of RAVE.
        pictures: denoises grids [m, channels, g h, g w], told the frame of every place [m g^2].
        x: [F, channels, h, w].
        step: number of the evaluation's step in the whole schedule, which the order hangs on.

    Returns:
        Denoised x, shaped like it. With grids of 1x1 there is nothing to lay out: frames go in their own order.
    """
    frames = len(x)
    if settings.grid == 1:
        return pictures(x, tuple(range(frames)))
    order = settings.order(frames, step)
    denoised = pictures(to_grid(x[list(order)], settings.grid), order)
    return back_in_order(from_grid(denoised, settings.grid), order, frames)


@dataclass(frozen=True)
class RaveRun:
    """One run of a sampler: every evaluation laid out in grids.

    Args:
        settings: of RAVE.
        facts: of the run.
    """

    settings: Rave
    facts: RunFacts

    def __call__(self, x: Tensor, sigma: float, calls: Calls) -> Tensor:
        """See ``PlannedRun``."""
        grid, chunk = self.settings.grid, self.settings.chunk
        return denoise_in_grids(self.settings, lambda tiles, order: in_chunks(calls, tiles, order, chunk, grid=grid),
                                x, self.facts.step_of(sigma))
