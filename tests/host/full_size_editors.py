"""Gather-swap on the host's FLUX.1 and Qwen-Image of full size, in fake tensors: memory and work of one step.

A step is one call of the group's frames, which keeps their keys, and calls of ``rows`` frames until the clip is
through; guidance with two branches has both in each call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import comfy.supported_models
import torch
from steadyedit.backends.comfy_native.joint_patches import run_joint
from steadyedit.backends.comfy_native.planned_run import CALL, PlannedCall
from steadyedit.benchmarks.common.live import LiveStorages, fake, work_counter
from steadyedit.methods.via.group_attention import KeyValueCache
from steadyedit.methods.via.joint_attention import JointGroupAttention

GIB = 2**30
FRAMES, GROUP = 64, 4
#: Tokens of a text: with Qwen's view of a frame; T5's least.
TEXTS = {"qwen": 264, "flux": 256}
WIDTHS = {"qwen": 3584, "flux": 4096}


@dataclass(frozen=True)
class Work:
    """Of one step of a clip.

    Args:
        beside: bytes at the worst moment, beside the weights.
        keys: bytes of the group's keys and values.
        weights: bytes of the network's as the files have them: one a number in fp8.
        flops: of one step.
    """

    beside: int
    keys: int
    weights: int
    flops: float


def network_of(kind: str, blocks: tuple[int, ...] | None = None) -> Any:
    """The host's own class at its true width."""
    if kind == "qwen":
        config = comfy.supported_models.QwenImage({
            "image_model": "qwen_image", "in_channels": 64, "num_layers": (blocks or (60,))[0]})  # fmt: skip
    else:
        double, single = blocks or (19, 38)
        config = comfy.supported_models.Flux({
            "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
            "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": double, "depth_single_blocks": single,
            "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
            "txt_ids_dims": []})  # fmt: skip
    config.set_inference_dtype(torch.bfloat16, None)
    return config.get_model({}, "", device=torch.device("cpu")).diffusion_model


def step(kind: str, side: int, rows: int, branches: int = 1, frames: int = FRAMES, group: int = GROUP,
         blocks: tuple[int, ...] | None = None) -> Work:  # fmt: skip
    """One step of a clip of ``side`` x ``side`` pixels with a reference of that size for each frame."""
    latent = (16, side // 8, side // 8) if kind == "flux" else (16, 1, side // 8, side // 8)
    with fake(), torch.no_grad():
        network = network_of(kind, blocks)
        weights = [*network.parameters(), *network.buffers()]
        live = LiveStorages(weights)
        with live:
            # What the host has on the card for the whole clip: its state, its references and its texts.
            held = [torch.randn(frames + group, *latent), torch.randn(frames, *latent),
                    *(torch.randn(frames, *latent) for _ in range(branches)),
                    *(torch.randn(frames if kind == "qwen" else 1, TEXTS[kind], WIDTHS[kind])
                      for _ in range(branches))]  # fmt: skip
            cache = KeyValueCache()
            gather = lambda: call(network, kind, latent, group, branches, cache, "gather")  # noqa: E731
            swap = lambda: call(network, kind, latent, rows, branches, cache, "swap")  # noqa: E731
            gather()
            before = live.swept()
            swap()
        keys = sum(x.nbytes for pair in cache.entries.values() for x in pair)
        assert len(cache) == branches * sum(blocks or ((60,) if kind == "qwen" else (19, 38))) and before > keys
        flops = []
        for one in (gather, swap):
            with work_counter() as counter:
                one()
            flops.append(counter.get_total_flops())
        del held
    return Work(live.peak, keys, sum(weight.numel() for weight in weights), flops[0] + flops[1] * frames / rows)


def call(network: Any, kind: str, latent: tuple[int, ...], rows: int, branches: int, cache: KeyValueCache,
         mode: str) -> None:  # fmt: skip
    """One call of the network with gather-swap's attentions, by the wrapper that the MODEL has."""
    count, dtype = rows * branches, torch.bfloat16
    sites = frozenset(f"{name}_blocks.{i}" for name in ("double", "single") for i in range(60))
    options = {CALL: PlannedCall(JointGroupAttention(mode, cache, sites), rows, "gather-swap"),
               "uuids": list(range(branches)), "cond_or_uncond": list(range(branches)),
               "wrappers": {comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL: {"steadyedit": [run_joint]}}}
    x, t = torch.randn(count, *latent, dtype=dtype), torch.ones(count, dtype=dtype)
    text = torch.randn(count, TEXTS[kind], WIDTHS[kind], dtype=dtype)
    references = [torch.randn(count, *latent, dtype=dtype)]
    if kind == "qwen":
        network(x, t, text, None, references, transformer_options=options)
    else:
        network(x, t, text, torch.randn(count, 768, dtype=dtype), torch.ones(count, dtype=dtype), references,
                transformer_options=options)

