"""A GUIDER of the host for clips that are edited in windows: copies of it, what decides its result, its run."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from torch.overrides import TorchFunctionMode

from ...methods.via.editor_clip import FrameMaker
from .. import fingerprint
from . import identity
from .hint_pictures import PictureByPicture
from .joint_blocks import joint_network_of
from .patcher import state_of
from .planned_checks import cells_of, check_patch_pictures, check_references, check_sampler
from .row_noise import IN_PLACE, LIKE, SIZED
from .state import KEY

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

WHAT = "an edit in windows"
#: What the host makes anew for every run, and what is told elsewhere.
PASSING = frozenset({"uuid", "model_conds"})
DEEPEST = 12


def model_of(guider: Any) -> ModelPatcher:
    """``Guiding.guider_model``."""
    if not hasattr(guider, "model_patcher") or not hasattr(guider, "original_conds"):
        raise TypeError(f"guider: expected a GUIDER such as CFGGuider's, but got {type(guider).__name__}.")
    return guider.model_patcher


def conditions_of(guider: Any) -> dict[str, list[Mapping[str, Any]]]:
    """``Guiding.guider_conditions``."""
    return {name: [{k: v for k, v in c.items() if k not in PASSING} for c in entries]
            for name, entries in guider.original_conds.items()}  # fmt: skip


def changed(guider: Any, model: ModelPatcher, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """``Guiding.changed_guider``."""
    there = copy.copy(guider)
    there.model_patcher, there.model_options = model, model.model_options
    there.original_conds = {name: [change(c) for c in entries] for name, entries in guider.original_conds.items()}
    return there


def check(guider: Any, sampler: Any) -> None:
    """``Guiding.check_guided``."""
    model = model_of(guider)
    if is_video_format(model):
        raise ValueError("guider: its model is one of whole clips, in which frames depend on each other, so that it "
                         "cannot be edited in windows; edit as many frames as it takes in a graph of single nodes.")
    check_context_windows(model)
    inner = model.model_options.get("transformer_options", {})
    cache = next((key for key in inner if "cache" in str(key).lower()), None)
    if cache is not None:
        raise ValueError(f"guider: {cache} on its model leaves out steps by a measure of the whole batch, which "
                         "differs by window; remove that node.")
    check_references(guider, model)
    check_patch_pictures(inner, WHAT)
    check_sampler(sampler, WHAT)


def check_context_windows(model: ModelPatcher) -> None:
    """Raise ValueError where the host would cut into windows what is a window already."""
    if model.model_options.get("context_handler") is not None:
        raise ValueError("guider: its model has context windows, which cut the clip as this node does; remove them.")


def identity_of(guider: Any, sampler: Any, vae: Any) -> Any:
    """``Guiding.guided_identity``."""
    model = model_of(guider)
    try:
        settings = {key: plain(value) for key, value in vars(guider).items()
                    if key not in ("model_patcher", "model_options", "original_conds")}  # fmt: skip
        options = {key: value for key, value in model.model_options.items() if key != "transformer_options"}
        inner = {key: value for key, value in model.model_options.get("transformer_options", {}).items() if key != KEY}
        attached = [[a.method, plain(dict(a.config)), sorted(a.sites), [weights_of(tree) for tree in a.trees]]
                    for a in state_of(model).attachments]  # fmt: skip
        return [
            type(guider).__qualname__, settings, identity.of_model(model), attached,
            plain(without_ours(options)), plain(without_ours(inner)),
            {name: plain(entries) for name, entries in conditions_of(guider).items()},
            [plain(sampler.sampler_function), plain(sampler.extra_options), plain(sampler.inpaint_options)],
            weights_of(vae.first_stage_model), comfy.model_management.get_torch_device_name(model.load_device),
        ]  # fmt: skip
    except (TypeError, AttributeError, RecursionError):
        return None


def without_ours(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a MODEL without the wrappers of this pack, which its attachments stand for."""
    wrappers = {kind: {key: held for key, held in by_key.items() if held and not str(key).startswith(KEY)}
                for kind, by_key in options.get("wrappers", {}).items()}  # fmt: skip
    found = {kind: by_key for kind, by_key in wrappers.items() if by_key}
    rest = {key: value for key, value in options.items() if key != "wrappers"}
    return {**rest, "wrappers": found} if found else rest


def weights_of(network: torch.nn.Module) -> str:
    """A name of a network's weights."""
    return fingerprint.of_tensors(network.state_dict().values())


