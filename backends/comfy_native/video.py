"""A video MODEL opened for training: the host's own forward, and gradients for a LoRA's matrices only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch

from ...methods.lora import check_shapes, factors, same_lora
from . import video_network
from .training import attribute_set, mode_of_weights, own_tensors, plain_attention, processed, training_dtype
from .video_blocks import frozen_transformer
from .video_network import check_narrow_weights, layer_shapes, network_of

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

    from ...methods.lora_edit.memory import MemoryPlan, NetworkSize
    from ...methods.lora_edit.samples import Sample

KEY = "steadyedit.video_training"


def captured(found: list) -> Any:
    """A wrapper that keeps what the network itself gives: the velocity, before the host makes it an x_0."""

    def run(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        found.append(out)
        return out

    return run


@dataclass
class ComfyVideoTraining:
    """``VideoTrainingView`` on the host's MODEL.

    Args:
        patcher: the clone that is open, loaded.
        parameters: see ``VideoTrainingView``.
        conditions: every sample's CONDITIONING in the host's inner form.
        options: the model options of a call.
    """

    patcher: ModelPatcher
    parameters: Mapping[str, Tensor]
    conditions: list[list[dict]]
    options: dict
    outputs: list
    _ready: dict[int, list[dict]] = field(default_factory=dict)

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, sample: int) -> Tensor:
        """v_theta(x_sigma, sigma, c); see ``VideoTrainingView``."""
        base, device = self.patcher.model, self.patcher.load_device
        if sample not in self._ready:
            self._ready[sample] = processed(base, self.conditions[sample], noisy, device)
        self.options["transformer_options"]["sample_sigmas"] = torch.tensor([1.0, 0.0], device=device)
        self.outputs.clear()
        sigmas = sigma.to(device).float().reshape(1).expand(noisy.shape[0])
        comfy.samplers.calc_cond_batch(base, [self._ready[sample]], noisy.to(device), sigmas, self.options)
        (velocity,) = self.outputs
        self.outputs.clear()
        return velocity.to(noisy.device)


def check_flow(model: ModelPatcher) -> None:
    """Raise TypeError unless the MODEL predicts a velocity."""
    if not isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
        raise TypeError("model: its sampling is patched to something else than a flow; remove that patch.")


def check_conditions(samples: Sequence[Sample]) -> None:
    """Raise ValueError for what training cannot use: ControlNets, hooks and areas in a CONDITIONING."""
    for sample in samples:
        for _, extra in sample.conditioning:
            if found := {"control", "hooks", "area", "mask", "gligen"} & {k for k, v in extra.items() if v is not None}:
                raise ValueError(f"samples: the conditioning of {sample.label} has {', '.join(sorted(found))}, which "
                                 "training does not take; give the plain prompt.")


def add_lora(model: ModelPatcher, weights: Mapping[str, Tensor]) -> ModelPatcher:
    """A clone with a LoRA as ordinary weight patches, as the host's own loaders make them.

    Raises:
        ValueError: the LoRA was made for another model.
    """
    check_shapes(weights, layer_shapes(network_of(model)))
    clone = model.clone()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    clone.add_patches(comfy.lora.load_lora(dict(weights), keys))
    return clone


def carries(model: ModelPatcher, lora: Mapping[str, Tensor]) -> bool:
    """``VideoBackend.has_video_lora``: by this pack or by any of the host's loaders."""
    for name, (down, up) in factors(lora).items():
        for patch in model.patches.get(f"diffusion_model.{name}.weight", ()):
            # (up, down, alpha, ...), as the host's adapter has them.
            found = [w for w in getattr(patch[1], "weights", ()) if isinstance(w, torch.Tensor)][:2]
            if len(found) == 2 and same_lora((found[1], found[0]), (down, up)):
                return True
    return False


@contextmanager
def open_for_training(
    model: ModelPatcher, samples: Sequence[Sample], lora: Mapping[str, Tensor], plan: MemoryPlan, precision: str,
) -> Iterator[ComfyVideoTraining]:
    """``VideoBackend.video_training`` on the host's MODEL; see there."""
    network = network_of(model)
    check_flow(model)
    check_conditions(samples)
    device = model.load_device
    check_narrow_weights(network, device)
    patcher = model.clone()
    outputs: list[Any] = []
    dtype = precise(precision, device)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(attribute_set(comfy.model_management, "in_training", True))
        stack.callback(patcher.cleanup)
        with mode_of_weights(patcher):
            load(patcher, plan)
        options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
        comfy.samplers.cast_to_load_options(options, device=device, dtype=patcher.model_dtype())
        patcher.pre_run()
        inner = options.setdefault("transformer_options", {})
        inner["optimized_attention_override"] = plain_attention
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        comfy.patcher_extension.add_wrapper_with_key(kind, KEY, captured(outputs), inner)
        trained = {key: start.detach().to(device, torch.float32, copy=True).requires_grad_()
                   for key, start in lora.items()}  # fmt: skip
        beside = {network.module.get_submodule(name): pair for name, pair in factors(trained).items()}
        stack.enter_context(attribute_set(patcher.model, "manual_cast_dtype", dtype))
        stack.enter_context(frozen_transformer(network, beside, plan.offloaded, plan.whole))
        conditions = [comfy.sampler_helpers.convert_cond(own_tensors(sample.conditioning)) for sample in samples]
        yield ComfyVideoTraining(patcher, trained, conditions, options, outputs)


def precise(precision: str, device: torch.device) -> torch.dtype:
    """What is computed with."""
    return torch.float32 if precision == "float32" else training_dtype(device)


def size_of(model: ModelPatcher, sample: Sample, precision: str) -> NetworkSize:
    """``VideoBackend.video_size`` on the host's MODEL."""
    embedding, extra = sample.conditioning[0]
    seen = getattr(extra.get("clip_vision_output"), "penultimate_hidden_states", None)
    image = 0 if seen is None else seen.shape[1]
    itemsize = precise(precision, model.load_device).itemsize
    # The host keeps a sample's own and one that it has processed.
    small = extra.get("conditioning_byt5small")
    text = embedding.shape[1] + (0 if small is None else small.shape[1])
    return video_network.size_of(video_network.network_of(model), text, image, itemsize,
                                 conditioning=2 * embedding.nbytes)


def free_bytes(model: ModelPatcher) -> int:
    """What the device can give to this MODEL and its training, with every other model off it."""
    device = model.load_device
    # The host's list keeps models whose MODEL is gone while something still holds the network: they say no size.
    loaded = sum(other.model_loaded_memory() for other in comfy.model_management.current_loaded_models
                 if other.model is not None and other.device == device and device.type != "cpu")  # fmt: skip
    return comfy.model_management.get_free_memory(device) + loaded


def load(patcher: ModelPatcher, plan: MemoryPlan) -> None:
    """Bring the MODEL onto the device beside what training needs; what does not fit is streamed by the host.

    Everything else, the encoders above all, makes room.
    """
    device, needed = patcher.load_device, plan.beside_weights
    if device.type != "cpu":
        models = comfy.model_management.current_loaded_models
        comfy.model_management.free_memory(1e30, device, [m for m in models if m.model and m.model.is_clone(patcher)])
        if plan.kept_weights is not None:
            # The host fills what is left with blocks: leave it no more than the ones that were asked for.
            needed = max(needed, free_bytes(patcher) - plan.kept_weights)
    comfy.model_management.load_models_gpu([patcher], memory_required=needed, minimum_memory_required=needed)
