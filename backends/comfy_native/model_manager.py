"""``backends.model_manager`` on ComfyUI: its memory management loads, counts and frees these networks like its own."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from torch import nn

#: Tuned weights' folder below the host's models.
FOLDER = "steadyedit"


def model_folders(name: str) -> list[Path]:
    """Every folder of one kind of models: those that ``extra_model_paths`` names, and ``models/<name>``.

    The host knows of its own folder only for kinds that it has itself; a folder that a user
    names for one of ours must not hide it.
    """
    folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
    return [Path(folder) for folder in folder_paths.get_folder_paths(name)]


class Shell(nn.Module):
    """Holds a network for ModelPatcher, which writes ``device`` and counters on what it is given: networks of
    transformers and of segment-anything have a ``device`` that cannot be written."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


class ComfyManaged:
    """See ``backends.model_manager.ManagedModel``."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.patcher = comfy.model_patcher.ModelPatcher(
            Shell(module), load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device())

    def load(self, memory: float = 0) -> None:
        # In part makes no sense: layers that are not the host's own would stay behind.
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory, force_full_load=True)
        # The host moves leaf by leaf; parameters beside submodules, and buffers, come after.
        self.module.to(self.patcher.load_device)


class ComfyManager:
    """See ``backends.model_manager.ModelManager``."""

    def manage(self, module: nn.Module) -> ComfyManaged:
        return ComfyManaged(module)

    def precision(self) -> torch.dtype:
        device = comfy.model_management.get_torch_device()
        if comfy.model_management.is_device_cpu(device):
            return torch.float32
        if comfy.model_management.should_use_bf16(device):
            return torch.bfloat16
        return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32

    def weights_folder(self) -> Path:
        return model_folders(FOLDER)[0]

    def folders(self, name: str) -> list[Path]:
        return model_folders(name)
