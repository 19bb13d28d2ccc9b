"""VIA's boundary blend as a SAMPLER of this backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...diffusion.samplers import named_sampler, sample_heun
from ...diffusion.sampling import sample_euler
from ...methods.via.blend import BoundaryBlend, blended, check_unblended

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.via.blend import Noisy

SINGLE_STEP = (sample_euler, sample_heun)


@dataclass(frozen=True, eq=False)
class BlendedSampler:
    """A sampler and what it keeps of the clip.

    Args:
        sampler: a name of ``diffusion.samplers.SAMPLERS``, or a function in its convention.
        blend: what to keep.

    Raises:
        ValueError: the sampler is blended already.
    """

    sampler: str | Callable[..., Tensor]
    blend: BoundaryBlend

    def __post_init__(self) -> None:
        check_unblended(self.sampler)

    @property
    def keeps(self) -> BoundaryBlend:
        """The mark of a blended sampler."""
        return self.blend

    def bound(self, to_model_space: Callable[[Tensor], Tensor], noisy: Noisy | None = None) -> Callable[..., Tensor]:
        """The sampler as a function, for a model with this scale of latents; ``noisy`` is a flow's."""
        function = named_sampler(self.sampler)
        return blended(function, self.blend, literal=function in SINGLE_STEP,
                       to_model_space=lambda model: to_model_space,
                       frame_ids=lambda extra_args: extra_args.get("frame_ids"),
                       noisy=lambda model: noisy)  # fmt: skip
