"""LoRA-Edit's training at the size of real models: ``python -m steadyedit bench lora_edit_size --methods 1.3B``.

A Wan image-to-video transformer of the named size with random weights trains a LoRA of rank 16 on
one sample: seconds a step, memory beside the weights (PyTorch's own allocations) against what is
estimated before a training, and the share of the rate that the device reaches in a plain product of
matrices. Work is what PyTorch counts in a step, the blocks' second forward included. Numbers of a
small ``--sizes`` say nothing of 49 frames of 832x480, which are for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...backends.diffusers.video import CHANNELS, DiffusersVideoBackend, DiffusersVideoModel
from ...diffusion.flow import RectifiedFlow
from ...diffusion.training import NoiseTraining
from ...methods.lora_edit.memory import GIB
from ...methods.lora_edit.packing import check_frames, latent_frames
from ...methods.lora_edit.recipe import MaskLoRARecipe
from ...methods.lora_edit.samples import Sample
from ...methods.lora_edit.train import VideoSettings, first_lora, planned_memory
from ..common.asked import chosen_of, written
from ..common.clock import clock
from ..common.clock import timed as stopwatch
from ..common.live import work_counter
from ..common.memory import allocated_peak
from ..common.report import meta

SEED, RANK, LATENTS = 0, 16, 16
#: Frames, width, height: the paper's, and what a CPU gets through.
PAPER, SMALL = "49x832x480", "5x64x64"


@dataclass(frozen=True)
class Shape:
    """Of a Wan transformer; its width is heads x 128."""

    heads: int
    inner: int
    blocks: int
    text: int = 4096
    tokens: int = 512


MODELS = {"tiny": Shape(1, 256, 2, text=32, tokens=8), "1.3B": Shape(12, 8960, 30), "14B": Shape(40, 13824, 40)}


def main(
    methods: Sequence[str] | None = None, json_path: Path | None = None, sizes: Sequence[str] | None = None,
    *, timed: int = 2,
) -> dict[str, Any]:  # fmt: skip
    """Measure, print, and write the numbers.

    Args:
        methods: names of ``MODELS``; "1.3B" if None.
        sizes: frames x width x height; ``PAPER`` on a GPU, else ``SMALL``, if None.
        timed: steps that are, after one that warms up and whose work is counted.

    Raises:
        ValueError: an unknown model, or a size that is none.
        MemoryError: it will not fit; estimated before the weights are made.
    """
    gpu = torch.cuda.is_available()
    chosen, sizes = chosen_of(methods or ["1.3B"], MODELS), list(sizes or [PAPER if gpu else SMALL])
    latents, rows = [latent_of(size) for size in sizes], []
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    rate = matrix_rate(device, dtype)
    for name in chosen:
        model = built(MODELS[name], device, dtype)
        for size, latent in zip(sizes, latents, strict=True):
            rows.append({"method": name, "size": size, **measured(model, MODELS[name], latent, timed, rate)})
            print("{method}, {size}: {tokens} tokens, {step_seconds:.2f} s a step, {beside_weights_gib:.2f} GiB beside "
                  "{weights_gib:.2f} of weights ({predicted_gib:.2f} estimated), {tflops:.3f} TFLOP/s, "
                  "{share:.0%} of a plain product".format(**rows[-1]), flush=True)  # fmt: skip
        del model
    report = {"meta": meta(SEED, len(sizes), dtype=str(dtype), rank=RANK, timed_steps=timed, clock=clock()[1],
                           note="random weights; blocks are computed again in backward, which is counted as work"),
              "rows": rows}  # fmt: skip
    return written(report, json_path)


def latent_of(size: str) -> tuple[int, ...]:
    """[1, 16, T', h, w] of a size."""
    try:
        frames, width, height = map(int, size.split("x"))
    except ValueError:
        raise ValueError(f"sizes: expected frames x width x height, such as {PAPER}, but got {size}.") from None
    check_frames("sizes", frames)
    if width % 16 or height % 16 or min(width, height) < 16:
        raise ValueError(f"sizes: {width}x{height} pixels, but both sides must divide by 16.")
    return 1, LATENTS, latent_frames(frames), height // 8, width // 8


@torch.no_grad()
def built(shape: Shape, device: str, dtype: torch.dtype) -> DiffusersVideoModel:
    """A transformer with random weights, the same in every block.

    Raises:
        MemoryError: its weights alone do not fit.
    """
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        network = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=shape.heads, attention_head_dim=128, in_channels=CHANNELS,
            out_channels=LATENTS, text_dim=shape.text, freq_dim=256, ffn_dim=shape.inner, num_layers=shape.blocks,
            cross_attn_norm=True,
        )  # fmt: skip
    needed = sum(p.numel() for p in network.parameters()) * dtype.itemsize
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else _free_memory()
    if needed > free:
        raise MemoryError(f"methods: the weights take {needed / GIB:.1f} GiB, but {device} has {free / GIB:.1f}; name "
                          "a smaller model.")
    rope = network.rope
    network.rope = torch.nn.Identity()
    network.to(dtype).to_empty(device=device)
    network.rope = type(rope)(128, (1, 2, 2), 1024).to(device)
    fill(network)
    return DiffusersVideoModel(network.eval().requires_grad_(False), (0.0,) * LATENTS, (1.0,) * LATENTS)


