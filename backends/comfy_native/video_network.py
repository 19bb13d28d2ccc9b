"""Which MODELs are image-to-video transformers with a mask beside the condition, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_base
import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.ldm.wan.model import WanModel

from ...methods.lora_edit.choices import HUNYUAN, WAN
from ...methods.lora_edit.memory import NetworkSize, hunyuan_moments, wan_moments

if TYPE_CHECKING:
    from torch import nn

#: Wan's input: 16 channels of noise, 4 of mask, 16 of condition.
WAN_CHANNELS = 36


@dataclass(frozen=True)
class VideoNetwork:
    """A transformer that reads a mask.

    Args:
        module: the host's network.
        family: see ``methods.lora_edit.choices.FAMILIES``; "pictures" of an image model.
        blocks: its transformer blocks by name, in the order of the forward pass.
    """

    module: nn.Module
    family: str
    blocks: dict[str, nn.Module]

    @property
    def layers(self) -> dict[str, nn.Module]:
        """Every Linear of the blocks by its name in the network."""
        return {
            f"{name}.{inner}": layer
            for name, block in self.blocks.items()
            for inner, layer in block.named_modules()
            if hasattr(layer, "in_features") and getattr(layer, "weight", None) is not None
        }


    @property
    def in_place(self) -> bool:
        """Whether its blocks add to their input in place: HunyuanVideo's are FLUX's own."""
        return any(isinstance(block, (DoubleStreamBlock, SingleStreamBlock)) for block in self.blocks.values())


def network_of(model: Any) -> VideoNetwork:
    """The transformer inside a MODEL.

    Raises:
        TypeError: no image-to-video model, one without a mask, or one loaded in a way that hides its weights.
    """
    base = getattr(model, "model", None)
    network: Any = getattr(base, "diffusion_model", None)
    _refuse_gguf(model, network)
    # By the exact kinds: their relatives (VACE, Animate, Fun Control ...) read other channels beside the noise.
    if type(base) is comfy.model_base.WAN21 and type(network) is WanModel:
        channels = network.patch_embedding.weight.shape[1]
        if channels != WAN_CHANNELS:
            raise TypeError(f"model: a Wan model with {channels} input channels has no mask of its own; load a Wan "
                            f"image-to-video model ({WAN_CHANNELS} channels), such as Wan2.1-I2V-14B-480P.")
        return VideoNetwork(network, WAN, {f"blocks.{i}": block for i, block in enumerate(network.blocks)})
    if type(base) is comfy.model_base.HunyuanVideoI2V:
        double = {f"double_blocks.{i}": block for i, block in enumerate(network.double_blocks)}
        single = {f"single_blocks.{i}": block for i, block in enumerate(network.single_blocks)}
        return VideoNetwork(network, HUNYUAN, double | single)
    if isinstance(network, HunyuanVideo):
        raise TypeError("model: this HunyuanVideo (text-to-video, image-to-video v2 or 1.5) has no mask channel that "
                        "keeps a region; load HunyuanVideo I2V v1 (33 input channels).")
    kind = type(base).__name__ if network is not None else type(model).__name__
    raise TypeError(f"model: {kind} is no image-to-video model with a mask; load Wan 2.1 I2V, an expert of Wan 2.2 "
                    "I2V, or HunyuanVideo I2V v1.")


def is_video(model: Any) -> bool:
    """Whether a MODEL holds a video transformer, with a mask or without."""
    return isinstance(getattr(getattr(model, "model", None), "diffusion_model", None), (WanModel, HunyuanVideo))


def _refuse_gguf(model: Any, network: Any) -> None:
    """Raise TypeError for weights that only a GGUF pack's own layers can read."""
    layers = network.modules() if network is not None else ()
    kinds = (*type(model).__mro__, *(kind for layer in layers for kind in type(layer).__mro__))
    if any("gguf" in f"{kind.__module__}.{kind.__name__}".lower() or "GGML" in kind.__name__ for kind in kinds):
        raise TypeError("model: was loaded from a GGUF file, whose weights only run forwards; load the model's "
                        "safetensors (bf16, fp16 or fp8) by the core Load Diffusion Model.")


def layer_shapes(network: VideoNetwork) -> dict[str, tuple[int, int]]:
    """(out, in) of every Linear of the blocks."""
    return {name: (layer.out_features, layer.in_features) for name, layer in network.layers.items()}


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights as they are stored."""
    # Not by the elements: a quantised weight tells the width of what it stands for.
    return sum(p.nbytes for p in module.parameters())


def size_of(network: VideoNetwork, text: int, image: int, itemsize: int, conditioning: int) -> NetworkSize:
    """What decides the memory of training this network.

    Args:
        text, image: tokens of the prompt and of CLIP vision.
        itemsize: bytes of a value that is computed with.
        conditioning: bytes of what conditions a sample.
    """
    blocks, module = list(network.blocks.values()), network.module
    if network.family == WAN:
        width, inner, moments = module.dim, module.ffn_dim, wan_moments(len(blocks), image > 0)
    else:
        width, inner = module.hidden_size, int(module.hidden_size * module.params.mlp_ratio)
        moments = hunyuan_moments(len(module.double_blocks), len(module.single_blocks))
    weights = [layer.weight for layer in network.layers.values()]
    looked_at = network.family == WAN
    return NetworkSize(
        width, inner, width // module.num_heads, len(blocks), moments, itemsize, stored_bytes(module),
        max(map(stored_bytes, blocks)),
        largest_layer=max(weight.numel() for weight in weights),
        stored_itemsize=weights[0].nbytes // weights[0].numel(),
        extra_tokens=0 if looked_at else text, context_tokens=text + image if looked_at else 0,
        patch=tuple(module.patch_size), conditioning=conditioning,
    )  # fmt: skip


def check_narrow_weights(network: VideoNetwork, device: torch.device) -> None:
    """Raise ValueError where weights are stored in fp8 and the device cannot read it."""
    stored = {getattr(layer.weight, "storage_dtype", layer.weight.dtype) for layer in network.layers.values()}
    for dtype in (dtype for dtype in stored if dtype.is_floating_point and dtype.itemsize == 1):
        try:
            torch.zeros(1, dtype=dtype, device=device).float()
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"model: its weights are {str(dtype).removeprefix('torch.')}, which {device.type} cannot "
                             "read; load the model with weight_dtype default (bf16 or fp16).") from error
