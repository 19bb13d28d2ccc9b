"""VIA from a clip and an instruction to the edited latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...diffusion.trajectory import Trajectory
from .adapt import AdaptRecipe, adapt
from .blend import BoundaryBlend
from .candidates import chosen_frame, root_candidates, with_picture
from .gather_swap import GatherSwap, build_gather_swap
from .latent_mask import keep_mask
from .root import check_editor

if TYPE_CHECKING:
    from ...backends.protocol import Editing
    from ..attachment import Attachment, BlockSite

#: (source [1, H, W, 3], candidates [n, H, W, 3], mask [H, W] or None) -> number of the best one.
Choice = Callable[[Tensor, Tensor, "Tensor | None"], int]


@dataclass(frozen=True)
class ViaRecipe:
    """VIA's parts, each of which can be left out; the defaults are the paper's.

    Args:
        adaptation: to the root pair; None leaves the editor as it is.
        swap: gather-swap; None edits each frame by itself.
        blend: mode of the boundary blend, see ``blend.MODES``; None leaves it out. Without a
            mask nothing is blended.
        reading: of equation 6, see ``kernels.boundary_blend``.
        seeds: of the root frame's candidates, counted on from the run's seed.
        steps: of sampling and of the inversion.
        text_guidance, image_guidance: InstructPix2Pix's two scales.
        sampler: the host's SAMPLER, or a name.
        refinement: fixed-point iterations of each inversion step.
        rival: another method in the place of gather-swap that reads the clip's inversion: its attachment, from all
            blocks of the U-Net, the trajectory and the CONDITIONING that the clip was inverted under. It samples from
            the inverted noise.
    """

    adaptation: AdaptRecipe | None = field(default_factory=AdaptRecipe)
    swap: GatherSwap | None = field(default_factory=GatherSwap)
    blend: str | None = "ramp"
    reading: str = "A"
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    steps: int = 10
    text_guidance: float = 7.5
    image_guidance: float = 1.5
    sampler: Any = "euler"
    refinement: int = 0
    rival: Callable[[Sequence[BlockSite], Trajectory, Any], Attachment] | None = None


@dataclass(frozen=True)
class Root:
    """A frame before and after its edit, IMAGE [1, height, width, 3] each; ``candidates`` are what it was chosen of."""

    source: Tensor
    edited: Tensor
    candidates: Tensor


def find_root(
    backend: Editing,
    model: Any,
    vae: Any,
    images: Tensor,
    positive: Any,
    negative: Any,
    choose: Choice,
    recipe: ViaRecipe | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Root:
    """Edit one random frame of the clip under several seeds and choose the best.

    Args:
        images: IMAGE of the clip [frames, height, width, 3].
        positive, negative: CONDITIONING of the instruction and of the empty prompt.
        choose: the best candidate's number.
        mask: [frames, height, width], 1 where the edit belongs.
        seed: of the frame's number; the candidates' seeds count on from it.

    Raises:
        TypeError: the MODEL takes no image.
    """
    recipe = recipe or ViaRecipe()
    frame = chosen_frame(-1, len(images), seed)
    source = images[frame : frame + 1]
    candidates = root_candidates(
        backend, model, vae, source, positive, negative, [seed + number for number in recipe.seeds],
        steps=recipe.steps, sampler=recipe.sampler, text_guidance=recipe.text_guidance,
        image_guidance=recipe.image_guidance,
    )  # fmt: skip
    best = choose(source, candidates, None if mask is None else mask[frame % len(mask)])
    return Root(source, candidates[best : best + 1], candidates)


def invert_clip(backend: Editing, model: Any, samples: Tensor, negative: Any, recipe: ViaRecipe) -> Trajectory:
    """The clip's latents at every noise level of the sampling, by DDIM inversion with the empty prompt.

    On the scheduler "ddim_uniform", as DDIM Inversion. The editor is shown each frame beside its noise, so that it
    knows what it is to find again.

    Args:
        samples: LATENT samples [frames, channels, h, w].
        negative: CONDITIONING of the empty prompt.
    """
    sigmas = backend.schedule(model).ddim_sigmas(recipe.steps).flip(0)
    bar = backend.progress(len(sigmas) - 1, "inversion")
    shown = with_picture(negative, samples)
    return Trajectory(backend.invert(model, shown, samples, sigmas, recipe.refinement, bar), sigmas)


def sample_edit(
    backend: Editing,
    editor: Any,
    samples: Tensor,
    positive: Any,
    negative: Any,
    recipe: ViaRecipe,
    *,
    mask: Tensor | None = None,
    trajectory: Trajectory | None = None,
    seed: int = 0,
) -> Tensor:
    """Edit all frames of a clip from one initial noise, with gather-swap and the blend.

    D = D(0, 0) + s_I (D(y, 0) - D(0, 0)) + s_T (D(y, c) - D(y, 0)),  y each frame's own raw latent.

    Args:
        editor: MODEL, adapted or not; not changed.
        samples: LATENT samples of the clip [frames, channels, h, w].
        positive, negative: CONDITIONING of the instruction and of the empty prompt; the clip
            takes the place of images in them.
        mask: [frames or 1, height, width], 1 where to edit; None edits whole frames.
        trajectory: of the clip (``invert_clip``), needed where a mask is blended; its noise levels
            are then sampled, blended or not, else those of the scheduler "normal".
        seed: of the noise.

    Returns:
        LATENT samples.

    Raises:
        ValueError: a part does not fit the clip, or a blend without a trajectory.
    """
    sampler = recipe.sampler
    if mask is not None and recipe.blend is not None:
        if trajectory is None:
            raise ValueError("trajectory: the blend follows the clip's inversion; give that of invert_clip.")
        keep = keep_mask(mask, len(samples), *samples.shape[2:])
        sampler = backend.blend_sampler(sampler, BoundaryBlend(trajectory, keep, recipe.blend, recipe.reading))
    inverted = None
    if recipe.rival is not None:
        trajectory = trajectory or invert_clip(backend, editor, samples, negative, recipe)
        inverted = trajectory[len(trajectory.sigmas) - 1, range(len(samples))].float()
        shown = with_picture(negative, samples)
        editor = backend.attach(editor, recipe.rival(backend.sites(editor), trajectory, shown))
    if recipe.swap is not None:
        editor = backend.attach(editor, build_gather_swap(backend.sites(editor), **asdict(recipe.swap)))
    schedule = backend.schedule(editor)
    sigmas = schedule.normal_sigmas(recipe.steps) if trajectory is None else trajectory.sigmas.flip(0).float()
    noise = torch.randn(samples[:1].shape, generator=torch.Generator().manual_seed(seed)).expand(samples.shape)
    start = backend.from_model_space(editor, schedule.starting_noise(noise, float(sigmas[0])))
    return backend.sample(
        editor, with_picture(positive, samples), with_picture(negative, None), recipe.text_guidance,
        start if inverted is None else inverted, sigmas,
        backend.progress(len(sigmas) - 1, "sampling"), sampler=sampler, seed=seed,
        middle=with_picture(negative, samples), middle_guidance=recipe.image_guidance,
    )  # fmt: skip


def edit_clip(
    backend: Editing,
    model: Any,
    vae: Any,
    images: Tensor,
    positive: Any,
    negative: Any,
    choose: Choice,
    recipe: ViaRecipe | None = None,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> dict[str, Any]:
    """All of VIA: find a root pair, adapt the editor to it, invert the clip, and edit every frame.

    Args:
        model: MODEL with an image input; not changed.
        vae: ``encode`` and ``decode``.
        images: IMAGE of the clip [frames, height, width, 3].
        positive, negative: CONDITIONING of the instruction and of the empty prompt.
        choose: the best candidate's number, see ``find_root``.
        mask: [frames or 1, height, width], 1 where to edit; None edits whole frames.
        seed: of the root frame's number, of its candidates, and of the noise.
        cache: folder in which finished adaptations are found again.

    Returns:
        ``samples`` (edited LATENT samples), ``editor`` (MODEL, adapted), ``root`` (``Root``),
        ``tuned`` (``Tuned``) and ``trajectory``; the last three are None where the recipe
        leaves them out.

    Raises:
        TypeError: the MODEL takes no image.
        ValueError: a part does not fit the clip.
    """
    recipe, editor = recipe or ViaRecipe(), model
    check_editor(backend, model)
    root = tuned = trajectory = None
    if recipe.adaptation is not None:
        root = find_root(backend, model, vae, images, positive, negative, choose, recipe, mask, seed)
        tuned = adapt(
            backend, model, vae, root.source, root.edited, positive, negative, recipe.adaptation, cache=cache,
        )  # fmt: skip
        editor = tuned.model
    samples = vae.encode(images)
    if mask is not None and recipe.blend is not None:
        # The editor as it was: an adapted one takes the source for something to be edited.
        trajectory = invert_clip(backend, model, samples, negative, recipe)
    edited = sample_edit(
        backend, editor, samples, positive, negative, recipe, mask=mask, trajectory=trajectory, seed=seed
    )
    return {"samples": edited, "editor": editor, "root": root, "tuned": tuned, "trajectory": trajectory}
