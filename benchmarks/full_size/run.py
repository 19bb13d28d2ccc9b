"""Memory and work of the papers' sizes, with no GPU: ``python -m steadyedit bench full_size --methods 14B``.

A training step of diffusers' Wan in fake tensors, in bfloat16 and float32, against the estimate that a training makes.
A minute and no memory for 14 billion weights on one core. The peak is of tensors alone: an allocator's fragments and a
matrix library's workspace come on top, so these are predictions until a GPU has confirmed them. What ComfyUI's own
networks take is measured by ``tests/host/test_full_size_memory.py``. "ei2 ...", "tune-a-video ...", "dape ..." and
"via ..." are Stable Diffusion's U-Net at 512x512, "sdxl tuning" SDXL's at 1024x1024: a step of tuning on 8 frames, one
evaluation under guidance, or a step of gather-swap on a clip of so many frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...backends.diffusers.denoiser import AT_ONCE
from ...backends.diffusers.video import CHANNELS, DiffusersVideoBackend, DiffusersVideoModel
from ...methods.attachment import Attachment
from ...methods.dape.recipes import ADAPTER_TUNING, NORM_TUNING
from ...methods.lora_edit.memory import GIB
from ...methods.lora_edit.recipe import MaskLoRARecipe
from ...methods.lora_edit.samples import Sample
from ...methods.registry import build_on
from ...methods.tune_a_video import build_sparse_causal, build_temporal_attention
from ...methods.via.pipeline import ViaRecipe
from ..common.asked import chosen_of, written
from ..common.live import fake
from ..common.report import meta
from ..lora_edit_size.run import LATENTS, MODELS, PAPER, Shape, latent_of
from .step import RANK, Step, training_step
from .timed import ei2_parts
from .unet import PIX2PIX, SD15, SDXL, Predicted, fake_evaluation, fake_sampling, fake_tuning

EI2_LATENT, SDXL_LATENT = (8, 4, 64, 64), (8, 4, 128, 128)


def none(backend: Any, model: Any) -> list[Attachment]:
    """Nothing attached."""
    return []


def ei2(backend: Any, model: Any) -> list[Attachment]:
    """EI2's two modules."""
    return ei2_parts(backend.sites(model))


def tune_a_video(backend: Any, model: Any) -> list[Attachment]:
    """Tune-A-Video's two attentions."""
    sites = backend.sites(model)
    return [build_temporal_attention(sites), build_sparse_causal(sites)]


def norms(backend: Any, model: Any) -> list[Attachment]:
    """DAPE's first stage with the node's settings."""
    return [build_on(backend, model, "norm-tune", {})]


def adapter(backend: Any, model: Any) -> list[Attachment]:
    """DAPE's second stage."""
    return [build_on(backend, model, "visual-adapter", {})]


def _via(frames: int, dtype: torch.dtype) -> Predicted:
    return fake_sampling(PIX2PIX, (frames, 4, 64, 64), dtype, ViaRecipe(adaptation=None, blend=None))


