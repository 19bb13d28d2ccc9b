"""TokenFlow (section 4), as a plan of a sampler's run.

At every step a keyframe is drawn anew of each ``spacing`` frames. The keyframes are edited together: in
self-attention each attends to the tokens of all (extended attention). Every other frame has, in the place of its
self-attention's output, that of its two neighbouring keyframes, carried over by nearest neighbours among the source's
own features of that step and layer (``kernels.token_propagation``), with

    w_i = sigmoid(d- / (d+ + d-)),   d-, d+ the distances to the earlier and the later keyframe.

The source's features are those of its DDIM inversion, at the step's noise level, under the condition that it was
inverted with; phi is what goes into self-attention, as in the authors' code. Their blending stands before the output
projection here, which is linear, so that both orders are equal.

Injection (Plug-and-Play, Tumanyan et al. 2023) gives the edit the source's queries and keys in the decoder's
self-attentions but its first, and the source's residual branch at its second attention, for the first steps.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...diffusion.trajectory import Trajectory
from ...kernels.group_attention import swap_attention
from ...kernels.token_propagation import propagate_tokens
from ..attachment import Attachment, BlockSite
from ..sampling_plan import Calls, Replacement, RunFacts, in_chunks


@dataclass(frozen=True, eq=False)
class Source:
    """What is read of the source: its inversion, and the CONDITIONING under which it was inverted."""

    trajectory: Trajectory
    conditioning: Any


@dataclass(frozen=True)
class Part:
    """A window of a clip of ``frames``: the frames ``ids``, of which ``anchors`` are seen by all windows."""

    frames: int
    ids: tuple[int, ...]
    anchors: frozenset[int]


@dataclass(frozen=True, eq=False)
class TokenFlow:
    """Settings of TokenFlow; the defaults are the authors'.

    Args:
        source: of the clip.
        spacing: frames of which one is a keyframe; 1 makes every frame one, which is extended attention.
        seed: of the draws.
        injection: Plug-and-Play's.
        attention_steps, residual_steps: share of the steps in which queries and keys, and the residual branch, are
            injected.
        chunk: frames in a call of the U-Net; 0 leaves it to the host. The result does not depend on it.
        injected: paths of the blocks whose queries and keys are injected.
        residuals: paths of the residual blocks that are injected.
        part: a window of the clip that this is for; None: all of it.

    Raises:
        ValueError: a setting outside of its range.
    """

    source: Source
    spacing: int = 8
    seed: int = 0
    injection: bool = True
    attention_steps: float = 0.5
    residual_steps: float = 0.8
    chunk: int = 0
    injected: frozenset[str] = frozenset()
    residuals: frozenset[str] = frozenset()
    part: Part | None = None

    name, acts, grid, kinds, apart = "TokenFlow", True, 1, ("self",), "edits keyframes apart from the other frames"
    edits_prompt = cuts_clip = False

    def __post_init__(self) -> None:
        if self.spacing < 1:
            raise ValueError(f"spacing: expected a keyframe of 1 frame or more, but got {self.spacing}.")
        if self.chunk < 0:
            raise ValueError(f"chunk: expected 0 (all that memory allows) or a number of frames, but got {self.chunk}.")
        for name in ("attention_steps", "residual_steps"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share of the steps from 0 to 1, but got {getattr(self, name)}.")

    def __deepcopy__(self, memo: dict) -> TokenFlow:
        # Immutable: hosts deep-copy the options of a model on every clone.
        return self

    def keyframes(self, frames: int, step: int) -> tuple[int, ...]:
        """One frame of each ``spacing``, drawn for a step; the same on every machine.

        Those of a window are the clip's in it, so that overlapping windows have them in common, and its anchors.
        """
        if self.part is not None:
            part = self.part
            drawn_there = {*replace(self, part=None).keyframes(part.frames, step), *part.anchors}
            return tuple(place for place, i in enumerate(part.ids) if i in drawn_there) or (0,)
        drawn = random.Random(f"{self.seed}:{step}")
        # Python promises that random() stays what it is, but not randint().
        return tuple(start + int(drawn.random() * min(self.spacing, frames - start))
                     for start in range(0, frames, self.spacing))  # fmt: skip

    def reference_frames(self, frames: int) -> tuple[int, ...]:
        """None: keyframes are frames of the clip."""
        return ()

    def in_part(self, frames: int, ids: Sequence[int], anchors: Sequence[int]) -> TokenFlow:
        """The window's keyframes carried to its frames."""
        return replace(self, part=Part(frames, tuple(ids), frozenset(anchors)))

    def rows_together(self, frames: int) -> int:
        """The keyframes are in one call."""
        return -(-frames // self.spacing)

    def begin_run(self, facts: RunFacts, sites: frozenset[str]) -> TokenFlowRun:
        """See ``SamplingPlan.begin_run``."""
        held, frames = self.source.trajectory.shape[0], facts.frames if self.part is None else self.part.frames
        if held != frames:
            raise ValueError(f"latent_image: {frames} frames, but the inversion at TokenFlow has {held}; connect "
                             "the inversion of this clip.")
        return TokenFlowRun(self, facts, sites)


def build_tokenflow(sites: Iterable[BlockSite], **config: Any) -> Attachment:
    """TokenFlow in all blocks of a U-Net. It owns no weights.

    Args:
        sites: all blocks of the U-Net.
        config: fields of ``TokenFlow`` but the last two.

    Raises:
        ValueError: a setting outside of its range.
    """
    sites = list(sites)
    decoder = [site.path for site in sites if site.stage == "output"][1:]
    # The transformer's residual block is entry 0 of the same layer.
    residuals = {f"{path.split('.transformer_blocks')[0].rsplit('.', 1)[0]}.0" for path in decoder[:1]}
    settings = TokenFlow(**config, injected=frozenset(decoder), residuals=frozenset(residuals))
    plain = {key: value for key, value in config.items() if key != "source"}
    return Attachment("tokenflow", plain, sites=frozenset(site.path for site in sites), plan=settings)


@dataclass
class Features:
    """The source's features of one evaluation: by block, what goes into self-attention, its queries and keys, and the
    branches of residual blocks; every entry [frames, ...]."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    queries: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)
    branches: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Call(Replacement):
    """One call within TokenFlow.

    Args:
        features: the source's of the frames at hand.
        sites, residuals: see ``Replacement``.
        injected: paths of the blocks that take over queries and keys.
    """

    features: Features
    sites: frozenset[str] = frozenset()
    residuals: frozenset[str] = frozenset()
    injected: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ("self",)
    reads_input: bool = False

    def residual(self, path: str, h: Tensor, branches: tuple[Hashable, ...]) -> Tensor:
        """The source's branch for every condition."""
        return self.features.branches[path].to(h).repeat(len(branches), 1, 1, 1)


@dataclass
class Reading(Call):
    """The source's own call, whose features are kept."""

    reads_input: bool = True

    def attention(self, path, kind, q, k, v, heads, branches, x=None):
        """Plain self-attention, each frame by itself."""
        self.features.inputs[path] = q if x is None else x
        if path in self.injected:
            self.features.queries[path], self.features.keys[path] = q, k
        return swap_attention(q, k, v, heads, len(q))

    def residual(self, path, h, branches):
        """Its own."""
        self.features.branches[path] = h
        return h


@dataclass
class Extended(Call):
    """The keyframes' call: each attends to all of them. ``tokens`` keeps what comes out, by branch and block."""

    tokens: dict[tuple[Hashable, str], Tensor] = field(default_factory=dict)

    def attention(self, path, kind, q, k, v, heads, branches, x=None):
        """Extended attention, under the source's queries and keys where they are injected."""
        n = len(branches)
        if path in self.injected:
            q, k = (kept[path].to(q).repeat(n, 1, 1) for kept in (self.features.queries, self.features.keys))
        out = swap_attention(q, k, v, heads, n)
        for branch, part in zip(branches, out.chunk(n), strict=True):
            self.tokens[branch, path] = part
        return out


@dataclass
class Carried(Call):
    """The call of other frames, which take the keyframes' tokens over.

    Args:
        keyframes: the source's features of the keyframes.
        tokens: of ``Extended``.
        past, future, weight: see ``kernels.token_propagation``.
    """

    keyframes: Features = field(default_factory=Features)
    tokens: dict[tuple[Hashable, str], Tensor] = field(default_factory=dict)
    past: Tensor = field(default_factory=lambda: torch.empty(0))
    future: Tensor = field(default_factory=lambda: torch.empty(0))
    weight: Tensor = field(default_factory=lambda: torch.empty(0))

    def attention(self, path, kind, q, k, v, heads, branches, x=None):
        """The keyframes' tokens along the source's nearest neighbours."""
        tokens = torch.stack([self.tokens[branch, path].to(q.device) for branch in branches])
        near, keys = (held.inputs[path].to(q.device) for held in (self.features, self.keyframes))
        between = (self.past.to(q.device), self.future.to(q.device), self.weight.to(q.device))
        return propagate_tokens(near, keys, tokens, *between).flatten(0, 1)


@dataclass(frozen=True)
class TokenFlowRun:
    """One run of a sampler.

    Args:
        settings: of TokenFlow.
        facts: of the run.
        sites: paths of the blocks that are touched.
    """

    settings: TokenFlow
    facts: RunFacts
    sites: frozenset[str]

    def __call__(self, x: Tensor, sigma: float, calls: Calls) -> Tensor:
        """The keyframes, then all other frames in chunks, each behind the source's own call of the same frames."""
        settings, step, frames = self.settings, self.facts.step_of(sigma), self.facts.frames
        trajectory = settings.source.trajectory
        level, keys = trajectory.step_of(sigma), settings.keyframes(frames, step)
        parts = self._replaced(step)

        def read(ids: Sequence[int]) -> Features:
            found = Features()
            there = ids if settings.part is None else [settings.part.ids[i] for i in ids]
            latents = calls.to_model_space(trajectory[level, there])
            if latents.shape[1:] != x.shape[1:]:
                raise ValueError(f"latent_image: latents of {tuple(x.shape[1:])}, but the inversion at TokenFlow has "
                                 f"{tuple(latents.shape[1:])}; connect the inversion of this clip.")
            calls(latents, ids, replaced=Reading(found, *parts), source=True)
            return found

        kept = read(keys)
        extended = Extended(kept, *parts)
        edited = in_chunks(calls, x[list(keys)], keys, whole=True, replaced=extended)
        out = edited.new_empty(frames, *edited.shape[1:])
        out[list(keys)] = edited
        others = [i for i in range(frames) if i not in keys]
        if others:
            carried = Carried(Features(), *parts, keyframes=kept, tokens=extended.tokens)

            def before(ids: Sequence[int]) -> None:
                carried.features = read(ids)
                carried.past, carried.future, carried.weight = neighbours(ids, keys)

            out[others] = in_chunks(calls, x[others], others, settings.chunk, before=before, replaced=carried)
        return out

    def _replaced(self, step: int) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        """Blocks, residual blocks and blocks with injected attention of one step."""
        settings, steps = self.settings, self.facts.steps
        residual = settings.injection and step < int(settings.residual_steps * steps)
        attention = settings.injection and step < int(settings.attention_steps * steps)
        return (self.sites, settings.residuals if residual else frozenset(),
                settings.injected if attention else frozenset())


def neighbours(ids: Sequence[int], keyframes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Of each frame the keyframe before and after it, as numbers among the keyframes, and the later one's weight.

    Before the first and after the last keyframe there is one neighbour, which stands for both.
    """
    past, future, weight = [], [], []
    for i in ids:
        before = [n for n, key in enumerate(keyframes) if key <= i]
        after = [n for n, key in enumerate(keyframes) if key > i]
        past.append(before[-1] if before else after[0])
        future.append(after[0] if after else before[-1])
        earlier, later = i - keyframes[past[-1]], keyframes[future[-1]] - i
        weight.append(earlier / (earlier + later) if before and after else 0.0)
    return torch.tensor(past), torch.tensor(future), torch.tensor(weight).sigmoid()
