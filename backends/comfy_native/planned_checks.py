"""What a plan can not do exactly, told before the model is loaded: one sentence each, with a way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import unwrap
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP

from ...methods.via.editor_clip import NOT_READ, REFERENCES
from .blocks import refuse_second_owner
from .guidance import CFG, POST, PRE
from .joint_blocks import joint_network_of
from .state import KEY

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.sampling_plan import SamplingPlan

#: Conditions that the host stretches over time where their number is not that of the frames.
IMAGES = ("concat_latent_image", "concat_mask")
#: What the host's networks call reference latents.
NAMES_OF_REFERENCES = frozenset({"ref_latents", "ref_latent", "reference_latent", "ref_images"})
#: Conditions that hang on places of a picture, which in a grid are those of another frame.
PLACES = {"area": "a region by its corners (give it as a mask instead)", "gligen": "GLIGEN boxes (remove them)"}


def check_run(guider: Any, plan: SamplingPlan, sites: frozenset[str], noise: Tensor, sampler: Any,
              sigmas: Tensor) -> None:
    """Check one run of a guider.

    Raises:
        ValueError: something in it does not go with the plan.
    """
    frames, options = noise.shape[0], guider.model_options
    if noise.ndim == 5 and noise.shape[2] > 1:
        raise ValueError(f"latent_image: holds {noise.shape[2]} frames on one time axis, as a video VAE makes of a "
                         f"batch, but {plan.name} edits pictures; encode the frames one by one and batch the latents.")
    riding = plan.reference_frames(frames)
    inner = options.get("transformer_options", {})
    for kind in plan.kinds:
        refuse_second_owner(inner.get("patches_replace", {}), kind, sites, plan.name)
    if plan.edits_prompt:
        refuse_second_owner(inner.get("patches_replace", {}), "self", sites, plan.name)
        check_prompt(getattr(guider, "conds", {}).get("positive") or (), plan.name)
    check_model(options, plan.name)
    check_guidance(options, plan.name)
    if riding:
        check_sampler(sampler, plan.name)
    if riding or plan.source is not None:
        check_sigmas(sigmas, plan.name)
    check_images(guider, frames)
    check_references(guider, guider.model_patcher)
    check_reference_latents(guider, noise)
    check_patch_pictures(inner, plan.name)
    if plan.grid > 1:
        check_patches(inner, frames, plan.name)
        for name, conditions in getattr(guider, "conds", {}).items():
            for condition in conditions:
                check_picture(name, condition, plan.name)


def check_references(guider: Any, model: Any) -> None:
    """Raise ValueError where a condition shows pictures to a network that reads no reference latents."""
    if reads_references(model.model.diffusion_model):
        return
    # Before its run a guider has none but those that it was given.
    given = getattr(guider, "conds", None) or getattr(guider, "original_conds", {})
    for name, conditions in given.items():
        if any(condition.get(REFERENCES) for condition in conditions):
            raise ValueError(NOT_READ.format(name))


def reads_references(network: Any) -> bool:
    """Whether a network looks at reference latents: whether its forward names them; of other packs' it is believed."""
    kind = type(network)
    if not kind.__module__.startswith("comfy."):
        return True
    codes = [unwrap(function).__code__ for name in ("forward", "_forward") if (function := getattr(kind, name, None))]
    return any(word in NAMES_OF_REFERENCES for code in codes for word in (*code.co_varnames, *code.co_consts))


def check_reference_latents(guider: Any, noise: Tensor) -> None:
    """Raise ValueError where the references of a transformer are other latents than pictures of its own kind."""
    if joint_network_of(guider.model_patcher) is None:
        return
    for name, conditions in getattr(guider, "conds", {}).items():
        for value in (picture for c in conditions for picture in c.get(REFERENCES) or ()):
            if value.ndim == 5 and value.shape[2] > 1:
                raise ValueError(f"{name}: holds a reference of {value.shape[2]} frames on one time axis, as a video "
                                 "VAE makes of a batch, but each frame is shown its own picture; use Editor "
                                 "Conditioning of a Clip, or encode the frames one by one and batch the latents.")
            if value.ndim != noise.ndim or value.shape[1] != noise.shape[1]:
                raise ValueError(f"{name}: holds a reference of {list(value.shape[1:])}, but this model's latents are "
                                 f"{list(noise.shape[1:])}; encode it with the model's own VAE.")


