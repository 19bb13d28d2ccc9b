"""Rivals that stand on null-text inversion and Prompt-to-Prompt: Video-P2P and Vid2Vid-zero, as far as they are built
of this pack's parts.

*Inspired by*: Video-P2P's frame attention looks at the first frame alone where Tune-A-Video's, used here, looks at the
one before as well, and its temporal attention has the source's maps for a share of the steps where here the frames'
self-attention has; Vid2Vid-zero inverts under an empty prompt, here it is the clip's own. Steps of tuning and sampling
and the guidance are the table's, not theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...methods.null_text import NullTextRecipe, invert
from ...methods.prompt_to_prompt import (
    LocalBlend,
    SourceText,
    TextTokens,
    align,
    build_prompt_to_prompt,
    marked,
    token_weights,
)
from ...methods.tune_a_video import build_full_attention, build_sparse_causal, build_temporal_attention
from ...methods.tuning import tune

if TYPE_CHECKING:
    from ..common.cases import Case, World
    from ..common.edited import Settings

#: Words that say where, not what.
SMALL = frozenset("a an the in on of front and".split())
#: How much stronger Video-P2P makes the words that are new, in most of its published settings.
STRONGER = 2.0


def video_p2p(world: World, case: Case, settings: Settings, seed: int) -> dict[str, Any]:
    """Tune-A-Video's blocks tuned, null-text inversion with one text for all frames, Prompt-to-Prompt with its local
    blend in the maps of every frame. Shares as published: 0.2 of cross-attention, 0.5 of self-attention."""
    timings: dict[str, float] = {}
    sites = world.backend.sites(world.model)
    model = world.model
    for attachment in (build_sparse_causal(sites), build_temporal_attention(sites, seed=seed)):
        model = world.backend.attach(model, attachment)
    with timed(timings, "tuning"):
        tuned = tune(world.backend, model, case.samples, case.source_text, settings.recipe)
    with timed(timings, "inversion"):
        found = _null_text(world, tuned.model, case, settings)
    before, after = _words(world, case)
    old, new = new_words(before, after), new_words(after, before)
    weights = token_weights(after, ", ".join(f"{word}: {STRONGER}" for word in new)) if new else None
    edit = {"cross_steps": 0.2, "self_steps": 0.5, "weights": weights, "blend": _blend(case, before, after, old, new)}
    with timed(timings, "sampling"):
        samples = _edited(world, tuned.model, case, settings, found, edit)
    return {"samples": samples, "tuned": tuned, "trajectory": found.trajectory, "sigmas": found.sigmas,
            "timings": timings}


def vid2vid_zero(world: World, case: Case, settings: Settings, seed: int) -> dict[str, Any]:
    """No training: null-text inversion of the frames one by one with a single inner step, then dense spatial-temporal
    attention, all frames seeing each other, under Prompt-to-Prompt's cross-attention: 0.8 of the steps in a swap of
    words and 0.4 in a refinement, as published."""
    timings: dict[str, float] = {}
    with timed(timings, "inversion"):
        found = _null_text(world, world.model, case, settings, inner_steps=1)
    before, after = _words(world, case)
    dense = world.backend.attach(world.model, build_full_attention(world.backend.sites(world.model)))
    swap = len(before.words) == len(after.words)
    with timed(timings, "sampling"):
        samples = _edited(world, dense, case, settings, found, {"cross_steps": 0.8 if swap else 0.4, "self_steps": 0.0})
    return {"samples": samples, "trajectory": found.trajectory, "sigmas": found.sigmas, "timings": timings}


@contextmanager
def timed(timings: dict[str, float], name: str) -> Iterator[None]:
    """Note the seconds inside the ``with``."""
    start = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - start


def _null_text(world: World, model: Any, case: Case, settings: Settings, **more: Any) -> Any:
    recipe = replace(NullTextRecipe(guidance=settings.guidance, per_frame=False), **more)
    return invert(world.backend, model, case.samples, case.source_text, case.empty, settings.steps, recipe,
                  refinement=settings.refinement)


def _words(world: World, case: Case) -> tuple[TextTokens, TextTokens]:
    """Of the source's caption and of the true answer's."""
    before, after = (world.backend.text_tokens(world.text, clip.caption) for clip in (case.source, case.truth))
    return before, after


def new_words(text: TextTokens, other: TextTokens) -> list[str]:
    """What a prompt says that the other does not, without small words."""
    others = {word.strip(",") for word in other.words}
    return [word for word in text.words if word.strip(",") not in others | SMALL]


def _blend(case: Case, before: TextTokens, after: TextTokens, old: list[str], new: list[str]) -> LocalBlend | None:
    """Where the changed words are, and the object that they say something of; None for an edit of the whole picture."""
    if case.edit.kind == "style":
        return None
    sides = []
    for text, changed in ((before, old), (after, new)):
        where = next(i for i, word in enumerate(text.words) if word in ("in", "on"))
        named = changed if case.edit.kind == "background" else [*changed, text.words[where - 1]]
        sides.append(marked("blend", text, " ".join(named)) if named else None)
    return LocalBlend(*sides)  # type: ignore[arg-type]


def _edited(world: World, model: Any, case: Case, settings: Settings, found: Any, edit: dict[str, Any]) -> Any:
    before, after = _words(world, case)
    control = build_prompt_to_prompt(world.backend.sites(model), source=SourceText(case.source_text),
                                     alignment=align(before, after), **edit)
    bar = world.backend.progress(len(found.sigmas) - 1, "sampling")
    return world.backend.sample(world.backend.attach(model, control), case.target_text, found.negative,
                                settings.guidance, found.trajectory[-1], found.sigmas, bar)
