"""What a method is, so that whoever cuts a clip, trains on it or refuses something asks one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """What a method says of itself; ``methods.registry.traits`` answers by slug.

    Args:
        mixes_frames: a frame's result depends on other frames of the clip.
        needs_whole_clip: on all of them, so that a window of the clip, even with reference frames beside it, gives
            another result.
        uses_reference_frames: other frames are seen only through a few named ones; a window with those at its head
            gives what the whole clip gives.
        trains_on_clip: it has weights, or changes query projections, that tuning on a clip sets.
        changes_sampling_only: it has no part in training and in inversion.
        keeps_state: it carries something from one sampling step to the next.
        needs_inversion: it reads the source's inversion while the edit is sampled.
    """

    mixes_frames: bool = False
    needs_whole_clip: bool = False
    uses_reference_frames: bool = False
    trains_on_clip: bool = False
    changes_sampling_only: bool = False
    keeps_state: bool = False
    needs_inversion: bool = False

    @property
    def exact_in_windows(self) -> bool:
        """Whether sampling a clip window by window, reference frames at the head of each, is exact."""
        return not self.needs_whole_clip
