"""DAPE's stages, its ablations and its rivals, on the methods that they are to improve."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...diffusion.samplers import sample_euler_ancestral
from ...methods.dape.pipeline import run_stage
from ...methods.dape.recipes import ADAPTER_TUNING, JOINT_TUNING, NORM_TUNING, Stage
from ...methods.ei2 import build_ffam, build_stam
from ...methods.registry import build_on
from ...methods.simda import build_simda
from ...methods.tune_a_video import build_sparse_causal, build_temporal_attention
from ...methods.tuning import tune
from ..common.edited import Edited, scaled
from ..common.edited import Settings as Common
from ..common.memory import peak_memory
from .peft_rivals import RIVALS, tune_rival

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.attachment import Attachment
    from ..common.cases import Case, World

#: Share of ancestral noise in the flickering base; ``bench flickering`` chose it.
ETA = 0.5
#: Frames of a side of RAVE's grid, and strength of its ControlNet: eight frames fill two grids.
GRID, CONTROL = 2, 1.0


@dataclass(frozen=True)
class Settings:
    """What all rows have in common.

    Args:
        common: tuning of the bases, and steps and guidance of every sampling.
        scale: of the published numbers of steps, see ``scaled``.
        eta: see ``_flickering``.
    """

    common: Common = field(default_factory=Common.of_the_table)
    scale: float = 1.0
    eta: float = ETA


@dataclass(frozen=True)
class Base:
    """A method that is ready for its clip, before anything of DAPE.

    Args:
        model: tuned on the clip where the method tunes; it is inverted with this.
        sampled: what sampling adds to a MODEL.
        sampler: that samples the edit.
        positive, negative: CONDITIONING of the sampling.
        seconds: that its own tuning took.
    """

    model: Any
    positive: Any
    negative: Any
    seconds: float = 0.0
    sampled: Callable[[Any], Any] = field(default=lambda model: model)
    sampler: str | Callable[..., Tensor] = "euler"


def _tuned(*builders: Callable[[list, int], Attachment]) -> Callable[..., Base]:
    """A one-shot method, tuned by its own recipe."""

    def prepare(world: World, case: Case, settings: Settings, seed: int) -> Base:
        backend, model = world.backend, world.model
        for build in builders:
            model = backend.attach(model, build(backend.sites(model), seed))
        start = time.perf_counter()
        recipe = replace(settings.common.recipe, seed=seed)
        tuned = tune(backend, model, case.samples, case.source_text, recipe, preview_every=0)
        return Base(tuned.model, case.target_text, case.empty, time.perf_counter() - start)

    return prepare


def _plain(world: World, case: Case, settings: Settings, seed: int) -> Base:
    return Base(world.model, case.target_text, case.empty)


def _flickering(world: World, case: Case, settings: Settings, seed: int) -> Base:
    """The plain model under an ancestral sampler, whose noise every frame has of its own.

    By the clip's own path the toy model's frames agree so well that there is nothing for DAPE to repair.
    """
    sampler = partial(sample_euler_ancestral, eta=settings.eta)
    return Base(world.model, case.target_text, case.empty, sampler=sampler)


def _rave(world: World, case: Case, settings: Settings, seed: int) -> Base:
    """The plain model, sampled in grids under a ControlNet on the source's edges; trained and inverted without."""
    from ...toyworld.models.control import edges

    backend = world.backend
    control = backend.load_toy_controlnet().applied(edges(case.source.frames), CONTROL)
    positive, negative = ([[text, {**extra, "control": control}] for text, extra in condition]
                          for condition in (case.target_text, case.empty))  # fmt: skip

    def sampled(model: Any) -> Any:
        return backend.attach(model, build_on(backend, model, "rave", {"grid": GRID, "seed": seed}))

    return Base(world.model, positive, negative, sampled=sampled)


BASES: dict[str, Callable[..., Base]] = {
    "per-frame": _plain,
    # Norms that stage 1 adjusts are per frame: those of Tune-A-Video's authors, over all frames, cannot be.
    "tune-a-video-per-frame": _tuned(lambda sites, seed: build_sparse_causal(sites),
                                     lambda sites, seed: build_temporal_attention(sites, seed=seed)),
    "ei2": _tuned(lambda sites, seed: build_ffam(sites), lambda sites, seed: build_stam(sites, seed=seed)),
    "simda": _tuned(lambda sites, seed: build_simda(sites, seed=seed)),
    "rave": _rave,
    "flickering": _flickering,
}  # fmt: skip


