"""One window of an edit by a GUIDER: decoded frames in, edited frames out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..methods.content_hash import content_hash
from ..methods.registry import build_on, traits
from ..methods.via.composite import composite
from ..methods.via.editor_clip import MAKER
from .inversion import NO_BLEND, StreamedInversion
from .noise import FrameNoise
from .per_frame import check_conditions

if TYPE_CHECKING:
    from ..backends.protocol import Streaming
    from .source import Frames
    from .store import Window

GATHER_SWAP = "gather-swap"
ADVICE = "edit a clip as short as a window in a graph of single nodes instead"
#: Condition of instruction editors: the latent of the picture that is edited.
IMAGE = "concat_latent_image"


@dataclass(frozen=True)
class Masked:
    """Where the edit is, as a video that is white there, and how it meets the rest; see ``methods.via.composite``."""

    clip: Frames
    feather: int = 8
    match_colour: bool = True


@dataclass(frozen=True)
class Hints:
    """What a ControlNet sees, as a video, and how strongly it acts between two shares of the noise schedule."""

    clip: Frames
    control_net: Any
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass
class ClipEdit:
    """An edit that is the same for every window, exactly as for the clip in one piece.

    With gather-swap, frames see the group's frames and no others: each window has the group's at its head, whose rows
    are dropped from the result.

    Args:
        host: the backend of the GUIDER.
        clip: the source's frames.
        guider, sampler, sigmas, vae: of the graph; none of them is changed.
        noise: of every frame, where the edit does not begin with the source's inversion.
        own_image: a condition that holds an image is given each frame's own in its place.
        masked, hints: None leaves it out.
        inversion: the edit begins with the source's inversion; None begins with noise.
        empty: that noise is on an empty latent instead of the source's.

    Raises:
        ValueError: one sentence for what would not be exact.
    """

    host: Streaming
    clip: Frames
    guider: Any
    sampler: Any
    sigmas: Tensor
    vae: Any
    noise: FrameNoise
    own_image: bool = True
    masked: Masked | None = None
    hints: Hints | None = None
    inversion: StreamedInversion | None = None
    empty: bool = False
    group: tuple[int, ...] = field(default=(), init=False)
    _model: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not torch.isfinite(self.sigmas).all():
            raise ValueError("sigmas: hold NaN or infinite values; check the scheduler that made them.")
        self._model = self.host.guider_model(self.guider)
        self.host.check_guided(self.guider, self.sampler)
        check_conditions(self.host.guider_conditions(self.guider), self.own_image)
        self._check_methods("guider", self._model)
        for attachment in self.host.attachments(self._model):
            if attachment.method == GATHER_SWAP and attachment.plan is not None:
                self.group = tuple(attachment.plan.reference_frames(self.clip.total))
                settings = {**attachment.config, "frames": tuple(range(len(self.group)))}
                self._model = self.host.attach(self._model, build_on(self.host, self._model, GATHER_SWAP, settings))
        self.noise.held = self.group
        self._check_beside()

    def _check_methods(self, name: str, model: Any) -> None:
        for attachment in self.host.attachments(model):
            if not traits(attachment.method).exact_in_windows:
                raise ValueError(f"{name}: its model has {attachment.method}, in which every frame looks at the whole "
                                 f"clip, so that it cannot be edited in windows; take it off, or {ADVICE}.")

    def _check_beside(self) -> None:
        """What is given beside the clip fits it."""
        for name, given in (("mask_video", self.masked), ("hint_video", self.hints)):
            if given is not None and given.clip.total != self.clip.total:
                raise ValueError(f"{name}: has {given.clip.total} frames in this range, but the video has "
                                 f"{self.clip.total}; give one of the video's length and rate.")
        if self.inversion is None:
            return
        check_conditions({"inversion": [{**values, "cross_attn": text} for text, values in
                                        self.inversion.conditioning]})  # fmt: skip
        self._check_methods("inversion", self.inversion.model)
        self.inversion.check(self.sigmas)
        if self.inversion.blend != NO_BLEND and self.masked is None:
            raise ValueError("mask_video: is missing, but the inversion blends in what lies outside of it; connect "
                             "one, or set blend to none.")

    def identity(self) -> str | None:
        """Hash of everything that decides the frames; None where it can not be told."""
        parts = [self.host.guided_identity(self.guider, self.sampler, self.vae)]
        if self.hints is not None:
            parts.append(self.host.control_identity(self.hints.control_net))
        if self.inversion is not None:
            model, attached = self.inversion.model, self.host.attachments(self.inversion.model)
            parts += [self.host.fingerprint(model), content_hash(self.inversion.conditioning),
                      content_hash([[a.method, a.config, [t.state_dict() for t in a.trees]] for a in attached])]
        if None in parts:
            return None
        masked, hints, inversion = self.masked, self.hints, self.inversion
        return content_hash(
            torch.__version__, parts, self.clip.identity(), self.sigmas.double(), self.noise.seed, self.noise.how,
            self.own_image, self.empty, masked and [masked.clip.identity(), masked.feather, masked.match_colour],
            hints and [hints.clip.identity(), hints.strength, hints.start, hints.end],
            inversion and [inversion.sigmas, inversion.refinement, inversion.blend, inversion.reading, inversion.ramp,
                           inversion.soft])  # fmt: skip

    def __call__(self, window: Window, part: Callable[[float], None], room: Path) -> Tensor:
        """See ``run.edit_windows``."""
        frames = self._frames(self.clip, self._heads, window, part)
        samples = self.host.encoded(self._model, self.vae, frames)
        part(0.0)
        mask = self._mask(window, part)
        guider = self.host.changed_guider(self.guider, self._model, self._here(frames, samples, window, part))
        done = self.host.decoded(self.vae, self._sampled(guider, samples, mask, window, part, room))
        head = len(self.group)
        if mask is None or self.masked is None or not mask[head:].any():
            # The group's rows were there to be looked at. What has no mask anywhere has no edit.
            return done if mask is None else frames[head:]
        return composite(done, frames[head:], mask[head:], self.masked.feather, match_colour=self.masked.match_colour)

    def _sampled(self, guider: Any, samples: Tensor, mask: Tensor | None, window: Window, part: Callable[[float], None],
                 room: Path) -> Tensor:  # fmt: skip
        """Edited latents of the window's own frames."""
        steps, sampler = max(1, len(self.sigmas) - 1), self.sampler
        if self.inversion is None:
            begun = 0
            noise = self.noise.of([*self.group, *range(window.first, window.stop)], samples.shape[1:])
            samples = torch.zeros_like(samples) if self.empty else samples
        else:
            begun = len(self.inversion.sigmas)
            conditioning = [[text, self._with_image(values, samples)] for text, values in self.inversion.conditioning]
            trajectory, last = self.inversion.run(self.host, samples, room, conditioning,
                                                  lambda step: part(step / (steps + begun + 1)))  # fmt: skip
            noise, samples = torch.zeros_like(last), last
            if self.inversion.blend != NO_BLEND and mask is not None:
                sampler = self.inversion.blended(self.host, sampler, trajectory, mask)
        return self.host.guided(guider, noise, samples, sampler, self.sigmas, self.noise.seed,
                                lambda step: part((begun + step) / (steps + begun + 1)))[len(self.group) :]  # fmt: skip

    def _here(self, frames: Tensor, samples: Tensor, window: Window, part: Callable[[float], None]
              ) -> Callable[[Mapping], dict]:  # fmt: skip
        """Conditions for the frames of a window."""
        hints = None if self.hints is None else self._frames(self.hints.clip, self._hint_heads, window, part)
        made: dict[Any, Any] = {}

        def change(condition: Mapping[str, Any]) -> dict[str, Any]:
            there = self._with_image(condition, samples)
            if self.own_image and MAKER in there:
                there = there[MAKER].for_frames(there, frames, lambda: part(0.0))
            if self.hints is None or hints is None:
                return there
            return self.host.hinted(there, self.hints.control_net, hints, self.hints.strength, self.hints.start,
                                    self.hints.end, self.vae, made)  # fmt: skip

        return change

    def _with_image(self, condition: Mapping[str, Any], samples: Tensor) -> dict[str, Any]:
        there = dict(condition)
        if self.own_image and condition.get(IMAGE) is not None:
            there[IMAGE] = samples
        return there

    def _mask(self, window: Window, part: Callable[[float], None]) -> Tensor | None:
        """[frames, height, width], 1 where to edit."""
        if self.masked is None:
            return None
        return self._frames(self.masked.clip, self._mask_heads, window, part).mean(-1)

    @staticmethod
    def _frames(clip: Frames, heads: list[Tensor], window: Window, part: Callable[[float], None]) -> Tensor:
        """The group's frames and the window's, [frames, height, width, 3]."""
        frames = list(heads)
        for frame in clip.read(window.first, window.count):
            frames.append(frame)
            part(0.0)
        return torch.stack(frames)

    # The group's frames are read once: as many as the group has, however long the clip is.
    @cached_property
    def _heads(self) -> list[Tensor]:
        return self._group_of(self.clip)

    @cached_property
    def _mask_heads(self) -> list[Tensor]:
        return [] if self.masked is None else self._group_of(self.masked.clip)

    @cached_property
    def _hint_heads(self) -> list[Tensor]:
        return [] if self.hints is None else self._group_of(self.hints.clip)

    def _group_of(self, clip: Frames) -> list[Tensor]:
        return [next(iter(clip.read(index, 1))) for index in self.group]
