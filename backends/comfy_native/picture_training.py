"""FLUX and Qwen-Image opened for training: the host's own forward, and gradients for a LoRA's matrices only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch

from ...methods.lora import factors
from .joint_blocks import joint_network_of
from .training import MEMORY_RECOMPUTED, attribute_set, mode_of_weights, own_tensors, plain_attention, processed
from .training import training_dtype as dtype_of
from .video import captured, check_flow
from .video_blocks import frozen_transformer
from .video_network import VideoNetwork, check_narrow_weights

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

KEY = "steadyedit.picture_training"
#: Attention's own layers; those of FLUX's single blocks have the feed-forward's in them.
ATTENTION = ("attn.", "_attn.", "linear1", "linear2")


def picture_network(model: ModelPatcher) -> VideoNetwork:
    """The blocks of a MODEL that is FLUX or Qwen-Image, by their names in the network.

    Raises:
        TypeError: it is neither, or no flow.
    """
    network: Any = joint_network_of(model)
    if network is None:
        raise TypeError("model: this needs FLUX or Qwen-Image, with its weights in safetensors; load one of those.")
    check_flow(model)
    lists = ("transformer_blocks",) if hasattr(network, "transformer_blocks") else ("double_blocks", "single_blocks")
    return VideoNetwork(network, "pictures", {f"{name}.{i}": block for name in lists
                                              for i, block in enumerate(getattr(network, name))})  # fmt: skip


def attention_shapes(model: ModelPatcher) -> dict[str, tuple[int, int]]:
    """(out, in) of every Linear of the attentions."""
    return {name: (layer.out_features, layer.in_features) for name, layer in picture_network(model).layers.items()
            if any(part in name for part in ATTENTION)}  # fmt: skip


@dataclass
class ComfyPictureTraining:
    """``PictureTrainingView`` on the host's MODEL; the first call loads it for the size that it sees.

    Args:
        patcher: the clone that is open.
        parameters: see ``PictureTrainingView``.
        network: its blocks.
        armed: what is set on the model after it is loaded; closed by the owner.
    """

    patcher: ModelPatcher
    parameters: Mapping[str, Tensor]
    network: VideoNetwork
    armed: ExitStack
    _options: dict | None = None
    _outputs: tuple[list, ...] = ()

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        """v_theta(x_sigma, sigma, c); see ``PictureTrainingView``."""
        base, device = self.patcher.model, self.patcher.load_device
        conditions = comfy.sampler_helpers.convert_cond(own_tensors(conditioning))
        if self._options is None:
            self._options = self._opened(noisy, conditions)
        ready = processed(base, conditions, noisy, device)
        (outputs,) = self._outputs
        outputs.clear()
        sigmas = sigma.to(device).float().reshape(-1).expand(noisy.shape[0])
        comfy.samplers.calc_cond_batch(base, [ready], noisy.to(device), sigmas, self._options)
        (velocity,) = outputs
        outputs.clear()
        return velocity.to(noisy.device)

    def _opened(self, noisy: Tensor, conditions: list[dict]) -> dict:
        patcher, device = self.patcher, self.patcher.load_device
        shapes = {key: [shape] for condition in conditions
                  for key, shape in patcher.model.extra_conds_shapes(**condition).items()}  # fmt: skip
        needed = patcher.memory_required([MEMORY_RECOMPUTED * noisy.shape[0], *noisy.shape[1:]])
        needed += patcher.model.memory_required([0, *noisy.shape[1:]], cond_shapes=shapes)
        with mode_of_weights(patcher):
            comfy.model_management.load_models_gpu([patcher], memory_required=needed)
        options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
        comfy.samplers.cast_to_load_options(options, device=device, dtype=patcher.model_dtype())
        patcher.pre_run()
        inner = options.setdefault("transformer_options", {})
        inner["optimized_attention_override"] = plain_attention
        inner["sample_sigmas"] = torch.tensor([1.0, 0.0], device=device)
        self._outputs = ([],)
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        comfy.patcher_extension.add_wrapper_with_key(kind, KEY, captured(self._outputs[0]), inner)
        beside = {self.network.module.get_submodule(name): pair for name, pair in factors(self.parameters).items()}
        self.armed.enter_context(attribute_set(patcher.model, "manual_cast_dtype", dtype_of(device)))
        self.armed.enter_context(frozen_transformer(self.network, beside))
        return options


@contextmanager
def open_for_training(model: ModelPatcher, lora: Mapping[str, Tensor]) -> Iterator[ComfyPictureTraining]:
    """``Pictures.picture_training`` on the host's MODEL; see there."""
    network, patcher = picture_network(model), model.clone()
    device = patcher.load_device
    check_narrow_weights(network, device)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(attribute_set(comfy.model_management, "in_training", True))
        stack.callback(patcher.cleanup)
        armed = stack.enter_context(ExitStack())
        trained = {key: start.detach().to(device, torch.float32, copy=True).requires_grad_()
                   for key, start in lora.items()}  # fmt: skip
        yield ComfyPictureTraining(patcher, trained, network, armed)