def _stages(settings: Settings, seed: int, loss: str = "huber", norms: bool = True, adapter: bool = True,
            joint: bool = False, **config: Any) -> list[Stage]:  # fmt: skip
    first, second, both = (scaled(recipe, settings.scale, seed=seed, loss=loss)
                           for recipe in (NORM_TUNING, ADAPTER_TUNING, JOINT_TUNING))  # fmt: skip
    if joint:
        return [Stage({"norm-tune": {}, "visual-adapter": {"seed": seed}}, both)]
    found = [Stage({"norm-tune": {}}, first)] if norms else []
    return found + ([Stage({"visual-adapter": {"seed": seed, **config}}, second)] if adapter else [])


#: slug -> what differs from the two published stages; the rivals come after.
VARIANTS: dict[str, Mapping[str, Any]] = {
    "base": {"norms": False, "adapter": False},
    "norm-tune": {"adapter": False},
    "visual-adapter": {"norms": False},
    "one-stage": {"joint": True},
    "dape": {},
    "dape-mse": {"loss": "mse"},
    "positions-1-7": {"positions": [1, 2, 3, 4, 5, 6, 7]},
    "positions-1267": {"positions": [1, 2, 6, 7]},
    "positions-3-5": {"positions": [3, 4, 5]},
    "positions-1-3": {"positions": [1, 2, 3]},
    "positions-5-7": {"positions": [5, 6, 7]},
}
METHODS = (*VARIANTS, *RIVALS)


#: Model before, and what was trained on it -> MODEL, seconds of training beyond the base's, numbers trained.
Trained = dict[tuple[str, str], tuple[Any, float, int]]


class Bench:
    """One clip on one base: what several variants share is trained once.

    Args:
        known: what was trained on the clip by benches of other bases, of which several have the plain model.
    """

    def __init__(self, world: World, case: Case, base: str, settings: Settings, seed: int,
                 known: Trained | None = None):  # fmt: skip
        self.world, self.case, self.settings, self.seed = world, case, settings, seed
        self.base = BASES[base](world, case, settings, seed)
        self._known: Trained = {} if known is None else known
        self._start = "plain" if self.base.model is world.model else base

    def edit(self, method: str) -> tuple[Edited, int]:
        """Train a variant, invert with it, sample the edit; and how many numbers were trained for it."""
        case, backend, common = self.case, self.world.backend, self.settings.common
        with peak_memory() as memory:
            model, seconds, trained = self._trained(method)
            sigmas = backend.schedule(model).ddim_sigmas(common.steps)
            start = time.perf_counter()
            bar = backend.progress(common.steps, "inversion")
            trajectory = backend.invert(model, case.empty, case.samples, sigmas.flip(0), common.refinement, bar)
            bar = backend.progress(common.steps, "sampling")
            samples = backend.sample(self.base.sampled(model), self.base.positive, self.base.negative,
                                     common.guidance, trajectory[-1], sigmas, bar,
                                     sampler=self.base.sampler, seed=self.seed)  # fmt: skip
            frames = self.world.vae.decode(samples)
        spent = time.perf_counter() - start
        # With the untouched model: the shifts of temporal modules are the bases' matter.
        edited = Edited(frames, self.base.seconds + seconds, spent, memory.peak_mb, self.world.model, trajectory,
                        sigmas.flip(0))  # fmt: skip
        return edited, trained

    def _trained(self, method: str) -> tuple[Any, float, int]:
        """MODEL, seconds of training beyond the base's, numbers trained."""
        world, case = self.world, self.case
        if method in RIVALS:
            if (key := (self._start, method)) not in self._known:
                recipe = scaled(JOINT_TUNING, self.settings.scale, seed=self.seed)
                start = time.perf_counter()
                model, trained = tune_rival(method, world.backend, self.base.model, case.samples, case.source_text,
                                            recipe)  # fmt: skip
                self._known[key] = model, time.perf_counter() - start, trained
            return self._known[key]
        model, seconds, trained, done = self.base.model, 0.0, 0, []
        for stage in _stages(self.settings, self.seed, **VARIANTS[method]):
            done.append([stage.methods, asdict(stage.recipe)])
            if (key := (self._start, repr(done))) not in self._known:
                start = time.perf_counter()
                tuned = run_stage(world.backend, model, case.samples, case.source_text, stage, preview_every=0)
                count = sum(tensor.numel() for tensor in tuned.weights.tensors.values())
                self._known[key] = tuned.model, seconds + time.perf_counter() - start, trained + count
            model, seconds, trained = self._known[key]
        return model, seconds, trained
