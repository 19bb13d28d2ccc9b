"""A MODEL opened for training: the host's own forward, gradients for the trained tensors only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch
import torch.nn.functional as F

from ...methods.attachment import Attachment, module_parameters
from ...methods.lora import factors
from .blocks import located, unet_of
from .frozen_layers import frozen_layers
from .norms import adjusted
from .patcher import state_of, with_state
from .runtime import check_fit
from .state import KEY, Attached

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

#: Against one sampling call the host's memory estimate counts so many times the frames: kept activations, and the
#: few that stay when blocks are computed again.
MEMORY_KEPT, MEMORY_RECOMPUTED = 6, 2

AFTER_SKIP = "input_block_patch_after_skip"


def own_tensors(value: Any) -> Any:
    """A copy of nested dicts and lists in which every tensor is an ordinary one: inference tensors cannot be
    saved for backward. Everything else is shared."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: own_tensors(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(own_tensors(v) for v in value)
    return value


def plain_attention(func, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, **kwargs):
    """softmax(QK^T / sqrt d) V by PyTorch: the host may run an attention without backward (sage, int8)."""
    batch = q.shape[0]
    if not skip_reshape:
        q, k, v = (t.reshape(batch, t.shape[1], heads, -1).transpose(1, 2) for t in (q, k, v))
    while mask is not None and mask.ndim < 4:
        mask = mask.unsqueeze(0) if mask.ndim == 2 else mask.unsqueeze(1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def apart_from_skip(h: Tensor, options: dict) -> Tensor:
    """What goes down, apart from what waits as a skip: a ControlNet is added to the latter in place, after the
    layers below have kept the former for backward."""
    return h.clone()


@dataclass
class ComfyTraining:
    """``TrainingView`` on the host's MODEL; the first call loads the model for the size that it sees.

    Args:
        patcher: the clone that is open.
        parameters: see ``TrainingView``.
        deltas: trained differences by the layer that they go beside, see ``frozen_layers``.
        conditions: the CONDITIONING in the host's inner form.
        memory: see ``MEMORY_KEPT``.
        armed: what is set on the model after it is loaded; closed by the owner.
    """

    patcher: ModelPatcher
    parameters: Mapping[str, Tensor]
    deltas: Mapping[torch.nn.Module, tuple[Tensor, ...]]
    conditions: list[dict]
    memory: int
    armed: ExitStack
    _ready: tuple = ()
    _shape: torch.Size | None = None

    def predict_noise(self, noisy: Tensor, timestep: Tensor, conditioning: Any = None) -> Tensor:
        """epsilon_theta(x_t, t, c) through the host's own road, from x_t in variance-preserving scale.

        The host works in sigma space: x = x_t sqrt(1 + sigma^2), eps = (x - denoised) / sigma.

        Args:
            noisy: [frames, channels, h, w].
            timestep: integer index, shape [] or [frames].
            conditioning: see ``TrainingView``.
        """
        base, conditions, ready, options = self._prepared(noisy)
        device = self.patcher.load_device
        if conditioning is not None:
            changed = comfy.sampler_helpers.convert_cond(conditioning)
            both = [{**old, **new} for old, new in zip(conditions, changed, strict=True)]
            ready = processed(base, both, noisy, device)
        sigma = base.model_sampling.sigma(timestep.to(device).float())
        wide = sigma.reshape(-1, *[1] * (noisy.ndim - 1))
        x = noisy.to(device) * (1 + wide**2).sqrt()
        options["transformer_options"]["sample_sigmas"] = torch.stack((sigma.max(), torch.zeros_like(sigma.max())))
        (denoised,) = comfy.samplers.calc_cond_batch(base, [ready], x, sigma.expand(x.shape[0]), options)
        return ((x - denoised) / wide).to(noisy.device)

    def _prepared(self, noisy: Tensor) -> tuple:
        if noisy.shape != self._shape:
            # Loading writes flags onto the layers: they must be as the host left them, and the freezing comes after.
            self.armed.close()
            self._shape = None
            self._ready = self._prepare(noisy)
            base, dtype = self._ready[0], training_dtype(self.patcher.load_device)
            self.armed.enter_context(attribute_set(base, "manual_cast_dtype", dtype))
            unet, state = base.diffusion_model, state_of(self.patcher)
            replaced = {unet.get_submodule(path): module for path, module in state.norms.items()}
            instead = {layer: adjusted(layer, module, True, lambda: state.call.get("branches", 1))
                       for layer, module in replaced.items()}  # fmt: skip
            self.armed.enter_context(frozen_layers(unet, self.deltas, instead))
            self._shape = noisy.shape
        return self._ready

    def _prepare(self, noisy: Tensor) -> tuple:
        """What ``CFGGuider`` does before its sampler: hooks, loading, conditions for this size."""
        patcher, device = self.patcher, self.patcher.load_device
        options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
        conditions = {"positive": [dict(c) for c in self.conditions]}
        comfy.samplers.preprocess_conds_hooks(conditions)
        comfy.sampler_helpers.prepare_model_patcher(patcher, conditions, options)
        comfy.samplers.filter_registered_hooks_on_conds(conditions, options)
        shape = [noisy.shape[0] * self.memory, *noisy.shape[1:]]
        with mode_of_weights(patcher):
            base, conditions, others = comfy.sampler_helpers.prepare_sampling(patcher, shape, conditions, options)
        # ControlNets keep the picture of their last size until they are told that the run is over.
        self.armed.callback(comfy.sampler_helpers.cleanup_models, conditions, others)
        comfy.samplers.cast_to_load_options(options, device=device, dtype=patcher.model_dtype())
        patcher.pre_run()
        inner = options["transformer_options"]
        inner["optimized_attention_override"] = plain_attention
        if any("control" in condition for condition in conditions["positive"]):
            patches = inner.setdefault("patches", {})
            patches[AFTER_SKIP] = [*patches.get(AFTER_SKIP, ()), apart_from_skip]
        conditions = conditions["positive"]
        return base, conditions, processed(base, conditions, noisy, device), options


def processed(base: Any, conditions: list[dict], noisy: Tensor, device: torch.device) -> list[dict]:
    """Conditions for the noisy frames' size, as the U-Net takes them."""
    # A copy: the host writes the size's areas and masks into the dicts.
    fresh = {"positive": [dict(condition) for condition in conditions]}
    positive = comfy.samplers.process_conds(base, noisy.to(device), fresh, device)["positive"]
    for condition in positive:
        for value in condition.get("model_conds", {}).values():
            value.cond = own_tensors(value.cond)
    return positive


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it (gradients keep float32's range), else float32."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def query_deltas(unet: Any, attachments: Iterable[Attachment], device: torch.device) -> dict[str, tuple]:
    """Zero differences, float32, of the projections that the attachments tune: key -> (layer, (difference,))."""
    wanted: dict[str, set[str]] = {}
    for attachment in attachments:
        for path in attachment.sites:
            wanted.setdefault(path, set()).update(attachment.queries)
    found = {}
    for site, block in located(unet):
        for name in sorted(wanted.get(site.path, ())):
            layer = block.get_submodule(name)
            shape = (layer.out_features, layer.in_features)
            delta = torch.zeros(shape, dtype=torch.float32, device=device, requires_grad=True)
            found[f"queries.{site.path}.{name}.weight"] = (layer, (delta,))
    return found


def low_rank(unet: Any, lora: Mapping[str, Tensor]) -> dict[torch.nn.Module, tuple[Tensor, Tensor]]:
    """(A, B) by the projection that they go beside."""
    return {unet.get_submodule(name): pair for name, pair in factors(lora).items()}


@contextmanager
def mode_of_weights(patcher: ModelPatcher) -> Iterator[None]:
    """Inside the ``with``, the mode in which the MODEL's weights were made: a host's prompts run in inference mode.

    A MODEL is loaded in it. Loaded outside, the host's quantised weights would become ordinary tensors around inference
    tensors, which the next load with another patch cannot take ("Cannot set version_counter for inference tensor").
    """
    with torch.inference_mode(any(p.is_inference() for p in patcher.model.parameters())):
        yield


@contextmanager
def attribute_set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute with another value inside the ``with``, where the owner has it."""
    if not hasattr(owner, name):
        yield
        return
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def modules_on(attachments: Iterable[Attachment], device: torch.device, home: torch.device) -> Iterator[None]:
    """The attached modules on the device that trains; afterwards where the host keeps models that rest."""
    trees = [tree for a in attachments for tree in a.trees]
    try:
        for tree in trees:
            tree.to(device)
        yield
    finally:
        for tree in trees:
            tree.to(home)


@contextmanager
def open_for_training(
    model: ModelPatcher, attachments: Iterable[Attachment], conditioning: Any, frames: int, queries: bool,
    checkpointing: bool, lora: Mapping[str, Tensor],
) -> Iterator[ComfyTraining]:
    """``Backend.training`` on the host's MODEL; see there."""
    attachments, unet = tuple(attachments), unet_of(model)
    for embedding, _ in conditioning:
        check_fit("conditioning", embedding, frames)
    state = Attached(attachments, training=True, recompute_all=checkpointing)
    patcher = with_state(model, state)
    for key in [key for key in patcher.additional_models if key.startswith(KEY)]:
        patcher.remove_additional_models(key)
    device = patcher.load_device
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(attribute_set(comfy.model_management, "in_training", True))
        stack.enter_context(modules_on(attachments, device, patcher.offload_device))
        armed = stack.enter_context(ExitStack())
        deltas = query_deltas(unet, attachments, device) if queries else {}
        trained = {key: start.detach().to(device, copy=True).requires_grad_() for key, start in lora.items()}
        parameters = module_parameters(attachments) | {key: delta for key, (_, (delta,)) in deltas.items()} | trained
        beside = {**dict(deltas.values()), **low_rank(unet, trained)}
        conditions = comfy.sampler_helpers.convert_cond(own_tensors(conditioning))
        memory = MEMORY_RECOMPUTED if checkpointing else MEMORY_KEPT
        try:
            yield ComfyTraining(patcher, parameters, beside, conditions, memory, armed)
        finally:
            patcher.model_options["transformer_options"].pop(KEY, None)
            patcher.cleanup()
