"""LoRA on the host's MODEL: ordinary weight patches, as the host's own loaders make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import comfy.lora

from ...methods.lora import PROJECTIONS, check_shapes
from .blocks import located, unet_of
from .joint_blocks import joint_network_of
from .picture_training import attention_shapes

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor


def shapes_of(model: ModelPatcher) -> dict[str, tuple[int, int]]:
    """``Backend.projections``."""
    if joint_network_of(model) is not None:
        return attention_shapes(model)
    found = {}
    for site, block in located(unet_of(model)):
        for name in PROJECTIONS:
            layer = block.get_submodule(name)
            found[f"{site.path}.{name}"] = (layer.out_features, layer.in_features)
    return found


def add_lora(model: ModelPatcher, weights: Mapping[str, Tensor]) -> ModelPatcher:
    """``Backend.add_lora``."""
    check_shapes(weights, shapes_of(model))
    clone = model.clone()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    clone.add_patches(comfy.lora.load_lora(dict(weights), keys))
    return clone
