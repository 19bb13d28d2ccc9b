"""Whether each process should compute the keys and values of gather-swap's group, or one for all: what both cost."""

from __future__ import annotations

import socket
import time
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

GROUP, TURNS = 4, 3


def group_keys(side: int) -> dict[str, Any]:
    """Megabytes of an evaluation, seconds to compute them, and seconds to broadcast them to another process.

    One that waits for a broadcast waits for the one that computes, too, and all must be at the same step.
    """
    sizes, seconds = _computed(side)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    running = [context.Process(target=_broadcast, args=(rank, port, sizes, queue)) for rank in range(2)]
    for process in running:
        process.start()
    took = queue.get(timeout=600)
    for process in running:
        process.join()
    return {"megabytes": sum(sizes) * 4 / 1e6, "compute_seconds": seconds, "broadcast_seconds": took}


def _computed(side: int) -> tuple[list[int], float]:
    """Values of every key and value of an evaluation, and the seconds that it takes."""
    from ...backends.diffusers import DiffusersBackend
    from ...methods.via.candidates import with_picture
    from ...methods.via.gather_swap import build_gather_swap
    from ...methods.via.group_attention import KeyValueCache

    backend = DiffusersBackend()
    model, clip, vae = backend.load_toy_editor()
    latents = vae.encode(torch.rand(GROUP, side, side, 3))
    texts = [clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in ("make it red", "")]
    positive, negative = (with_picture(text, latents) for text in texts)
    swapped = backend.attach(model, build_gather_swap(backend.sites(model), group=GROUP))
    sizes: list[int] = []
    put = KeyValueCache.put

    def counted(cache: KeyValueCache, branch: Any, path: str, kind: str, k: Any, v: Any) -> None:
        sizes.extend((k.numel(), v.numel()))
        put(cache, branch, path, kind, k, v)

    sigmas = backend.schedule(model).ddim_sigmas(4)[:2].float()
    times: dict[str, float] = {}
    with patch.object(KeyValueCache, "put", counted):
        # The clip is the group itself: what gather-swap adds to plain denoising is the call of the group.
        for name, given in (("both", swapped), ("alone", model)):
            for _ in range(TURNS):
                if name == "both":
                    sizes.clear()
                began = time.process_time()
                backend.sample(given, positive, negative, 2.5, latents, sigmas, _Quiet())
                times[name] = min(times.get(name, float("inf")), time.process_time() - began)
    return sizes, times["both"] - times["alone"]


class _Quiet:
    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        pass


def _broadcast(rank: int, port: int, sizes: list[int], queue: Any) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    tensors = [torch.ones(size) for size in sizes]
    best = float("inf")
    for _ in range(TURNS):
        dist.barrier()
        began = time.perf_counter()
        for tensor in tensors:
            dist.broadcast(tensor, 0)
        dist.barrier()
        best = min(best, time.perf_counter() - began)
    if rank == 0:
        queue.put(best)
    dist.destroy_process_group()
