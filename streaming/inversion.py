"""The source's inversion, window by window, and what keeps a region of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..methods.content_hash import content_hash
from ..methods.prompts import check_every_level
from ..methods.trajectory_store import inverted
from ..methods.via.blend import BoundaryBlend
from ..methods.via.latent_mask import keep_mask

if TYPE_CHECKING:
    from ..backends.protocol import Sampling
    from ..diffusion.trajectory import Trajectory

#: Where nothing of the source is kept in the latents.
NO_BLEND = "none"


@dataclass(frozen=True)
class StreamedInversion:
    """How a streamed edit inverts its source.

    Args:
        model: MODEL that inverts, and samples the edit.
        conditioning: CONDITIONING of the source.
        sigmas: [steps + 1], descending.
        refinement: fixed-point iterations a step.
        blend: a mode of ``methods.via.blend.BoundaryBlend``, or ``NO_BLEND``.
        reading, ramp, soft: of that.
    """

    model: Any
    conditioning: Any
    sigmas: Tensor
    refinement: int = 0
    blend: str = NO_BLEND
    reading: str = "A"
    ramp: int = 0
    soft: bool = True

    def check(self, sigmas: Tensor) -> None:
        """Raise ValueError where the edit begins at another noise level than the inversion ends at, or the prompt
        leaves noise levels out."""
        check_every_level("conditioning", self.conditioning)
        if len(sigmas) < 2:
            raise ValueError("sigmas: hold no step; connect the sigmas of Inversion for Streamed Edit.")
        first, last = float(sigmas[0]), float(self.sigmas[0])
        if abs(first - last) > 1e-4 * last:
            raise ValueError(f"sigmas: begin at noise level {first:.4g}, but the inversion ends at {last:.4g}; connect "
                             "the sigmas of Inversion for Streamed Edit.")

    def run(self, host: Sampling, samples: Tensor, folder: Path, conditioning: Any,
            step: Callable[[int], None]) -> tuple[Trajectory, Tensor]:  # fmt: skip
        """The window's trajectory, on disk and mapped, and its noise; goes on there after the last step.

        Args:
            samples: LATENT samples of the window.
            conditioning: that of the source, for this window.
            step: called with the steps that are done.
        """

        def advance(number: int, x: Tensor, levels: Tensor) -> Tensor:
            step(number)
            return host.invert(self.model, conditioning, x, levels, self.refinement, _Nothing())[-1]

        about = [content_hash(conditioning), self.refinement]
        return inverted(folder, samples, self.sigmas.flip(0), advance, about)

    def blended(self, host: Sampling, sampler: Any, trajectory: Trajectory, mask: Tensor) -> Any:
        """The SAMPLER that edits inside the mask [frames, height, width] only."""
        frames, _, height, width = trajectory.shape
        keep = keep_mask(mask, frames, height, width, self.soft)
        return host.blend_sampler(sampler, BoundaryBlend(trajectory, keep, self.blend, self.reading, self.ramp))


class _Nothing:
    """Progress of one step of an inversion, which is told by its number."""

    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        """Shows nothing."""
