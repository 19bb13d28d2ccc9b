"""Names in the toy ControlNet's file: a Control-LoRA, the one ControlNet format that fits any U-Net in ComfyUI.

The host's loader reads a ControlNet's widths off the file as whole multiples of the first, which the toy world's
(64, 96, 64, 64) are not; a Control-LoRA is built like the MODEL that it is applied to instead, and takes from it
whatever weights the file lacks. So the stock ControlNetLoader reads this file, and it is small. Where the file has
NAME.up and NAME.down, the weight is the MODEL's plus their product.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

MARK = "lora_controlnet"  #: the key by which the host knows the format
ENCODER = ("conv_in.", "time_embedding.", "down_blocks.", "mid_block.", "controlnet_")
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
PLAIN = {"conv_in.": "input_blocks.0.0.", "time_embedding.linear_1.": "time_embed.0.",
         "time_embedding.linear_2.": "time_embed.2.", "mid_block.attentions.0.": "middle_block.1.",
         "controlnet_mid_block.": "middle_block_out.0.", "controlnet_cond_embedding.conv_in.": "input_hint_block.0.",
         "controlnet_cond_embedding.conv_out.": "input_hint_block.14."}  # fmt: skip


def stock_name(key: str, layers: int = 1) -> str:
    """diffusers' name of a ControlNet's tensor -> the original ControlNet's; `layers` residual blocks a level.

    Raises:
        KeyError: the name is none of a ControlNet's.
    """
    for start, other in PLAIN.items():
        if key.startswith(start):
            return other + key.removeprefix(start)
    if match := re.fullmatch(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", key):
        level, kind, number, rest = match.groups()
        place = f"input_blocks.{1 + (layers + 1) * int(level) + int(number)}"
        return f"{place}.0.{_resnet(rest)}" if kind == "resnets" else f"{place}.1.{rest}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(\w+)", key):
        return f"input_blocks.{(layers + 1) * (int(match[1]) + 1)}.0.op.{match[2]}"
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", key):
        return f"middle_block.{2 * int(match[1])}.{_resnet(match[2])}"
    if match := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)\.(\w+)", key):
        return f"input_hint_block.{2 * (int(match[1]) + 1)}.{match[2]}"
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)\.(\w+)", key):
        return f"zero_convs.{match[1]}.0.{match[2]}"
    raise KeyError(key)


def _resnet(rest: str) -> str:
    name, _, kind = rest.rpartition(".")
    return f"{RESNET[name]}.{kind}"


def to_stock(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by diffusers' names -> by the original ControlNet's, with the mark of a Control-LoRA."""
    return {MARK: torch.zeros(0), **{stock_name(key): value for key, value in state.items()}}


def from_stock(stored: dict[str, torch.Tensor], base: dict[str, torch.Tensor],
               whole: Iterable[str]) -> dict[str, torch.Tensor]:
    """A whole ControlNet by diffusers' names, from a file's tensors and the U-Net `base` that lends the rest; `whole`
    are the names of all its tensors.

    Raises:
        ValueError: the file holds a tensor that a ControlNet of this U-Net has no place for.
    """
    names = {stock_name(key): key for key in whole}
    stems = {name.removesuffix("weight"): key for name, key in names.items() if name.endswith(".weight")}
    own = {}
    for name, value in stored.items():
        stem, part = name[:name.rfind(".") + 1], name[name.rfind(".") + 1:]
        if name in names:
            own[names[name]] = value
        elif stem in stems and part == "up" and f"{stem}down" in stored:
            weight = base[stems[stem]]
            own[stems[stem]] = weight.float() + (value.float() @ stored[f"{stem}down"].float()).view(weight.shape)
        elif name != MARK and not (stem in stems and part == "down" and f"{stem}up" in stored):
            raise ValueError(f"toyworld/weights/controlnet.safetensors holds {name}, which the toy ControlNet has no "
                             "place for: restore the file from the repository or train it again.")
    return {**{key: value for key, value in base.items() if key.startswith(ENCODER)}, **own}
