"""Gather-swap's lanes around a sampler and inside one evaluation, for hosts whose sampling is a plain function.

The batch that a sampler sees is x[F + g]: the clip's F frames, then g lanes, one for each frame
of the group, with the same initial noise. ``frame_ids`` in the sampler's extra arguments names
the frame of every row; whoever holds something per frame (conditions, masks, noise) indexes it
by them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ...diffusion.samplers import seeded_noise
from .gather_swap import Bank, GatherSwap, active


class Rows(Protocol):
    """Denoises rows of the batch.

    x [rows, ...], sigma [rows] and the rows' frame ids; ``mode`` is "gather" or "swap" with the
    bank of this evaluation, or None without one, which is plain sampling.
    """

    def __call__(self, x: Tensor, sigma: Tensor, ids: Sequence[int], mode: str | None, bank: Bank | None) -> Tensor: ...


def sample_in_lock_step(
    settings: GatherSwap,
    sampler: Callable[..., Tensor],
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    **options: Any,
) -> Tensor:
    """Run a sampler on the clip's frames and the group's lanes; returns the frames.

    ``model`` gets two extra arguments: ``frame_ids`` and ``sample_sigmas`` (all of the run's).
    A sampler that draws noise takes it from its keyword ``noise_sampler``: it is drawn for the
    F frames, and a lane gets its own frame's. Callbacks see F rows.

    Args:
        settings: of gather-swap.
        sampler: in k-diffusion's convention; each row of its batch must go its own way.
        x: [F, ...], x at ``sigmas[0]``.
        sigmas: [steps + 1], descending.
        options: further keywords of the sampler.

    Raises:
        ValueError: the group is larger than the clip.
    """
    frames, extra_args = len(x), dict(extra_args or {})
    ids = (*range(frames), *settings.group_of(frames))
    rows = torch.tensor(ids, device=x.device)
    if "noise_sampler" in inspect.signature(sampler).parameters:
        drawn = options.get("noise_sampler") or seeded_noise(x, extra_args.get("seed"))
        options["noise_sampler"] = lambda sigma, target: drawn(sigma, target)[rows]

    def seen(state: dict[str, Any]) -> None:
        callback({**state, "x": state["x"][:frames], "denoised": state["denoised"][:frames]})

    extra_args |= {"frame_ids": ids, "sample_sigmas": sigmas}
    watched = None if callback is None else seen
    return sampler(model, x[rows], sigmas, extra_args=extra_args, callback=watched, disable=disable, **options)[:frames]


def denoise_in_lock_step(
    settings: GatherSwap, rows: Rows, x: Tensor, sigma: Tensor, frames: int, frame_ids: Sequence[int],
    sample_sigmas: Tensor,
) -> Tensor:  # fmt: skip
    """One evaluation: the lanes fill a bank, then the frames read it.

    Outside of the chosen steps the frames are denoised plainly and each lane is given its own
    frame's result. Before them that is what the lane would have got, since it holds the same x;
    after them no one needs it.

    Args:
        settings: of gather-swap.
        rows: the host's own denoiser.
        x: [F + g, ...]; sigma: [F + g], one value.
        frames: F.
        frame_ids: of the rows of x, the F frames first.
        sample_sigmas: of the whole run.

    Returns:
        Denoised x, in the same order.
    """
    ids, lanes = frame_ids[:frames], frame_ids[frames:]
    if not active(float(sigma[0]), sample_sigmas, settings.start, settings.end):
        denoised = rows(x[:frames], sigma[:frames], ids, None, None)
        return torch.cat([denoised, denoised[list(lanes)]])
    with Bank().evaluation() as bank:
        group = rows(x[frames:], sigma[frames:], lanes, "gather", bank)
        clip = rows(x[:frames], sigma[:frames], ids, "swap", bank)
    return torch.cat([clip, group])
