"""VIA, its rivals and its ablations, all from the same weights, noise, root pair and adaptation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...methods.tokenflow import Source, build_tokenflow
from ...methods.tune_recipe import TuneRecipe
from ...methods.via.adapt import AdaptRecipe, adapt
from ...methods.via.candidates import score as score_candidates
from ...methods.via.gather_swap import GatherSwap
from ...methods.via.pipeline import Choice, Root, ViaRecipe, find_root, invert_clip, sample_edit
from ...toyworld.models import EDITOR_IMAGE_GUIDANCE as IMAGE
from ...toyworld.models import EDITOR_TEXT_GUIDANCE as TEXT
from ...toyworld.world.edits import LOCAL
from ..common.cases import World
from ..common.claims import VIA_CLAIMS, VIA_LOCAL_CLAIMS
from ..common.clock import Seconds, timed
from ..common.edited import Edited
from ..common.edited import Settings as CaptionSettings
from ..common.memory import peak_memory
from .captioned import BY_WORDS, CAPTIONED, edited_by_captions, words_express
from .first_frame import followed
from .texts import WORDINGS, one_a_frame

if TYPE_CHECKING:
    from torch import Tensor

    from ...diffusion.trajectory import Trajectory
    from ...methods.tuning import Tuned
    from ...toyworld import Edit
    from ..common.cases import Case
    from ..common.claims import Claim

#: Of the toy editor's adaptation.
TUNING_STEPS, LEARNING_RATE = 150, 1e-4

#: Weight of what a local edit leaves alone, in the choice of the root.
PRESERVATION = 0.5

#: Slug of the rival that follows VIA's first frame.
FOLLOWS = "anyv2v"


def _swap(via: ViaRecipe, **changes: Any) -> ViaRecipe:
    assert via.swap is not None  # see ``Settings``
    return replace(via, swap=replace(via.swap, **changes))


def _alone(via: ViaRecipe) -> ViaRecipe:
    return replace(via, adaptation=None, swap=None, blend=None)


#: slug -> the recipe without what it leaves out.
METHODS: dict[str, Callable[[ViaRecipe], ViaRecipe]] = {
    "per-frame": _alone,
    # Fairy's way: the group's frames keep their own keys, and so does every other.
    "cross-frame": lambda via: replace(_swap(via, own_keys=True, gather=False), adaptation=None, blend=None),
    "via": lambda via: via,
    "via-no-adaptation": lambda via: replace(via, adaptation=None),
    "via-no-gather": lambda via: _swap(via, gather=False),
    "via-no-swap": lambda via: replace(via, swap=None),
    "via-no-blend": lambda via: replace(via, blend=None),
    "via-no-ramp": lambda via: replace(via, blend="no ramp"),
    "via-last-step-blend": lambda via: replace(via, blend="last step only"),
    # On the editor's own inversion, under the empty prompt and the picture that it was shown.
    "tokenflow": lambda via: replace(via, adaptation=None, swap=None, blend=None, rival=lambda sites, path, shown:
                                     build_tokenflow(sites, source=Source(path, shown), spacing=4)),
    # The paper gives it VIA's first frame; the video model does the rest.
    FOLLOWS: lambda via: via,
    # Each frame has a wording of its own; with one text for all the swap of cross-attention changes nothing.
    "texts-per-frame": _alone,
    "texts-via": lambda via: via,
    "texts-via-no-cross-swap": lambda via: _swap(via, cross_attention=False),
}  # fmt: skip
#: Those whose frames have wordings of their own.
TEXTS = tuple(slug for slug in METHODS if slug.startswith("texts-"))
#: Those that differ from VIA where something is kept, which is so in local edits only.
LOCAL_ONLY = ("via-no-blend", "via-no-ramp", "via-last-step-blend")
#: Those that are run on clips of every length.
AT_LENGTH = ("per-frame", "cross-frame", "via", "via-no-swap", "tokenflow", FOLLOWS)


@dataclass(frozen=True)
class Settings:
    """What all methods have in common, so that nothing but the method differs.

    Args:
        via: the recipe that methods leave parts of out.
        captioned: of the rivals that are told captions.
        wordings: of an instruction, by the kind of edit, for the rows whose frames have texts of their own.
    """

    via: ViaRecipe = field(default_factory=lambda: ViaRecipe(
        AdaptRecipe(TuneRecipe(steps=TUNING_STEPS, learning_rate=LEARNING_RATE, queries=False)),
        text_guidance=TEXT, image_guidance=IMAGE,
    ))  # fmt: skip
    captioned: CaptionSettings = field(default_factory=CaptionSettings.of_the_table)
    wordings: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(WORDINGS))

    @property
    def swap(self) -> GatherSwap | None:
        """Gather-swap's settings."""
        return self.via.swap


