"""One window of an edit by a GUIDER: decoded frames in, edited frames out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..methods.content_hash import content_hash
from ..methods.registry import build_on, traits
from .noise import FrameNoise
from .per_frame import check_conditions

if TYPE_CHECKING:
    from ..backends.protocol import Guiding
    from .source import Frames
    from .store import Window

GATHER_SWAP = "gather-swap"
ADVICE = "edit a clip as short as a window in a graph of single nodes instead"
#: Condition of instruction editors: the latent of the picture that is edited.
IMAGE = "concat_latent_image"


@dataclass
class ClipEdit:
    """An edit that is the same for every window, exactly as for the clip in one piece.

    With gather-swap, frames see the group's frames and no others: each window has the group's at its head, whose rows
    are dropped from the result.

    Args:
        host: the backend of the GUIDER.
        clip: the source's frames.
        guider, sampler, sigmas, vae: of the graph; none of them is changed.
        noise: of every frame.
        own_image: a condition that holds an image is given each frame's own in its place.

    Raises:
        ValueError: one sentence for what would not be exact.
    """

    host: Guiding
    clip: Frames
    guider: Any
    sampler: Any
    sigmas: Tensor
    vae: Any
    noise: FrameNoise
    own_image: bool = True
    group: tuple[int, ...] = field(default=(), init=False)
    _model: Any = field(default=None, init=False)
    _heads: list[Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._model = self.host.guider_model(self.guider)
        self.host.check_guided(self.guider, self.sampler)
        check_conditions(self.host.guider_conditions(self.guider))
        for attachment in self.host.attachments(self._model):
            if not traits(attachment.method).exact_in_windows:
                raise ValueError(f"guider: its model has {attachment.method}, in which every frame looks at the whole "
                                 f"clip, so that it cannot be edited in windows; take it off, or {ADVICE}.")
            if attachment.method == GATHER_SWAP and attachment.plan is not None:
                self.group = tuple(attachment.plan.reference_frames(self.clip.total))
                settings = {**attachment.config, "frames": tuple(range(len(self.group)))}
                self._model = self.host.attach(self._model, build_on(self.host, self._model, GATHER_SWAP, settings))
        self.noise.held = self.group

    def identity(self) -> str | None:
        """Hash of everything that decides the frames; None where it can not be told."""
        parts = [self.clip.identity(), self.host.guided_identity(self.guider, self.sampler, self.vae),
                 self.sigmas.double(), self.noise.seed, self.noise.how, self.own_image]  # fmt: skip
        return None if parts[1] is None else content_hash(torch.__version__, *parts)

    def __call__(self, window: Window, part: Callable[[float], None]) -> Tensor:
        """See ``run.edit_windows``."""
        frames = torch.stack([*self._group_frames(), *self._read(window, part)])
        samples = self.host.encoded(self.vae, frames)
        part(0.0)
        ids = [*self.group, *range(window.first, window.stop)]
        noise = self.noise.of(ids, samples.shape[1:])
        guider = self.host.changed_guider(self.guider, self._model, lambda condition: self._here(condition, samples))
        steps = max(1, len(self.sigmas) - 1)
        done = self.host.guided(guider, noise, samples, self.sampler, self.sigmas, self.noise.seed,
                                lambda step: part(step / (steps + 1)))  # fmt: skip
        # The group's rows were there to be looked at.
        return self.host.decoded(self.vae, done[len(self.group) :])

    def _here(self, condition: Mapping[str, Any], samples: Tensor) -> dict[str, Any]:
        """A condition for the frames of a window."""
        there = dict(condition)
        if self.own_image and condition.get(IMAGE) is not None:
            there[IMAGE] = samples
        return there

    def _read(self, window: Window, part: Callable[[float], None]) -> list[Tensor]:
        frames = []
        for frame in self.clip.read(window.first, window.count):
            frames.append(frame)
            part(0.0)
        return frames

    def _group_frames(self) -> list[Tensor]:
        """Read once: as many as the group has, however long the clip is."""
        if self._heads is None:
            self._heads = [next(iter(self.clip.read(index, 1))) for index in self.group]
        return self._heads
