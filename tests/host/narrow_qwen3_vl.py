"""Qwen3-VL in the host's own code and file format, narrow and of random weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.text_encoders import qwen3vl
from safetensors.torch import save_file

KIND = "qwen3vl_8b"


@dataclass
class Narrow(qwen3vl.Qwen3VL_8BConfig):
    hidden_size: int = 64
    intermediate_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    num_key_value_heads: int = 1


def narrow(setitem=dict.__setitem__) -> None:
    """Make the host's 8B narrow; its file says no more of its size than the width."""
    setitem(qwen3vl.QWEN3VL_CONFIGS, KIND, Narrow)
    setitem(qwen3vl.QWEN3VL_VISION, KIND,
            {"hidden_size": 64, "intermediate_size": 64, "depth": 2, "deepstack_visual_indexes": [0]})


def write(path) -> None:
    """Its weights under the published names; call ``narrow`` first."""
    import comfy.ops

    module = qwen3vl._make_qwen3vl_model(KIND)({}, torch.float32, "cpu", comfy.ops.manual_cast)
    generator = torch.Generator().manual_seed(1)
    published = {"model.lm_head.": "lm_head.", "model.": "model.language_model.", "visual.": "model.visual."}
    tensors = {}
    for name, value in module.state_dict().items():
        before = next(inner for inner in published if name.startswith(inner))
        noise = torch.randn(value.shape, generator=generator)
        own = 1 + 0.1 * noise if value.ndim == 1 and "norm" in name else noise / max(1, value.shape[-1]) ** 0.5
        tensors[published[before] + name.removeprefix(before)] = own
    save_file(tensors, path)
