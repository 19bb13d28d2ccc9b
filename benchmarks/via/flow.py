"""VIA's parts on the toy world's flow-matching editor, each beside what comes before it; from one noise, root pair and
adaptation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...backends.diffusers.flow_editor import FlowEditorBackend, load_toy_flow_editor
from ...diffusion.schedule import named_sigmas
from ...diffusion.trajectory import FlowPath, Trajectory
from ...methods.tune_recipe import TuneRecipe
from ...methods.via.adapt import AdaptRecipe, adapt
from ...methods.via.blend import BoundaryBlend
from ...methods.via.candidates import chosen_frame
from ...methods.via.editor_clip import ClipConditions, EditorClip
from ...methods.via.gather_swap import GatherSwap, build_gather_swap
from ...methods.via.latent_mask import keep_mask
from ...methods.via.pipeline import Root
from ...methods.via.source_path import noise_at_top
from ..common.cases import World, quiet_backend
from ..common.claims import VIA_FLOW_CLAIMS, VIA_FLOW_LOCAL_CLAIMS
from ..common.clock import Seconds, timed
from ..common.edited import Edited
from ..common.memory import peak_memory
from .methods import LEARNING_RATE, TUNING_STEPS, Kind, choice, is_local, object_mask

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.tuning import Tuned
    from ..common.cases import Case


@dataclass(frozen=True)
class Settings:
    """What all methods have in common.

    Args:
        adaptation: to the root pair.
        swap: gather-swap, the paper's.
        seeds: of the root's candidates, counted on from the run's.
        steps, guidance: of the sampling.
    """

    adaptation: AdaptRecipe = field(default_factory=lambda: AdaptRecipe(
        TuneRecipe(steps=TUNING_STEPS, learning_rate=LEARNING_RATE, queries=False)))
    swap: GatherSwap = field(default_factory=GatherSwap)
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    steps: int = 10
    guidance: float = 2.5


@dataclass(frozen=True)
class Way:
    """What a method has of VIA's parts: ``blend`` is the source's path, "exact" or "inverted"."""

    swap: bool = False
    own_keys: bool = False
    adapted: bool = False
    blend: str = ""


METHODS: dict[str, Way] = {
    "per-frame": Way(),
    # Fairy's way: the group's frames keep their own keys, and so does every other.
    "cross-frame": Way(swap=True, own_keys=True),
    "gather-swap": Way(swap=True),
    "with-adaptation": Way(swap=True, adapted=True),
    "with-blend": Way(swap=True, adapted=True, blend="exact"),
    # From the clip's own noise, too.
    "with-blend-inverted": Way(swap=True, adapted=True, blend="inverted"),
}


@dataclass(frozen=True)
class Prepared:
    """What the methods of one clip share.

    Args:
        made: CONDITIONING of the instruction and of "", and the clip's latents.
        mask: [F, H, W], where the object is before or after the edit; None for an edit of all.
        root, tuned, adaptation_seconds: the edited frame, the editor adapted to it, what that took.
        inverted: the clip's inversion; None without a mask. ``inversion`` is what it took.
    """

    made: ClipConditions
    mask: Tensor | None
    root: Root
    tuned: Tuned
    adaptation_seconds: float
    inverted: Trajectory | None
    inversion: Seconds


def load() -> World:
    """The committed weights."""
    from ...toyworld import models

    return World(quiet_backend(FlowEditorBackend), *load_toy_flow_editor(), models.load_classifier(),
                 models.load_clip())


def shown(world: World, frames: Tensor, instruction: str) -> ClipConditions:
    """A clip as Editor Conditioning shows it to the editor."""
    return EditorClip(world.backend.picture_editor(world.text, world.vae), (instruction, "")).of(frames, lambda: None)


def sample(world: World, editor: Any, made: ClipConditions, settings: Settings, noise: Tensor,
           sampler: Any = "euler") -> Tensor:
    """LATENT samples of the edit, from noise in the model's scale."""
    start = world.backend.from_model_space(editor, noise)
    return world.backend.sample(editor, *made.prompts, settings.guidance, start, sigmas_of(world, settings),
                                world.backend.progress(settings.steps, "sampling"), sampler=sampler)


def sigmas_of(world: World, settings: Settings) -> Tensor:
    """The graph's noise levels."""
    return named_sigmas(world.backend.schedule(world.model), "simple", settings.steps, 1.0)


