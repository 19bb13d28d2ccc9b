"""Attached weights where the host shares the conditions of a step out among several devices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy.model_patcher import ModelPatcher

from .state import DEVICES, KEY, attached_to

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

#: Where the host has a MODEL for each device of a run.
CLONES = "multigpu_clones"


def managed(tree: nn.Module, load_device: torch.device, offload_device: torch.device) -> ModelPatcher:
    """Weights under the host's own memory management: counted, loaded with the MODEL and taken off the device with it.

    For each device more the host asks for a copy of their own, as it does of a loader's MODEL.
    """
    found = ModelPatcher(tree, load_device, offload_device)
    found.cached_patcher_init = (lambda: managed(copy.deepcopy(tree), load_device, offload_device), ())
    return found


def weights_by_device(executor: Callable, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *args: Any,
                 **kwargs: Any) -> Tensor:  # fmt: skip
    """``WrappersMP.SAMPLER_SAMPLE``: a device beside the first computes with the copies that the host made for it.

    The host works on them in threads: one set of weights could not be on two devices at once.
    """
    options = extra_args["model_options"]
    inner = options["transformer_options"]
    state, clones = attached_to(inner), options.get(CLONES, {})
    others = {device: clone for device, clone in clones.items() if clone is not guider.model_patcher}
    if others:
        found = {
            device: replace(state, attachments=tuple(
                a.with_trees([part.model for part in clone.get_additional_models_with_key(f"{KEY}.{a.method}")])
                for a in state.attachments))
            for device, clone in others.items()
        }  # fmt: skip
        extra_args = {**extra_args, "model_options": {**options, "transformer_options": {**inner, DEVICES: found}}}
    return executor(guider, sigmas, extra_args, *args, **kwargs)


def on_device_of(module: nn.Module, z: Tensor) -> nn.Module:
    """The module, where its input is: short of memory, the host leaves models that are not its own layers where
    they rested."""
    first = next(module.parameters(), None)
    if first is not None and first.device != z.device:
        module.to(z.device)
    return module