@dataclass(frozen=True)
class Prepared:
    """What the methods of one clip share.

    Args:
        positive, negative: CONDITIONING of the instruction and of "".
        mask: [F, H, W], where the object is before or after the edit; None for an edit of all.
        root: the edited frame that the editor is adapted to.
        tuned: the editor adapted to it.
        adaptation_seconds: what that took.
        trajectory: of the clip's inversion; None without a mask.
        inversion: what that took; nothing without a mask.
    """

    positive: Any
    negative: Any
    mask: Tensor | None
    root: Root
    tuned: Tuned
    adaptation_seconds: float
    trajectory: Trajectory | None
    inversion: Seconds


@dataclass(frozen=True)
class Kind:
    """A kind of editor, and what the benchmark does with it.

    Args:
        weights: name of its weights.
        load: the models.
        methods: slugs, in the order of the table.
        local_only, at_length, shown: those that differ where something is kept only; are run on clips of every length;
            are on the contact sheet.
        by_words: those that need a word for the edit.
        settings: of the table.
        prepare, edit: see the functions of this module.
        claims, local_claims: what is asked of the rows.
        notes: on the methods.
    """

    weights: str
    load: Callable[[], World]
    methods: tuple[str, ...]
    local_only: tuple[str, ...]
    at_length: tuple[str, ...]
    shown: tuple[str, ...]
    settings: Callable[[], Any]
    prepare: Callable[..., Any]
    edit: Callable[..., tuple[Edited, float]]
    claims: tuple[Claim, ...]
    local_claims: tuple[Claim, ...]
    notes: tuple[str, ...]
    by_words: tuple[str, ...] = ()

    def methods_of(self, edit: Edit, chosen: list[str]) -> list[str]:
        """Those that are not another one under a second name, and that can be told of the edit."""
        left_out = (*(() if is_local(edit) else self.local_only), *(() if words_express(edit) else self.by_words))
        return [method for method in chosen if method not in left_out]


def is_local(edit: Edit) -> bool:
    """Whether the edit changes the object and nothing else."""
    return edit.kind in LOCAL


def object_mask(case: Case) -> Tensor:
    """[F, H, W]: where the object is before or after the edit, since a new shape covers other pixels."""
    return torch.maximum(case.source.masks[0], case.truth.masks[0])


def choice(world: World, case: Case) -> Choice:
    """The choice of a root as Pick Root makes it, with the renderer's captions and the world's CLIP."""
    words = [world.embed(case.source.frames[:1], clip.caption)[1] for clip in (case.source, case.truth)]

    def choose(source: Tensor, candidates: Tensor, where: Tensor | None) -> int:
        own, looks = (world.embed(images, "")[0] for images in (source, candidates))
        # As in the graphs: an edit of everything has nothing to preserve.
        weight = 0.0 if where is None else PRESERVATION
        return score_candidates(source, candidates, own, looks, words[1] - words[0], where, weight).best

    return choose