def check_patch_pictures(transformer_options: Mapping[str, Any], method: str) -> None:
    """Raise ValueError where a model patch (DiffSynth's ControlNets) holds a picture for every frame: it gives all of
    them to every call, whichever frames that is of."""
    for patch in (fn for kind in transformer_options.get("patches", {}).values() for fn in kind):
        image = getattr(patch, "image", None)
        if isinstance(image, torch.Tensor) and image.ndim == 4 and len(image) > 1:
            raise ValueError(f"model: {type(patch).__name__} holds {len(image)} pictures, of which {method} can not "
                             "give each frame its own; give it one picture for all frames, or use Apply ControlNet, "
                             "which takes one a frame.")


def check_prompt(positive: Sequence[Mapping[str, Any]], method: str) -> None:
    """Raise ValueError unless the positive condition is one prompt for all frames."""
    if len(positive) != 1:
        raise ValueError(f"positive: holds {len(positive)} conditions, but {method} edits one prompt; give it one, "
                         "without Conditioning Combine.")
    text = positive[0].get("cross_attn")
    if text is not None and text.shape[0] > 1:
        raise ValueError(f"positive: holds {text.shape[0]} prompts, one a frame, but {method} edits one prompt; give "
                         "one for all of them.")


def check_model(model_options: dict[str, Any], method: str) -> None:
    """Raise ValueError where something on the MODEL cuts the clip, or leaves steps out."""
    if model_options.get("context_handler") is not None:
        raise ValueError(f"model: has context windows, which cut the clip where {method} needs all of it; remove "
                         f"them, since {method} computes frames in chunks of its own.")
    inner = model_options.get("transformer_options", {})
    cache = next((key for key in inner if "cache" in str(key).lower()), None)
    if cache is not None:
        raise ValueError(f"model: {cache} leaves out steps by what it keeps of earlier ones, and {method} evaluates "
                         "several parts of the clip in a step; remove that node.")
    kind = WrappersMP.CALC_COND_BATCH
    held = [*inner.get("wrappers", {}).get(kind, {}).items(), *model_options.get("wrappers", {}).get(kind, {}).items()]
    foreign = next((key for key, wrappers in held if wrappers and key != KEY), None)
    if foreign is not None:
        raise ValueError(f"model: {foreign} splits or changes the batch of every step (context windows, for one), as "
                         f"{method} does; remove one of the two, since {method} computes frames in chunks of its own.")


def check_guidance(model_options: dict[str, Any], method: str) -> None:
    """Raise ValueError where a guidance reads what an attention of the same node recorded: in one call of several."""
    guiding = [*model_options.get(PRE, ()), *model_options.get(POST, ())]
    if CFG in model_options:
        guiding.append(model_options[CFG])
    replaced = model_options.get("transformer_options", {}).get("patches_replace", {})
    recording = {id(cell) for patches in replaced.values() for fn in patches.values() for cell in cells_of(fn)}
    for function in guiding:
        if any(id(cell) in recording for cell in cells_of(function)):
            name = getattr(function, "__qualname__", "a node").split(".")[0]
            raise ValueError(f"model: {name} guides by what it records in one call of the U-Net, but {method} makes "
                             "several calls of a step; remove it.")


def cells_of(function: Any) -> tuple:
    """The variables that a function closes over."""
    return getattr(function, "__closure__", None) or ()


def check_sampler(sampler: Any, method: str) -> None:
    """Raise ValueError unless every frame goes its own way through the sampler."""
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        raise ValueError(f"sampler: {type(sampler).__name__} gives no hand on its batch and its noise, which "
                         f"{method} needs; use one of KSampler's, such as euler, ddim, heun or dpmpp_2m.")
    name = getattr(sampler.sampler_function, "__name__", "")
    if "adaptive" in name:
        raise ValueError(f"sampler: {name.removesuffix('_function')} chooses its steps by the whole batch, so that "
                         "frames would depend on each other; use one with fixed steps, such as euler or dpmpp_2m.")
    if sampler.extra_options.get("noise_clip_std"):
        raise ValueError("sampler: noise_clip_std clips noise by the whole batch, so that frames would depend on each "
                         "other; set it to 0.")


