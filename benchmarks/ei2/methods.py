"""The methods of the table, all tuned by one recipe and sampled by one sampler."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...methods.ei2 import build_ffam, build_stam
from ...methods.ei2.pipeline import edit_clip as edit_by_ei2
from ...methods.one_shot import edit_with
from ...methods.tune_a_video import build_full_attention, build_sparse_causal
from ...methods.tune_a_video.pipeline import edit_clip as edit_by_tune_a_video
from ...methods.tuning import TuneRecipe
from ..common.memory import peak_memory

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.attachment import Attachment, BlockSite
    from ..common.cases import Case, World

GRAPH = Path(__file__).parents[2] / "workflows" / "api" / "toy_ei2.json"

# Of the table; see ``Settings.of_the_table``.
TUNING_STEPS, STEPS, GUIDANCE = 30, 12, 4.0

# (world, case, settings, seed) -> the dict of ``methods.one_shot.edit_with``
Method = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What all methods have in common, so that nothing but the method differs.

    Args:
        recipe: of the tuning.
        steps: of inversion and of sampling.
        guidance: of the sampling.
        refinement: fixed-point iterations of each inversion step.
    """

    recipe: TuneRecipe
    steps: int
    guidance: float
    refinement: int = 0

    @classmethod
    def shipped(cls) -> Settings:
        """Those of the toy graph, so that the numbers are of what a user runs."""
        graph = json.loads(GRAPH.read_text(encoding="utf-8"))
        inputs = {node["class_type"]: node["inputs"] for node in graph.values()}
        tuning, inversion = inputs["SteadyEditOneShotTune"], inputs["SteadyEditDDIMInversion"]
        return cls(
            recipe=TuneRecipe(steps=tuning["steps"], learning_rate=tuning["learning_rate"]),
            steps=inversion["steps"],
            guidance=inputs["SamplerCustom"]["cfg"],
            refinement=inversion["refinement"],
        )

    @classmethod
    def of_the_table(cls) -> Settings:
        """The toy graph's with fewer steps, since eight methods are tuned on every clip.

        Chosen on clips of the validation split: at the graph's guidance hardly any new shape
        appears, whatever the method; and longer tuning only costs more.
        """
        shipped = cls.shipped()
        recipe = replace(shipped.recipe, steps=TUNING_STEPS)
        return replace(shipped, recipe=recipe, steps=STEPS, guidance=GUIDANCE)


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


def _common(settings: Settings) -> dict[str, Any]:
    return {"steps": settings.steps, "guidance": settings.guidance, "refinement": settings.refinement}


def _published(pipeline: Callable[..., dict[str, Any]]) -> Method:
    """A paper's own pipeline, by the common recipe."""

    def run(world: World, case: Case, settings: Settings, seed: int) -> dict[str, Any]:
        return pipeline(
            world.backend, world.model, case.samples, case.source_text, case.target_text, case.empty,
            settings.recipe, seed=seed, **_common(settings),
        )  # fmt: skip

    return run


def _pair(mixing: Callable[[Sequence[BlockSite]], Attachment], **stam: Any) -> Method:
    """A frame attention and a variant of STAM, by the same road."""

    def run(world: World, case: Case, settings: Settings, seed: int) -> dict[str, Any]:
        sites = world.backend.sites(world.model)
        return edit_with(
            world.backend, world.model, [build_stam(sites, seed=seed, **stam), mixing(sites)], case.samples,
            case.source_text, case.target_text, case.empty, settings.recipe, **_common(settings),
        )  # fmt: skip

    return run


def _per_frame(world: World, case: Case, settings: Settings, seed: int) -> dict[str, Any]:
    """The image model on every frame by itself: inversion and sampling, nothing attached or tuned."""
    backend, model = world.backend, world.model
    sigmas = backend.schedule(model).ddim_sigmas(settings.steps)
    start = time.perf_counter()
    bar = backend.progress(len(sigmas) - 1, "inversion")
    trajectory = backend.invert(model, case.empty, case.samples, sigmas.flip(0), settings.refinement, bar)
    middle = time.perf_counter()
    bar = backend.progress(len(sigmas) - 1, "sampling")
    samples = backend.sample(model, case.target_text, case.empty, settings.guidance, trajectory[-1], sigmas, bar)
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
    settings = replace(settings, recipe=replace(settings.recipe, seed=seed))
    with peak_memory() as memory:
        result = METHODS[method](world, case, settings, seed)
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
