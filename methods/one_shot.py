"""The pipeline that the one-shot methods share: attach, tune, invert, sample."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .attachment import Attachment
from .tune_recipe import TuneRecipe
from .tuning import tune

if TYPE_CHECKING:
    from ..backends.protocol import Editing


def edit_with(
    backend: Editing,
    model: Any,
    attachments: Iterable[Attachment],
    samples: Tensor,
    source_cond: Any,
    target_cond: Any,
    uncond: Any,
    recipe: TuneRecipe,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    refinement: int = 0,
    inversion_cond: Any = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Edit one clip by tuning ``attachments`` on it.

    Args:
        samples: LATENT samples of the clip [frames, channels, height, width].
        source_cond, target_cond, uncond: CONDITIONING of the clip's caption, of the edit
            prompt and of the empty prompt.
        steps: of DDIM inversion and of sampling.
        guidance: classifier-free guidance of the sampling.
        refinement: fixed-point iterations per inversion step.
        inversion_cond: what the inversion is told; the empty prompt if None, as published.
        cache: folder in which finished tunings are found again.

    Returns:
        ``samples`` (edited LATENT samples), ``tuned`` (``Tuned``), ``inverted`` (x at the
        highest sigma), ``trajectory`` (x at every sigma, ascending), ``sigmas``
        (descending) and ``timings`` (seconds of tuning, inversion, sampling).

    Raises:
        what ``tune`` raises.
    """
    timings: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        timings[name] = time.perf_counter() - start

    for attachment in attachments:
        model = backend.attach(model, attachment)
    with timed("tuning"):
        tuned = tune(backend, model, samples, source_cond, recipe, cache=cache)
    sigmas = backend.schedule(model).ddim_sigmas(steps)
    with timed("inversion"):
        condition = uncond if inversion_cond is None else inversion_cond
        bar = backend.progress(len(sigmas) - 1, "inversion")
        trajectory = backend.invert(tuned.model, condition, samples, sigmas.flip(0), refinement, bar)
    with timed("sampling"):
        bar = backend.progress(len(sigmas) - 1, "sampling")
        edited = backend.sample(tuned.model, target_cond, uncond, guidance, trajectory[-1], sigmas, bar)
    return {
        "samples": edited,
        "tuned": tuned,
        "inverted": trajectory[-1],
        "trajectory": trajectory,
        "sigmas": sigmas,
        "timings": timings,
    }
