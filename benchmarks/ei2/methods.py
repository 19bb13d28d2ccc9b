"""The methods of the table, all tuned by one recipe and sampled by one sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...methods.ei2 import build_ffam, build_stam
from ...methods.ei2.pipeline import edit_clip as edit_by_ei2
from ...methods.one_shot import edit_with
from ...methods.tune_a_video import build_full_attention, build_sparse_causal
from ...methods.tune_a_video.pipeline import edit_clip as edit_by_tune_a_video
from ..common.edited import Edited, Settings
from ..common.memory import peak_memory
from .prompt_rivals import vid2vid_zero, video_p2p

if TYPE_CHECKING:

    from ...methods.attachment import Attachment, BlockSite
    from ..common.cases import Case, World

# (world, case, settings, seed) -> the dict of ``methods.one_shot.edit_with``
Method = Callable[..., dict[str, Any]]


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
    # With the statistics of its authors' code, and with each frame's own.
    "tune-a-video": _published(partial(edit_by_tune_a_video, joint_norms=True)),
    "tune-a-video-per-frame": _published(edit_by_tune_a_video),
    "ei2": _published(edit_by_ei2),
    # The paper's ablation of the shift: what stands before the temporal attention, all else kept.
    "layer-norm": _pair(build_sparse_causal, norm="layer", spectral=False),
    "instance-norm": _pair(build_sparse_causal, norm="instance", spectral=False),
    "centering": _pair(build_sparse_causal, norm="center", spectral=False),
    "centering-spectral": _pair(build_sparse_causal, norm="center", spectral=True),
    "no-norm": _pair(build_sparse_causal, norm="none", spectral=False),
    # EI2 by equation 9 to the letter: what the attention returns is not centred again.
    "equation-9": _pair(build_ffam, recenter=False),
    # Its ablation of the frame attention; sparse-causal is the line above, ratio 2 is ei2.
    "ffam-4": _pair(lambda sites: build_ffam(sites, ratio=4)),
    "full-attention": _pair(build_full_attention),
    # Rivals of the paper's tables; inspired by them, see there.
    "video-p2p": video_p2p,
    "vid2vid-zero": vid2vid_zero,
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
