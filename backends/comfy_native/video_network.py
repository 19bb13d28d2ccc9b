"""Which MODELs are image-to-video transformers with a mask beside the condition, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_base
import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.ldm.wan.model import WanModel

from ...methods.lora_edit.choices import HUNYUAN, HUNYUAN_15, WAN
from ...methods.lora_edit.memory import NetworkSize, hunyuan_kept, hunyuan_moments, wan_kept, wan_moments

if TYPE_CHECKING:
    from torch import nn

#: Wan's input: 16 channels of noise, 4 of mask, 16 of condition.
WAN_CHANNELS = 36
#: HunyuanVideo's kinds with one channel of mask behind those of noise and of condition: 33 of v1, 65 of 1.5.
HUNYUANS = {comfy.model_base.HunyuanVideoI2V: HUNYUAN, comfy.model_base.HunyuanVideo15: HUNYUAN_15}
#: Why no other of the host's video models can keep a region beside its noise, by the host's names for them.
WHY_NOT = {
    "HunyuanVideo": "is text-to-video, or image-to-video v2, which replaces the first frame's tokens; neither has a "
                    "mask channel that keeps a region",
    "HunyuanVideoSkyreelsI2V": "reads a picture beside its noise, and no mask that keeps a region",
    "HunyuanVideo15_SR_Distilled": "makes a finished clip larger, and reads no mask of a region",
    "WAN21_Vace": "keeps a region as it is, untrained, by its own control: see the graph vace_wan",
    "WAN21_Camera": "follows a camera's path, and has no mask that keeps a region beside it",
    "WAN21_HuMo": "follows speech and a portrait, and reads whole frames, not regions",
    "WAN21_SCAIL": "follows a pose, and reads whole pictures, not regions",
    "WAN22_Animate": "follows a pose and a face from channels of its own",
    "WAN22_S2V": "follows speech and a first frame, and has no mask that keeps a region",
    "WAN22": "(5B) holds its first frame among its own latents by their noise level, one for each whole frame, and "
             "has no mask channel",
    "LTXV": "holds frames among its own latents by their noise level, and has no channel for a mask and what it hides",
    "LTXAV": "holds frames among its own latents by their noise level, and has no channel for a mask and what it hides",
    "CosmosVideo": "has a mask without a picture of what is under it, and takes whole frames",
    "CosmosPredict2": "has a mask without a picture of what is under it, and takes whole frames",
    "CogVideoX": "reads a picture beside its noise, and no mask that keeps a region",
    "Kandinsky5": "has a mask channel, but ComfyUI leaves the picture under it empty",
    "SVD_img2vid": "reads one picture for all of its frames, and no mask",
}


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
    if family := HUNYUANS.get(type(base)):
        double = {f"double_blocks.{i}": block for i, block in enumerate(network.double_blocks)}
        single = {f"single_blocks.{i}": block for i, block in enumerate(network.single_blocks)}
        return VideoNetwork(network, family, double | single)
    kind = type(base).__name__ if network is not None else type(model).__name__
    why = next((WHY_NOT[parent.__name__] for parent in type(base).__mro__ if parent.__name__ in WHY_NOT),
               "is no image-to-video model with a mask")
    raise TypeError(f"model: {kind} {why}; load Wan 2.1 I2V, an expert of Wan 2.2 I2V, HunyuanVideo I2V v1 or "
                    "HunyuanVideo 1.5.")


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
        kept, alike = wan_kept(image > 0), len(blocks)
    else:
        width, inner = module.hidden_size, int(module.hidden_size * module.params.mlp_ratio)
        double, single = len(module.double_blocks), len(module.single_blocks)
        moments, kept, alike = hunyuan_moments(double, single), hunyuan_kept(single), single or double
    # Of HunyuanVideo 1.5 the tokens of CLIP vision run through the blocks with those of the text.
    beside = text + image if network.family == HUNYUAN_15 else text
    weights = [layer.weight for layer in network.layers.values()]
    looked_at = network.family == WAN
    return NetworkSize(
        width, inner, width // module.num_heads, len(blocks), moments, itemsize, stored_bytes(module),
        max(map(stored_bytes, blocks)),
        largest_layer=max(weight.numel() for weight in weights),
        stored_itemsize=weights[0].nbytes // weights[0].numel(),
        extra_tokens=0 if looked_at else beside, context_tokens=text + image if looked_at else 0,
        patch=tuple(module.patch_size), conditioning=conditioning, cell=16 if network.family == HUNYUAN_15 else 8,
        kept=kept, alike=alike,
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