def drawn(samples: Tensor, seed: int) -> Tensor:
    """One noise for all frames."""
    return torch.randn(samples[:1].shape, generator=torch.Generator().manual_seed(seed)).expand(samples.shape)


def find_root(world: World, case: Case, settings: Settings, seed: int) -> Root:
    """One frame of the clip edited under several seeds, and the best of them."""
    number = chosen_frame(-1, len(case.source.frames), seed)
    source = case.source.frames[number : number + 1]
    made = shown(world, source, case.edit.instruction)
    candidates = torch.cat([
        world.vae.decode(sample(world, world.model, made, settings, drawn(made.latents, seed + more)))
        for more in settings.seeds])
    mask = object_mask(case)[number] if is_local(case.edit) else None
    best = choice(world, case)(source, candidates, mask)
    return Root(source, candidates[best : best + 1], candidates)


def prepare(world: World, case: Case, settings: Settings, seed: int, cache: Path,
            rooted: Case | None = None) -> Prepared:
    """Root pair, adaptation and inversion of a clip; see ``methods.prepare``."""
    made, mask = shown(world, case.source.frames, case.edit.instruction), None
    rooted = rooted or case
    root = find_root(world, rooted, settings, seed)
    with timed() as adaptation:
        positive, negative = shown(world, root.source, case.edit.instruction).prompts
        tuned = adapt(world.backend, world.model, world.vae, root.source, root.edited, positive, negative,
                      settings.adaptation, cache=cache, preview_every=0)
    inverted, inversion = None, Seconds()
    if is_local(case.edit):
        mask, sigmas = object_mask(case), sigmas_of(world, settings).flip(0)
        with timed() as inversion:
            path = world.backend.invert_flow(world.model, made.prompts[1], made.latents, sigmas,
                                             world.backend.progress(settings.steps, "inversion"))
            inverted = Trajectory(path, sigmas)
    return Prepared(made, mask, root, tuned, adaptation.wall, inverted, inversion)


def edit(world: World, case: Case, method: str, settings: Settings, prepared: Prepared,
         seed: int) -> tuple[Edited, float]:
    """Run one method on one case; see ``methods.edit``."""
    way, made = METHODS[method], prepared.made
    editor: Any = prepared.tuned.model if way.adapted else world.model
    if way.swap:
        swap = replace(settings.swap, own_keys=True, gather=False) if way.own_keys else settings.swap
        editor = world.backend.attach(editor, build_gather_swap(world.backend.joint_sites(editor), **asdict(swap)))
    noise, sampler, before = drawn(made.latents, seed), "euler", Seconds()
    if way.blend:
        assert prepared.mask is not None and prepared.inverted is not None
        path: Any = FlowPath(made.latents)
        if way.blend == "inverted":
            path, before = prepared.inverted, prepared.inversion
            clean, top = (world.backend.to_model_space(editor, path[step, range(len(noise))])
                          for step in (0, settings.steps))
            noise = noise_at_top(top, clean, float(path.sigmas[-1]))
        keep = keep_mask(prepared.mask, len(noise), *noise.shape[2:])
        sampler = world.backend.blend_sampler(sampler, BoundaryBlend(path, keep))
    with peak_memory() as memory, timed() as seconds:
        frames = world.vae.decode(sample(world, editor, made, settings, noise, sampler))
    edited = Edited(
        frames=frames, train_seconds=prepared.adaptation_seconds if way.adapted else None,
        infer_seconds=before.wall + seconds.wall, peak_mb=memory.peak_mb, model=editor, trajectory=[],
        sigmas=torch.empty(0),
    )  # fmt: skip
    return edited, (before.own + seconds.own) / len(frames)


FLOW = Kind(
    weights="flow_editor", load=load, methods=tuple(METHODS), local_only=("with-blend", "with-blend-inverted"),
    at_length=tuple(METHODS)[:-1], shown=tuple(METHODS)[:4], settings=Settings, prepare=prepare, edit=edit,
    claims=VIA_FLOW_CLAIMS, local_claims=VIA_FLOW_LOCAL_CLAIMS,
    notes=("each method has the parts of those before it: gather-swap, then the adaptation too, then the blend too, "
           "which follows the clip's exact path or, inverted, its second-order inversion, from whose noise it begins.",
           "with-blend and with-blend-inverted are run where something is kept: compare them in 'local'."),
)  # fmt: skip