def prepare(
    world: World, case: Case, settings: Settings, seed: int, cache: Path, rooted: Case | None = None
) -> Prepared:
    """Root pair, adaptation and inversion of a clip.

    Args:
        seed: of the root frame's number.
        cache: of adaptations, so that each clip has one.
        rooted: the same edit on a clip of another length, which the root pair is taken from.
    """
    positive = world.conditioning(case.edit.instruction)
    mask = object_mask(case) if is_local(case.edit) else None
    choose, parts, via = choice(world, case), (world.backend, world.model, world.vae), settings.via
    # Where the lengths differ, the adaptation does not.
    rooted = rooted or case
    kept = object_mask(rooted) if is_local(case.edit) else None
    root = find_root(*parts, rooted.source.frames, positive, case.empty, choose, via, kept, seed)
    with timed() as adaptation:
        tuned = adapt(
            *parts, root.source, root.edited, positive, case.empty, via.adaptation, cache=cache, preview_every=0
        )
    trajectory, inversion = None, Seconds()
    if mask is not None:
        with timed() as inversion:
            trajectory = invert_clip(world.backend, world.model, case.samples, case.empty, via)
    return Prepared(positive, case.empty, mask, root, tuned, adaptation.wall, trajectory, inversion)


def edit(
    world: World, case: Case, method: str, settings: Settings, prepared: Prepared, seed: int
) -> tuple[Edited, float]:
    """Run one method on one case.

    Args:
        seed: of the noise, the same for all methods.

    Returns:
        what it made, and by ``clock`` the seconds that a frame took to be inverted where that
        was needed, sampled and decoded.
    """
    if method in CAPTIONED:
        return edited_by_captions(case, method, settings.captioned, seed)
    recipe, positive = METHODS[method](settings.via), prepared.positive
    if method in TEXTS:
        positive = one_a_frame(world, case.edit, len(case.samples), settings.wordings)
    adapted = recipe.adaptation is not None
    editor = prepared.tuned.model if adapted else world.model
    with peak_memory() as memory, timed() as seconds:
        samples = sample_edit(
            world.backend, editor, case.samples, positive, prepared.negative, recipe, mask=prepared.mask,
            trajectory=prepared.trajectory, seed=seed,
        )  # fmt: skip
        frames = world.vae.decode(samples)
        if method == FOLLOWS:
            frames = followed(case, frames[:1])
    before = Seconds() if recipe.blend is None else prepared.inversion
    edited = Edited(
        frames=frames,
        train_seconds=prepared.adaptation_seconds if adapted else None,
        infer_seconds=before.wall + seconds.wall,
        peak_mb=memory.peak_mb,
        model=editor,
        trajectory=[],
        sigmas=torch.empty(0),
    )
    return edited, (before.own + seconds.own) / len(frames)


INSTRUCT = Kind(
    weights="editor", load=lambda: World.load(editor=True), methods=(*METHODS, *CAPTIONED), local_only=LOCAL_ONLY,
    at_length=(*AT_LENGTH, *CAPTIONED), by_words=BY_WORDS, settings=Settings,
    shown=("per-frame", "cross-frame", "via", "tokenflow", "anyv2v", *CAPTIONED), prepare=prepare, edit=edit,
    claims=VIA_CLAIMS, local_claims=VIA_LOCAL_CLAIMS,
    notes=("rows: all clips of the table; via-no-blend, via-no-ramp and via-last-step-blend, which are via itself "
           "where there is no mask, are means over the local edits only: compare them in 'local', which holds these "
           "for all methods.",
           "anyv2v is inspired by that method (methods/anyv2v says what differs); its seconds hold those of its first "
           "frame, VIA's. It continues the clip in one piece, whatever the length: every frame attends to all.",
           "texts-: each frame has the instruction in one of several wordings, in turn; root pair and adaptation are "
           "those of the other rows.",
           "tune-a-video, tune-a-video-per-frame and video-p2p have another model, the toy text-to-image one, are told "
           "the renderer's captions before and after the edit instead of the instruction, and tune and invert by "
           "themselves: as in bench ei2, at its steps and guidance, fewer than published. video-p2p, where the caption "
           "has a word for the edit, is inspired by that method (benchmarks/ei2/prompt_rivals.py says what differs). "
           "Their seconds a frame are without the tuning. tune-a-video and tune-a-video-per-frame are inspired by that "
           "method, too: with norms over all frames, as in its authors' code, and per frame.",
           "tokenflow is inspired by that method: a keyframe in four frames and 10 steps for its code's eight and 50, "
           "on the instruction editor and its inversion."),
)  # fmt: skip
