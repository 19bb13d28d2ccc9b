"""Layouts -> safetensors files of random numbers, in the types of the true files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...files.writing import write_bytes
from . import layout_image, layout_sd, layout_vae, layout_video, layout_vision
from .layout import Layout

#: Random numbers that every tensor takes its own stretch of: a prime, so that no rows repeat.
POOL = 4194301
#: Largest finite value of float8_e4m3fn.
FP8_MAX = 448.0
#: Linear layers of a video transformer that fp8 files keep in half precision.
KEPT = ("norm", "patch_embedding", "head", "modulation", "time_", "text_embedding", "img_emb", "txt_in", "vector_in")


def _stable_diffusion(channels: int) -> Layout:
    layout = Layout()
    layout.under("model.diffusion_model.", layout_sd.unet(channels))
    layout.under("first_stage_model.", layout_vae.kl())
    layout.under("cond_stage_model.transformer.", layout_sd.text_encoder())
    return layout


#: Folder, and what the file's name must say -> its layout. The first that fits is taken.
KINDS: tuple[tuple[str, str, Callable[[], Layout]], ...] = (
    ("checkpoints", r"pix2pix|ip2p", lambda: _stable_diffusion(8)),
    ("checkpoints", r"v1-[45]|sd1|sd_?1\.?5", lambda: _stable_diffusion(4)),
    ("controlnet", r"sd15", layout_sd.controlnet),
    ("diffusion_models", r"wan2\.?1.*i2v", layout_video.wan),
    ("diffusion_models", r"wan2\.?1.*vace", layout_video.vace),
    ("diffusion_models", r"wan2\.?1.*t2v", lambda: layout_video.wan(image=False, inputs=16)),
    ("diffusion_models", r"wan2\.?2.*i2v.*14b", lambda: layout_video.wan(image=False)),
    ("diffusion_models", r"hunyuan.*(image_to_video|i2v)", layout_video.hunyuan),
    ("diffusion_models", r"qwen_image_edit", layout_image.qwen),
    ("diffusion_models", r"flux1", layout_image.flux),
    ("loras", r"qwen-image.*lightning", layout_image.lightning),
    ("vae", r"^ae\b", lambda: layout_vae.kl(16)),
    ("vae", r"qwen_image", layout_vae.wan),
    ("vae", r"wan_?2\.?1", layout_vae.wan),
    ("vae", r"hunyuan_video", lambda: layout_vae.kl(16, video=True)),
    ("vae", r"ft-(mse|ema)", layout_vae.kl),
    ("clip_vision", r"vision_h|vit-?h", layout_vision.huge),
    ("clip_vision", r"llava", layout_vision.llava),
)


def known(folder: str, name: str) -> Callable[[], Layout] | None:
    """The layout of a file that a graph names, or None for a model that no layout was written down of."""
    found = (make for kind, pattern, make in KINDS if kind == folder and re.search(pattern, name, re.IGNORECASE))
    return next(found, None)


def filled(layout: Layout, dtype: torch.dtype, seed: int = 1) -> dict[str, Tensor]:
    """Random numbers: norms scale by 1, other layers keep the size of what goes through them, biases are small."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator).repeat(2)
    tensors, start = {}, 0
    for name, shape in layout.items():
        count = math.prod(shape)
        stretch = pool[start : start + POOL]
        flat = stretch.repeat(-(-count // POOL))[:count].reshape(shape)
        start = (start + 2 * count + 1) % POOL
        last = name.rsplit(".", 1)[-1]
        if last in ("gamma", "scale") or (last == "weight" and len(shape) == 1):
            value = torch.ones(shape)
        elif last == "bias" or "embedding" in last or "embedding.weight" in name:
            value = flat * 0.02
        else:
            value = flat / math.sqrt(math.prod(shape[1:]) if last == "weight" else shape[-1])
        tensors[name] = value.to(dtype)
    return tensors


def _blocks(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.ndim == 2 and not any(part in name for part in KEPT)


def fp8(tensors: dict[str, Tensor], scaled: bool) -> dict[str, Tensor]:
    """The layers of the blocks in fp8, with ``scaled`` each under a scale of its own, as ComfyUI's files have it."""
    made: dict[str, Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)} if scaled else {}
    for name, tensor in tensors.items():
        if not _blocks(name, tensor):
            made[name] = tensor
        elif scaled:
            scale = tensor.float().abs().max() / FP8_MAX
            made[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            made[f"{name.removesuffix('weight')}scale_weight"] = scale
        else:
            made[name] = tensor.to(torch.float8_e4m3fn)
    return made


def is_scaled(name: str) -> bool:
    """Whether a file's name says that its weights are scaled fp8."""
    return bool(re.search(r"fp8.*scaled", name))


def write(path: Path, make: Callable[[], Layout]) -> None:
    """Write one file in the type that its name says, else in half precision."""
    from safetensors.torch import save

    name = path.name
    brain = "bf16" in name or "fp8" in name or "wan" in name or "hunyuan" in name
    tensors = filled(make(), torch.bfloat16 if brain else torch.float16)
    if "fp8" in name:
        tensors = fp8(tensors, is_scaled(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save(tensors, {"format": "pt"}))