#: Of U-Nets: one piece of work each, of a latent and a dtype.
U_NETS: dict[str, Callable[[torch.dtype], Predicted]] = {
    "ei2 tuning": lambda dtype: fake_tuning(SD15, ei2, EI2_LATENT, dtype),
    "ei2 sampling": lambda dtype: fake_evaluation(SD15, ei2, EI2_LATENT, dtype, branches=2),
    "tune-a-video tuning": lambda dtype: fake_tuning(SD15, tune_a_video, EI2_LATENT, dtype),
    "tune-a-video sampling": lambda dtype: fake_evaluation(SD15, tune_a_video, EI2_LATENT, dtype, branches=2),
    "dape norms": lambda dtype: fake_tuning(SD15, norms, EI2_LATENT, dtype, NORM_TUNING),
    "dape adapter": lambda dtype: fake_tuning(SD15, adapter, EI2_LATENT, dtype, ADAPTER_TUNING, norms),
    "sdxl tuning": lambda dtype: fake_tuning(SDXL, ei2, SDXL_LATENT, dtype),
    "via sampling": lambda dtype: fake_evaluation(PIX2PIX, none, (AT_ONCE, 4, 64, 64), dtype, branches=3),
    **{f"via {frames} frames": partial(_via, frames) for frames in (64, 256, 1440)},
}
SIZES = {"sdxl tuning": "1024x1024"}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def main(
    methods: Sequence[str] | None = None, json_path: Path | None = None, sizes: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run, print, and write the numbers.

    Args:
        methods: of ``lora_edit_size.MODELS`` and ``U_NETS``; 1.3B and 14B if None.
        sizes: frames x width x height; the paper's if None.

    Raises:
        ValueError: an unknown model, or a size that is none.
    """
    chosen = chosen_of(methods or ["1.3B", "14B"], [*MODELS, *U_NETS])
    rows: list[dict[str, Any]] = []
    for name in [name for name in chosen if name in U_NETS]:
        for words, dtype in DTYPES.items():
            size = SIZES.get(name, "512x512")
            rows.append({"method": name, "size": size, "dtype": words, **U_NETS[name](dtype).numbers()})
            print("{method}, {size}, {dtype}: {fake_gib:.2f} GiB beside {weights_gib:.2f} of weights, {work_tflop:.1f} "
                  "TFLOP".format(**rows[-1]), flush=True)  # fmt: skip
    chosen = [name for name in chosen if name in MODELS]
    for size in sizes or [PAPER]:
        latent = latent_of(size)
        for name in chosen:
            for words, dtype in DTYPES.items():
                found = fake_step(MODELS[name], latent, dtype, counted=True)
                print(f"{name}, {size}, {words}: {found}", flush=True)
                rows.append({"method": name, "size": size, "dtype": words, "tokens": found.tokens,
                             "fake_gib": found.peak / GIB, "predicted_gib": found.predicted / GIB,
                             "work_tflop": found.flops / 1e12})  # fmt: skip
    report = {"meta": meta(0, len(rows), rank=RANK, note="fake tensors: predictions, not measured on a GPU"),
              "rows": rows}  # fmt: skip
    return written(report, json_path)


def fake_step(
    shape: Shape, latent: tuple[int, ...], dtype: torch.dtype, *, targets: str | None = None, noted: bool = False,
    counted: bool = False, whole: int = 0, offloaded: int = 0,
) -> Step:  # fmt: skip
    """A training step of diffusers' Wan of this shape on one latent [1, 16, T', h, w]; see ``training_step``."""
    from diffusers import WanTransformer3DModel

    recipe = MaskLoRARecipe(rank=RANK, targets=targets) if targets else MaskLoRARecipe(rank=RANK)
    default = torch.get_default_dtype()
    with fake():
        # Made in this dtype: a fake network cannot be moved.
        torch.set_default_dtype(dtype)
        try:
            network = WanTransformer3DModel(
                patch_size=(1, 2, 2), num_attention_heads=shape.heads, attention_head_dim=128, in_channels=CHANNELS,
                out_channels=LATENTS, text_dim=shape.text, freq_dim=256, ffn_dim=shape.inner,
                num_layers=shape.blocks, cross_attn_norm=True,
            ).eval().requires_grad_(False)  # fmt: skip
        finally:
            torch.set_default_dtype(default)
        model = DiffusersVideoModel(network, (0.0,) * LATENTS, (1.0,) * LATENTS)
        extra = {"concat_latent_image": torch.randn(latent), "concat_mask": torch.ones(1, 4, *latent[2:])}
        found = Sample(torch.randn(latent), [[torch.randn(1, shape.tokens, shape.text), extra]])
        outside = [*network.parameters(), *network.buffers(), found.conditioning[0][0], *extra.values()]
        return training_step(DiffusersVideoBackend(), model, [found], recipe=recipe, dtype=dtype, noted=noted,
                             weights=outside, counted=counted, whole=whole, offloaded=offloaded)  # fmt: skip