def plain(value: Any, depth: int = 0) -> Any:
    """Values of the host as nested lists, mappings, tensors and words.

    Raises:
        TypeError: there is something in it whose content can not be told.
    """
    if depth > DEEPEST:
        raise TypeError("nested too deep")
    if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)):
        return value
    if isinstance(value, (torch.device, torch.dtype)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(held, depth + 1) for key, held in value.items() if key not in PASSING}
    if isinstance(value, (list, tuple)):
        return [plain(held, depth + 1) for held in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(plain(held, depth + 1)) for held in value)
    if isinstance(value, torch.nn.Module):
        return [type(value).__qualname__, weights_of(value)]
    if isinstance(value, MethodType):
        return [value.__func__.__qualname__, plain(value.__self__, depth + 1)]
    if isinstance(value, FunctionType):
        value = inspect.unwrap(value)  # decorators, such as torch.no_grad's, hold nothing of it
        return [value.__module__, value.__qualname__, value.__code__.co_code.hex(),
                [plain(cell.cell_contents, depth + 1) for cell in cells_of(value)]]  # fmt: skip
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "control_model"):
        return control(value, depth)
    if isinstance(value, FrameMaker):
        return plain(value.content(), depth + 1)
    raise TypeError(f"no content to tell in a {type(value).__name__}")


def control(held: Any, depth: int) -> Any:
    """A ControlNet in a condition, with those before it."""
    previous = getattr(held, "previous_controlnet", None)
    names = ("strength", "timestep_percent_range", "global_average_pooling", "strength_type", "multi_time_range")
    return [type(held).__qualname__, weights_of(held.control_model), plain(held.cond_hint_original, depth + 1),
            {name: plain(getattr(held, name, None), depth + 1) for name in names},
            plain(getattr(held, "extra_concat_orig", None), depth + 1),
            None if previous is None else plain(previous, depth + 1)]  # fmt: skip


def identity_of_control(control_net: Any) -> Any:
    """``Guiding.control_identity``."""
    try:
        return plain(control_net)
    except (TypeError, AttributeError):
        return None


def hinted(condition: Mapping[str, Any], control_net: Any, hints: Tensor, strength: float, span: tuple[float, float],
           vae: Any, made: dict[Any, Any]) -> dict[str, Any]:  # fmt: skip
    """``Guiding.hinted``, as the host's ControlNetApplyAdvanced does it."""
    before = condition.get("control")
    if before not in made:
        made[before] = control_net.copy().set_cond_hint(hints.movedim(-1, 1), strength, span,
                                                             vae=None if vae is None else PictureByPicture(vae))
        made[before].set_previous_controlnet(before)
    return {**condition, "control": made[before], "control_apply_to_uncond": False}


class NoDraws(TorchFunctionMode):
    """While entered, a random draw of one row a frame is refused: its numbers would hang on the window."""

    def __init__(self, rows: int, sampler: Any) -> None:
        self.rows, self.name = rows, getattr(sampler.sampler_function, "__name__", "the sampler")
        super().__init__()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in SIZED or func in LIKE or func in IN_PLACE:
            size = kwargs.get("size") or (args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args)
            shape = tuple(size) if func in SIZED else tuple(args[0].shape)
            if len(shape) > 2 and shape[0] >= self.rows:
                raise ValueError(f"sampler: {self.name.removeprefix('sample_')} draws new noise on its way, which "
                                 "would differ by window; use one that draws none, such as euler or dpmpp_2m.")
        return func(*args, **kwargs)


def run(guider: Any, noise: Tensor, samples: Tensor, sampler: Any, sigmas: Tensor, seed: int,
        step: Callable[[int], None]) -> Tensor:  # fmt: skip
    """``Guiding.guided``."""
    check_context_windows(model_of(guider))

    def callback(index: int, denoised: Tensor, x: Tensor, total: int) -> None:
        step(index + 1)

    with NoDraws(len(samples), sampler):
        # A copy: on a CPU uni_pc overwrites the last of the noise levels that it is given.
        done = guider.sample(noise, samples, sampler, sigmas.clone(), callback=callback,
                             disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed)
    return done.to(comfy.model_management.intermediate_device())


def is_video_format(model: ModelPatcher) -> bool:
    """Whether a model's latents are whole clips. Qwen-Image's have the form, and hold one picture."""
    video = getattr(model.get_model_object("latent_format"), "latent_dimensions", 2) != 2
    return video and joint_network_of(model) is None


def encoded(model: ModelPatcher, vae: Any, images: Tensor) -> Tensor:
    """``Guiding.encoded``."""
    if getattr(vae, "latent_dim", 2) == 2:
        return vae.encode(images[..., :3])
    if joint_network_of(model) is None:
        raise ValueError("vae: is one of whole clips, in which frames depend on each other; use that of an image "
                         "model.")
    return torch.cat([vae.encode(image[..., :3]) for image in images.split(1)])


def decoded(vae: Any, samples: Tensor) -> Tensor:
    """``Guiding.decoded``."""
    images = vae.decode(samples).float().cpu()
    return images.flatten(0, 1) if images.ndim == 5 else images
