"""The methods of the table, all tuned by one recipe and sampled by one sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..methods.ei2 import build_ffam, build_stam
from ..methods.ei2.pipeline import edit_clip as edit_by_ei2
from ..methods.one_shot import edit_with
from ..methods.tune_a_video import build_full_attention, build_sparse_causal
from ..methods.tune_a_video.pipeline import edit_clip as edit_by_tune_a_video
from ..methods.tuning import TuneRecipe
from ._memory import peak_memory

if TYPE_CHECKING:
    from torch import Tensor

    from ..methods.attachment import Attachment, BlockSite
    from ._cases import Case, World

# (world, case, recipe, steps, guidance, seed) -> the dict of ``methods.one_shot.edit_with``
Method = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What all methods have in common, so that nothing but the method differs.

    Args:
        recipe: of the tuning. The papers' 500 steps at 3e-5 are for SD1.4; the toy U-Net has
            learned a clip after far fewer at a higher rate.
        steps: of inversion and of sampling.
        guidance: of the sampling.
    """

    recipe: TuneRecipe = TuneRecipe(steps=100, learning_rate=1e-4)
    steps: int = 50
    guidance: float = 7.5


@dataclass(frozen=True)
class Edited:
    """What a method made of a case.

    Args:
        frames: [F, H, W, 3].
        train_seconds, infer_seconds: tuning; inversion, sampling and decoding.
        peak_mb: memory at the worst moment above where the method began.
        model: the tuned MODEL, and x at every sigma of the inversion with those sigmas
            ascending, for measures inside the model.
    """

    frames: Tensor
    train_seconds: float | None
    infer_seconds: float
    peak_mb: float
    model: Any
    trajectory: list[Tensor]
    sigmas: Tensor


def _published(pipeline: Callable[..., dict[str, Any]]) -> Method:
    """A paper's own pipeline, by the common recipe."""

    def run(world: World, case: Case, recipe: TuneRecipe, steps: int, guidance: float, seed: int) -> dict[str, Any]:
        return pipeline(
            world.backend, world.model, case.samples, case.source_text, case.target_text, case.empty, recipe,
            steps, guidance, seed=seed,
        )  # fmt: skip

    return run


def _pair(mixing: Callable[[Sequence[BlockSite]], Attachment], **stam: Any) -> Method:
    """A frame attention and a variant of STAM, by the same road."""

    def run(world: World, case: Case, recipe: TuneRecipe, steps: int, guidance: float, seed: int) -> dict[str, Any]:
        sites = world.backend.sites(world.model)
        return edit_with(
            world.backend, world.model, [build_stam(sites, seed=seed, **stam), mixing(sites)], case.samples,
            case.source_text, case.target_text, case.empty, recipe, steps=steps, guidance=guidance,
        )  # fmt: skip

    return run


def _per_frame(world: World, case: Case, recipe: TuneRecipe, steps: int, guidance: float, seed: int) -> dict[str, Any]:
    """The image model on every frame by itself: inversion and sampling, nothing attached or tuned."""
    backend, model = world.backend, world.model
    sigmas = backend.schedule(model).ddim_sigmas(steps)
    start = time.perf_counter()
    bar = backend.progress(steps, "inversion")
    trajectory = backend.invert(model, case.empty, case.samples, sigmas.flip(0), 0, bar)
    middle = time.perf_counter()
    bar = backend.progress(steps, "sampling")
    samples = backend.sample(model, case.target_text, case.empty, guidance, trajectory[-1], sigmas, bar)
    timings = {"inversion": middle - start, "sampling": time.perf_counter() - middle}
    return {"samples": samples, "trajectory": trajectory, "sigmas": sigmas, "timings": timings}


METHODS: dict[str, Method] = {
    "per-frame": _per_frame,
    "tune-a-video": _published(edit_by_tune_a_video),
    "ei2": _published(edit_by_ei2),
    # The paper's ablation of the shift: what stands before the temporal attention, all else kept.
    "layer-norm": _pair(build_sparse_causal, norm="layer", spectral=False),
    "instance-norm": _pair(build_sparse_causal, norm="instance", spectral=False),
    "centering": _pair(build_sparse_causal, norm="center", spectral=False),
    "centering-spectral": _pair(build_sparse_causal, norm="center", spectral=True),
    # Its ablation of the frame attention; sparse-causal is the line above, ratio 2 is ei2.
    "ffam-4": _pair(lambda sites: build_ffam(sites, ratio=4)),
    "full-attention": _pair(build_full_attention),
}
#: Those that run when nobody says which.
FIRST = ("per-frame", "tune-a-video", "ei2")


def edit(world: World, case: Case, method: str, settings: Settings, seed: int) -> Edited:
    """Run one method on one case.

    Args:
        seed: of the tuning's timesteps and noise and of initial weights: of the case, the
            same for all methods.
    """
    recipe = replace(settings.recipe, seed=seed)
    with peak_memory() as memory:
        result = METHODS[method](world, case, recipe, settings.steps, settings.guidance, seed)
        start = time.perf_counter()
        frames = world.vae.decode(result["samples"])
        decoding = time.perf_counter() - start
    timings = result["timings"]
    return Edited(
        frames=frames,
        train_seconds=timings.get("tuning"),
        infer_seconds=timings["inversion"] + timings["sampling"] + decoding,
        peak_mb=memory.peak_mb,
        model=result["tuned"].model if "tuned" in result else world.model,
        trajectory=result["trajectory"],
        sigmas=result["sigmas"].flip(0),
    )
