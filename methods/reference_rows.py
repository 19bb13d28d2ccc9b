"""Reference frames behind a clip in a sampler's batch, for hosts whose sampling is a plain function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..diffusion.samplers import seeded_noise


def sample_with_rows(
    reference_frames: Sequence[int],
    sampler: Callable[..., Tensor],
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    **options: Any,
) -> Tensor:
    """Run a sampler on a clip's F frames and on reference frames behind them; returns the F frames.

    ``model`` gets two extra arguments: ``frame_ids``, the frame of every row, by which whoever holds something per
    frame (conditions, masks, noise) indexes it, and ``sample_sigmas``, all of the run's. A sampler that draws noise
    takes it from its keyword ``noise_sampler``: it is drawn for the F frames, and a reference frame gets its own
    frame's. Callbacks see F rows.

    Args:
        reference_frames: the frame of every row that rides along.
        sampler: in k-diffusion's convention; where rows ride along, each row of its batch must go its own way.
        x: [F, ...], x at ``sigmas[0]``.
        sigmas: [steps + 1], descending.
        options: further keywords of the sampler.
    """
    frames, extra_args = len(x), dict(extra_args or {})
    ids = (*range(frames), *reference_frames)
    rows = torch.tensor(ids, device=x.device)
    if reference_frames and "noise_sampler" in inspect.signature(sampler).parameters:
        drawn = options.get("noise_sampler") or seeded_noise(x, extra_args.get("seed"))
        options["noise_sampler"] = lambda sigma, target: drawn(sigma, target)[rows]

    def seen(state: dict[str, Any]) -> None:
        assert callback is not None
        callback({**state, "x": state["x"][:frames], "denoised": state["denoised"][:frames]})

    extra_args |= {"frame_ids": ids, "sample_sigmas": sigmas}
    watched = None if callback is None else seen
    return sampler(model, x[rows], sigmas, extra_args=extra_args, callback=watched, disable=disable, **options)[:frames]
