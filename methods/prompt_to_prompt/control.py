"""Prompt-to-Prompt (Hertz et al., 2022), as a plan of a sampler's run.

The source rides along: behind each frame a row that begins with the same noise and is denoised under the source's
prompt in the place of the positive one. In every evaluation it goes first, and its queries and keys are kept. The
frames follow under the target's prompt, in the conditional branch with

    A* = c_s * (A_source M) + c_t * A_target,    c_s = w e a,    c_t = w e (1 - a) + (1 - w)

in the place of their cross-attention's maps (M and a of ``words.Alignment``, e the words' weights, w 1 in the first
share of the steps and 0 after it; c by token), and in the first steps with the source's self-attention maps in the
layers that are small enough. Both are written without a map: A* V = A_source (M c_s V) + A_target (c_t V), and the
source's self-attention map is that of its queries and keys.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...kernels.group_attention import swap_attention
from ..attachment import Attachment, BlockSite
from ..sampling_plan import Calls, Replacement, RunFacts, in_chunks
from .local_blend import LocalBlend, WordMaps
from .words import Alignment


@dataclass(frozen=True, eq=False)
class SourceText:
    """The CONDITIONING of the source's prompt."""

    conditioning: Any


@dataclass(frozen=True, eq=False)
class PromptToPrompt:
    """Settings of Prompt-to-Prompt; the defaults are the authors'.

    Args:
        source: the source's prompt.
        alignment: of the tokens of both prompts.
        weights: e, the factor of each token's map, [target tokens]; None: all 1.
        cross_steps, self_steps: share of the steps in which the maps of cross-attention and of self-attention are
            replaced.
        self_size: the largest layer whose self-attention is replaced, in cells a side of a square.
        blend: keeps what lies outside of some words' places; None: nothing is kept.
        chunk: frames in a call of the U-Net; 0 leaves it to the host. The result does not depend on it.

    Raises:
        ValueError: a setting outside of its range.
    """

    source: SourceText
    alignment: Alignment
    weights: Tensor | None = None
    cross_steps: float = 0.8
    self_steps: float = 0.4
    self_size: int = 32
    blend: LocalBlend | None = None
    chunk: int = 0

    name, grid, kinds, apart, edits_prompt = "Prompt-to-Prompt", 1, ("cross",), "", True
    cuts_clip = False

    def __post_init__(self) -> None:
        for name in ("cross_steps", "self_steps"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share of the steps from 0 to 1, but got {getattr(self, name)}.")
        if self.self_size < 0:
            raise ValueError(f"self_size: expected 0 or a number of cells, but got {self.self_size}.")
        if self.chunk < 0:
            raise ValueError(f"chunk: expected 0 (all that memory allows) or a number of frames, but got {self.chunk}.")

    def __deepcopy__(self, memo: dict) -> PromptToPrompt:
        # Immutable: hosts deep-copy the options of a model on every clone.
        return self

    @property
    def acts(self) -> bool:
        """Not where nothing is replaced and nothing kept."""
        return self.blend is not None or self.cross_steps > 0 or (self.self_steps > 0 and self.self_size > 0)

    def in_part(self, frames: int, ids: Sequence[int], anchors: Sequence[int]) -> PromptToPrompt:
        """Refused."""
        raise ValueError("model: Prompt-to-Prompt takes every frame's source through the sampler beside it, which "
                         "Approximate Windows do not carry; give the model only one of the two.")

    def reference_frames(self, frames: int) -> tuple[int, ...]:
        """Every frame's source."""
        return tuple(range(frames))

    def rows_together(self, frames: int) -> int:
        """Frames do not see each other."""
        return 1

    def begin_run(self, facts: RunFacts, sites: frozenset[str]) -> PromptToPromptRun:
        """See ``SamplingPlan.begin_run``."""
        if facts.first:
            raise ValueError(f"latent_image: goes on at step {facts.first} of {facts.steps}, but the source of "
                             "Prompt-to-Prompt has gone its own way and ended with the earlier run; sample in one run.")
        return PromptToPromptRun(self, facts, sites)

    def factors(self, step: int, steps: int) -> tuple[Tensor, Tensor] | None:
        """c_s and c_t of a step, [target tokens]; None where the target's own maps stay."""
        if step >= int(self.cross_steps * (steps + 1)):
            return None
        taken = self.alignment.taken
        e = torch.ones_like(taken) if self.weights is None else self.weights
        return e * taken, e * (1 - taken)

    def exchanges_at(self, step: int, steps: int) -> bool:
        """Whether self-attention takes over the source's maps."""
        return step < int(self.self_steps * steps)


def build_prompt_to_prompt(sites: Iterable[BlockSite], **config: Any) -> Attachment:
    """Prompt-to-Prompt in all blocks of a U-Net. It owns no weights.

    Args:
        sites: all blocks of the U-Net.
        config: fields of ``PromptToPrompt``.

    Raises:
        ValueError: a setting outside of its range.
    """
    numbers = {key: value for key, value in config.items() if isinstance(value, (int, float))}
    return Attachment("prompt-to-prompt", numbers, sites=frozenset(site.path for site in sites),
                      plan=PromptToPrompt(**config))


@dataclass
class Kept:
    """Queries and keys of the source's frames at hand in one evaluation, [frames, ...], by block."""

    cross: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    own: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass
class Call(Replacement):
    """One call within Prompt-to-Prompt.

    Args:
        kept: the source's queries and keys.
        positive: identity of the condition whose maps are read or replaced.
        tokens: of that condition's prompt.
        largest: tokens of the largest layer whose self-attention is exchanged.
        maps: collects where words are; None: nobody asks.
        words: of the call's prompt, [tokens], 1 for those that ``maps`` asks for.
    """

    kept: Kept
    positive: Hashable
    tokens: int
    largest: int
    maps: WordMaps | None
    words: Tensor | None
    sites: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ("cross",)
    exchanges: bool = False

    def prompt(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the prompt once: beside a longer one hosts repeat it, which changes no attention.

        Raises:
            ValueError: it is another prompt than the one whose words are known.
        """
        if k.shape[1] % self.tokens:
            raise ValueError(f"positive: holds {k.shape[1]} tokens, where Prompt-to-Prompt knows the words of "
                             f"{self.tokens}; connect the positive of the Prompt-to-Prompt node.")
        return k[:, : self.tokens], v[:, : self.tokens]


@dataclass
class Reading(Call):
    """The source's own call, whose queries and keys are kept."""

    def attention(self, path, kind, q, k, v, heads, branches, x=None):
        """Plain cross-attention."""
        if self.positive in branches:
            rows = rows_of(branches, self.positive, len(q))
            keys, _ = self.prompt(k[rows], v[rows])
            self.kept.cross[path] = q[rows], keys
            if self.maps is not None and self.words is not None:
                found = swap_attention(q[rows], keys, spread(self.words, keys), heads, len(keys))
                self.maps.add(path, found, source=True)
        return swap_attention(q, k, v, heads, len(q))

    def exchange(self, path, q, k, v, branches):
        """As it is."""
        if q.shape[1] <= self.largest and self.positive in branches:
            rows = rows_of(branches, self.positive, len(q))
            self.kept.own[path] = q[rows], k[rows]
        return q, k, v


@dataclass
class Editing(Call):
    """The target's call.

    Args:
        mapping: M.
        factors: c_s and c_t; None where the target's own maps stay.
    """

    mapping: Tensor = field(default_factory=lambda: torch.empty(0))
    factors: tuple[Tensor, Tensor] | None = None

    def attention(self, path, kind, q, k, v, heads, branches, x=None):
        """Cross-attention with A* in the conditional branch."""
        out = swap_attention(q, k, v, heads, len(q))
        if self.positive not in branches:
            return out
        rows = rows_of(branches, self.positive, len(q))
        keys, values = self.prompt(k[rows], v[rows])
        if self.factors is not None:
            out[rows] = self._edited(path, q[rows], keys, values, heads)
        if self.maps is not None and self.words is not None:
            words = spread(self.words, keys)
            found = (swap_attention(q[rows], keys, words, heads, len(keys)) if self.factors is None
                     else self._edited(path, q[rows], keys, words, heads))
            self.maps.add(path, found, source=False)
        return out

    def _edited(self, path: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """A* V."""
        assert self.factors is not None
        source, own = (factor.to(v)[:, None] for factor in self.factors)
        queries, keys = self.kept.cross[path]
        out = swap_attention(queries, keys, self.mapping.to(v) @ (source * v), heads, len(q))
        return out if not own.any() else out + swap_attention(q, k, own * v, heads, len(q))

    def exchange(self, path, q, k, v, branches):
        """Queries and keys of the source in the conditional branch, values of the target."""
        if path not in self.kept.own or self.positive not in branches:
            return q, k, v
        rows = rows_of(branches, self.positive, len(q))
        q, k = q.clone(), k.clone()
        q[rows], k[rows] = self.kept.own[path]
        return q, k, v


def rows_of(branches: tuple[Hashable, ...], branch: Hashable, batch: int) -> slice:
    """The rows of one condition in a batch."""
    rows, number = batch // len(branches), branches.index(branch)
    return slice(number * rows, (number + 1) * rows)


def spread(words: Tensor, like: Tensor) -> Tensor:
    """[tokens] as values [rows, tokens, heads * d], so that attention to them is a map, once a channel."""
    return words.to(like)[None, :, None].expand_as(like)


@dataclass
class PromptToPromptRun:
    """One run of a sampler. The batch is x [2 F]: the clip's F frames, then their sources.

    Args:
        settings: of Prompt-to-Prompt.
        facts: of the run.
        sites: paths of the blocks that are touched.
    """

    settings: PromptToPrompt
    facts: RunFacts
    sites: frozenset[str]
    maps: WordMaps = field(default_factory=WordMaps)

    def __call__(self, x: Tensor, sigma: float, calls: Calls) -> Tensor:
        """The sources of some frames, then these frames, and so on; see ``SamplingPlan``."""
        settings, frames, blend = self.settings, self.facts.frames, self.settings.blend
        step, steps = self.facts.step_of(sigma), self.facts.steps
        factors, exchanges = settings.factors(step, steps), settings.exchanges_at(step, steps)
        kept = Kept()
        sources: dict[int, Tensor] = {}
        if blend is not None:
            self.maps.begin(x.shape[-2:], frames)
        common: dict[str, Any] = {"kept": kept, "positive": calls.positive, "largest": settings.self_size**2,
                                  "sites": self.sites, "maps": None if blend is None else self.maps,
                                  "exchanges": exchanges}
        mapping = settings.alignment.mapping
        reading = Reading(tokens=len(mapping), words=blend and blend.source, **common)
        editing = Editing(tokens=mapping.shape[1], words=blend and blend.target, mapping=mapping, factors=factors,
                          **common)
        needed = factors is not None or exchanges or blend is not None

        def before(ids: Sequence[int]) -> None:
            self.maps.frames = list(ids)
            here = calls(x[frames:][list(ids)], ids, replaced=reading if needed else None, as_source=True)
            sources.update(zip(ids, here, strict=True))

        out = in_chunks(calls, x[:frames], range(frames), settings.chunk, whole=self.facts.whole, before=before,
                        replaced=editing if needed else None)
        source = torch.stack([sources[i] for i in range(frames)])
        self.maps.end()
        if blend is not None and step >= int(blend.start * steps):
            below = float(self.facts.sigmas[min(step + 1, steps)])
            out = blend.blended(out, source, x[:frames], x[frames:], sigma, below, self.maps.mask(blend.threshold))
        return torch.cat([out, source])