@torch.no_grad()
def fill(network: torch.nn.Module) -> None:
    """Random weights, in any dtype, the same in every block."""
    first = dict(network.blocks[0].named_parameters())
    generator = torch.Generator(next(iter(first.values())).device).manual_seed(SEED)
    for name, parameter in network.named_parameters():
        _, number, inner = name.split(".", 2) if name.startswith("blocks.") else ("", "0", name)
        if number != "0":
            parameter.copy_(first[inner])
        elif parameter.ndim > 1:
            # Narrow dtypes draw no numbers.
            drawn = torch.empty(parameter.shape, device=parameter.device)
            parameter.copy_(drawn.normal_(0, 0.02, generator=generator))
        else:
            # Of one dimension are the norms' weights, and biases.
            parameter.fill_(float(name.endswith("weight")))


def _free_memory() -> int:
    import psutil

    return psutil.virtual_memory().available


def matrix_rate(device: str, dtype: torch.dtype, side: int | None = None) -> float:
    """FLOP a second of the best of a few products of square matrices of so many rows."""
    side, best = side or (8192 if device == "cuda" else 1024), 0.0
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(8):
        with stopwatch() as seconds:
            a @ b
        best = max(best, 2 * side**3 / seconds.own)
    return best


def measured(
    model: DiffusersVideoModel, shape: Shape, latent: tuple[int, ...], timed: int, rate: float
) -> dict[str, Any]:
    """Numbers of training on one latent.

    Raises:
        MemoryError: it will not fit; told before it begins.
    """
    backend, recipe = DiffusersVideoBackend(), MaskLoRARecipe(rank=RANK)
    generator, device = torch.Generator().manual_seed(SEED), model.transformer.device.type
    clean, seen = (torch.randn(latent, generator=generator).to(device) for _ in range(2))
    extra = {"concat_latent_image": seen, "concat_mask": torch.ones(1, 4, *latent[2:], device=device)}
    text = torch.randn(1, shape.tokens, shape.text, generator=generator).to(device)
    samples = [Sample(clean.cpu(), [[text, extra]])]
    lora, settings = first_lora(backend, model, recipe, None), VideoSettings()
    planned = planned_memory(backend, model, samples, RANK, lora, settings)
    size = backend.video_size(model, samples[0], settings.precision, lora)
    weight = next(model.transformer.parameters())
    with ExitStack() as stack, torch.enable_grad():

        def begun() -> tuple[NoiseTraining, Any]:
            """AdamW's moments come with the first step: a second one lies beside them."""
            view = stack.enter_context(backend.video_training(model, samples, lora, planned, settings.precision))
            base = recipe.training
            training = NoiseTraining(
                view.parameters, RectifiedFlow(), learning_rate=base.learning_rate, betas=base.betas,
                weight_decay=base.weight_decay, max_grad_norm=base.max_grad_norm, seed=SEED,
            )  # fmt: skip

            def predict(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
                return view.predict_velocity(noisy.to(weight.dtype), sigma, 0)

            for _ in range(2):
                training.step(predict, clean)
            return training, predict

        (training, predict), memory = allocated_peak(begun)
        with stopwatch() as seconds:
            for _ in range(timed):
                training.step(predict, clean)
        # By itself: the counter keeps tensors alive.
        with work_counter() as counter:
            training.step(predict, clean)
    work, own = counter.get_total_flops(), seconds.own / timed
    return {
        "tokens": size.tokens(latent), "parameters": sum(p.numel() for p in model.transformer.parameters()),
        "trained": sum(value.numel() for value in lora.values()),
        "step_seconds": seconds.wall / timed, "own_seconds": own,
        "weights_gib": size.weights / GIB, "beside_weights_gib": memory / 1024,
        "predicted_gib": planned.beside_weights / GIB, "work_tflop": work / 1e12, "tflops": work / own / 1e12,
        "matrix_tflops": rate / 1e12, "share": work / own / rate, "losses": training.losses,
    }  # fmt: skip