def check_sigmas(sigmas: Tensor, method: str) -> None:
    """Raise ValueError where the noise levels rise."""
    rising = (sigmas[1:] > sigmas[:-1]).nonzero()
    if len(rising):
        raise ValueError(f"sigmas: rise at step {int(rising[0]) + 1}, as in an inversion, but {method} goes with "
                         f"falling ones only; invert with DDIM Inversion, or with the model from before {method}.")


def check_patches(transformer_options: Mapping[str, Any], frames: int, method: str) -> None:
    """Raise ValueError where another pack's patch of an attention holds something for every frame."""
    replaced, patches = transformer_options.get("patches_replace", {}), transformer_options.get("patches", {})
    functions = [fn for kind in replaced.values() for fn in kind.values()]
    functions += [fn for kind in patches.values() for fn in kind]
    for function in functions if frames > 1 else ():
        if any(len(tensor) == frames for tensor in tensors_of(function)):
            name = getattr(function, "__qualname__", type(function).__name__).split(".")[0]
            raise ValueError(f"model: {name} holds an image or a mask for every frame (IPAdapter, for one), but "
                             f"{method} shows the model several frames at once; give it one for all, or remove it.")


def tensors_of(held: Any, depth: int = 4) -> Iterator[Tensor]:
    """Tensors with a first dimension that an object, its containers or its closure hold."""
    if isinstance(held, torch.Tensor):
        if held.ndim > 1:
            yield held
    elif depth and isinstance(held, dict):
        for value in held.values():
            yield from tensors_of(value, depth - 1)
    elif depth and isinstance(held, (list, tuple)):
        for value in held:
            yield from tensors_of(value, depth - 1)
    elif depth and callable(held) and not isinstance(held, (type, torch.nn.Module)):
        values = [cell.cell_contents for cell in cells_of(held) if cell_is_set(cell)]
        yield from tensors_of([*values, *getattr(held, "__dict__", {}).values()], depth - 1)


def cell_is_set(cell: Any) -> bool:
    """Whether a variable of a closure has a value."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def check_picture(name: str, condition: dict[str, Any], method: str) -> None:
    """Raise ValueError where a condition is for one frame, or for a place in it."""
    text = condition.get("cross_attn")
    if text is not None and text.shape[0] > 1:
        raise ValueError(f"{name}: holds {text.shape[0]} prompts, one a frame, but {method} shows the model several "
                         "frames at once; give one prompt for all of them.")
    for key, what in PLACES.items():
        if condition.get(key) is not None:
            raise ValueError(f"{name}: holds {what}, but {method} puts frames at other places of a larger picture; "
                             "take it out of the conditioning.")
    control = condition.get("control")
    while control is not None:
        if not hasattr(control, "cond_hint_original"):
            raise ValueError(f"{name}: its {type(control).__name__} gives no hand on its hints, which {method} lays "
                             "out with the frames; use a ControlNet of the core nodes.")
        if hasattr(control, "sub_idxs"):
            raise ValueError(f"{name}: its {type(control).__name__} may have strengths or masks of its own for each "
                             f"frame, but {method} shows the model several frames at once; use a ControlNet of the "
                             "core nodes.")
        control = getattr(control, "previous_controlnet", None)


def check_images(guider: Any, frames: int) -> None:
    """Raise ValueError where an instruction editor has no image, or an image condition other frames than the clip."""
    conds = getattr(guider, "conds", {})
    for name, conditions in conds.items():
        for value in (c.get(key) for c in conditions for key in IMAGES):
            if value is not None and value.shape[0] not in (1, frames):
                raise ValueError(f"{name}: holds an image condition of {value.shape[0]} frames, but the clip has "
                                 f"{frames}; give one image for all of them or {frames}.")
        for value in (picture for c in conditions for picture in c.get("reference_latents") or ()):
            if value.shape[0] not in (1, frames):
                raise ValueError(f"{name}: holds references of {value.shape[0]} frames, but the clip has {frames}; "
                                 f"give each frame its own, {frames} in a batch, or one for all of them.")
    images = any(c.get("concat_latent_image") is not None for conditions in conds.values() for c in conditions)
    if isinstance(guider.model_patcher.model, comfy.model_base.IP2P) and not images:
        raise ValueError("positive: holds no image, but this model edits an image by instruction; connect "
                         "InstructPixToPixConditioning with the clip.")
