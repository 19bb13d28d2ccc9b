"""LoRA-Edit's training on ComfyUI's own Wan in a card of 16 GB: ``python -m steadyedit bench lora_edit_host``.

With ComfyUI's Python, which finds it by ``COMFYUI_PATH``. Random weights in fp8 lie in the main memory, as a loaded
file's do; the preset chooses what of them is streamed, and the host does it. PyTorch may take no more of a GPU than the
card that is asked for has, so that a training that goes on to the end is one that fits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from ...methods.lora_edit.memory import GIB, MemoryPlan, NetworkSize
from ...methods.lora_edit.presets import ON_THEIR_WAY
from ..common.asked import chosen_of, written
from ..common.memory import allocated_peak
from ..common.report import meta
from ..lora_edit_size.run import MODELS, PAPER, RANK, SEED, SMALL, Shape, fill, latent_of
from ..peers.contest import Absent
from ..peers.core import make_importable

#: Bytes of the card.
CARD = 16 * GIB
#: Tokens and channels of CLIP vision.
VISION, SEEN = 257, 1280


def main(
    methods: Sequence[str] | None = None, json_path: Path | None = None, sizes: Sequence[str] | None = None,
    *, steps: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure, print, and write the numbers.

    Args:
        methods: names of ``MODELS``; "14B" if None.
        sizes: frames x width x height; ``PAPER`` on a GPU, else ``SMALL``, if None.
        steps: of the training; 3 if None.

    Raises:
        ValueError: an unknown model, a size that is none, or no ComfyUI.
        MemoryError: it will not fit.
    """
    gpu = torch.cuda.is_available()
    chosen, sizes = chosen_of(methods or ["14B"], MODELS), list(sizes or [PAPER if gpu else SMALL])
    latents = [latent_of(size) for size in sizes]
    try:
        make_importable({"comfyui": Path(os.environ["COMFYUI_PATH"])} if os.environ.get("COMFYUI_PATH") else {})
    except Absent as reason:
        raise ValueError(f"lora_edit_host: {reason}.") from None
    if gpu:
        torch.cuda.set_per_process_memory_fraction(min(CARD / torch.cuda.mem_get_info()[1], 1.0))
    rows = []
    for name in chosen:
        model = built(MODELS[name])
        for size, latent in zip(sizes, latents, strict=True):
            rows.append({"method": name, "size": size, **measured(model, MODELS[name], latent, int(steps or 3))})
            print("{method}, {size}: {peak_gib:.2f} GiB ({told_gib:.2f} estimated), {taken_gib:.2f} taken, "
                  "{step_seconds:.2f} s a step; {chosen}".format(**rows[-1]), flush=True)  # fmt: skip
    note = "random weights, stored in fp8 on a GPU; peaks count the weights on a GPU, and not in the main memory"
    return written({"meta": meta(SEED, len(sizes), rank=RANK, card_gib=CARD / GIB, note=note), "rows": rows}, json_path)


def settings_of(shape: Shape, image: bool) -> Any:
    """The host's settings of a Wan image-to-video model, with CLIP vision's projections or without."""
    import comfy.supported_models

    return comfy.supported_models.WAN21_I2V({
        "image_model": "wan2.1", "model_type": "i2v" if image else "t2v", "in_dim": 36, "dim": shape.heads * 128,
        "ffn_dim": shape.inner, "num_heads": shape.heads, "num_layers": shape.blocks, "text_dim": shape.text,
        "freq_dim": 256, "out_dim": 16, "patch_size": (1, 2, 2), "qk_norm": True, "cross_attn_norm": True,
        "window_size": (-1, -1), "eps": 1e-6,
    })  # fmt: skip


def built(shape: Shape) -> Any:
    """A MODEL with random weights in the main memory: fp8 for a GPU, float32 for none."""
    import comfy.model_management
    import comfy.model_patcher

    device, cpu = comfy.model_management.get_torch_device(), torch.device("cpu")
    made = settings_of(shape, image=True)
    stored = (torch.float8_e4m3fn, torch.bfloat16) if device.type == "cuda" else (torch.float32, None)
    made.set_inference_dtype(*stored)
    base = made.get_model({}, "", device=cpu)
    fill(base.diffusion_model)
    return comfy.model_patcher.ModelPatcher(base.eval().requires_grad_(False), device, cpu)


def measured(model: Any, shape: Shape, latent: tuple[int, ...], steps: int) -> dict[str, Any]:
    """Numbers of a training on one latent.

    Raises:
        MemoryError: it will not fit.
    """
    import comfy.clip_vision

    from ...backends.comfy_native import ComfyBackend
    from ...methods.lora_edit.choices import WAN
    from ...methods.lora_edit.recipe import MaskLoRARecipe
    from ...methods.lora_edit.samples import Sample
    from ...methods.lora_edit.train import VideoSettings, first_lora, plans_of, train_mask_lora
    from ...methods.tune_recipe import TuneRecipe

    backend, generator = ComfyBackend(), torch.Generator().manual_seed(SEED)
    clean, shown = (torch.randn(latent, generator=generator) for _ in range(2))
    seen = comfy.clip_vision.Output()
    seen["penultimate_hidden_states"] = torch.randn(1, VISION, SEEN, generator=generator)
    extra = {"concat_latent_image": shown, "concat_mask": torch.ones(1, 4, *latent[2:]), "clip_vision_output": seen}
    text = torch.randn(1, shape.tokens, shape.text, generator=generator)
    sample = Sample(clean, [[text, extra]], 1, "full size", WAN)
    recipe = MaskLoRARecipe(TuneRecipe(steps=steps, queries=False), rank=RANK)
    settings = VideoSettings(preview_every=0, budget=CARD)
    lora = first_lora(backend, model, recipe, None)
    (plan, *_), (words, *_) = plans_of(backend, model, [sample], RANK, lora, settings)
    size = backend.video_size(model, sample, settings.precision, lora)
    on_gpu, bar = model.load_device.type == "cuda", _Times()
    # Hashing so many weights takes minutes, and nothing is stored that would be found by it.
    with patch.object(ComfyBackend, "fingerprint", lambda self, model: ""):
        tuned, peak = allocated_peak(lambda: train_mask_lora(backend, model, [sample], recipe, settings, progress=bar))
    taken = torch.cuda.max_memory_reserved() / GIB if on_gpu else peak / 1024
    # The first step chooses kernels, and the weights come to the device before it.
    passed = [later - earlier for earlier, later in zip(bar.times[:-1], bar.times[1:], strict=True)]
    return {
        "tokens": size.tokens(latent), "weights_gib": size.weights / GIB, "chosen": words,
        "told_gib": (plan.beside_weights + (_on_device(plan, size) if on_gpu else 0)) / GIB,
        "peak_gib": peak / 1024, "taken_gib": taken, "step_seconds": min(passed), "losses": tuned.losses,
        # The next plan needs less; a training goes on with it, and is not the one that was chosen.
        "ran_out": torch.cuda.memory_stats()["num_ooms"] if on_gpu else 0,
    }  # fmt: skip


def _on_device(plan: MemoryPlan, size: NetworkSize) -> int:
    """Bytes of weights that lie on the device at once: those that stay, and the blocks on their way."""
    kept = size.weights if plan.kept_weights is None else plan.kept_weights
    return min(kept + ON_THEIR_WAY * size.block_weights, size.weights)


class _Times:
    """A progress bar that keeps when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        self.times.append(time.perf_counter())
