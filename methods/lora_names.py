"""A LoRA on a Stable Diffusion U-Net under names that ComfyUI and diffusers read alike.

ComfyUI reads LDM's module names as they are, diffusers does not. Both read the names of kohya's trainer, which are
diffusers' module names with underscores: ``lora_unet_down_blocks_0_attentions_0_..._attn1_to_q``, with
``.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .lora import factors

BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.1\.(.+)")
#: Layers of a block in Stable Diffusion 1.x, 2.x and XL.
LAYERS = 2


def for_diffusers(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA in kohya's names, with alpha = rank.

    Args:
        lora: in the keys of ``methods.lora``.

    Raises:
        ValueError: it holds something that diffusers has no place for: differences of norms, or layers of another
            network than Stable Diffusion's U-Net.
    """
    if norms := [key for key in lora if key.endswith((".diff", ".diff_b"))]:
        raise ValueError(f"lora: holds {len(norms)} differences of norm layers, which diffusers cannot load as a LoRA; "
                         "choose the names of ComfyUI, whose Load LoRA reads them.")
    pairs, saved = factors(lora), {}
    layers = layers_of_a_block(pairs)
    for name, (down, up) in pairs.items():
        kohya = "lora_unet_" + diffusers_name(name, layers).replace(".", "_")
        saved[f"{kohya}.lora_down.weight"], saved[f"{kohya}.lora_up.weight"] = down, up
        saved[f"{kohya}.alpha"] = torch.tensor(float(down.shape[0]))
    return saved


def layers_of_a_block(names: Iterable[str]) -> int:
    """Layers of a block, from the numbers of LDM's flat list: after so many transformers comes a downsampler."""
    numbers = {int(found[2]) for name in names if (found := BLOCK.fullmatch(name)) and found[1] == "input_blocks"}
    fitting = (layers for layers in range(1, LAYERS + 3) if not any(number % (layers + 1) == 0 for number in numbers))
    return next(fitting, LAYERS) if numbers else LAYERS


def diffusers_name(name: str, layers: int = LAYERS) -> str:
    """The name in diffusers of a layer inside a U-Net's transformers.

    Input block 1 + i (L + 1) + j is layer j of down block i, output block i (L + 1) + j layer j of up block i.

    Raises:
        ValueError: the layer is not inside a U-Net's transformer.
    """
    if name.startswith("middle_block.1."):
        return f"mid_block.attentions.0.{name.removeprefix('middle_block.1.')}"
    found = BLOCK.fullmatch(name)
    if found is None:
        raise ValueError(f"lora: {name} is no layer in a transformer of Stable Diffusion's U-Net, so its name in "
                         "diffusers is not known; choose the names of ComfyUI.")
    part, number, inner = found[1], int(found[2]), found[3]
    block, layer = divmod(number - (part == "input_blocks"), layers + 1)
    return f"{'down' if part == 'input_blocks' else 'up'}_blocks.{block}.attentions.{layer}.{inner}"
