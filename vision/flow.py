"""Dense optical flow of a clip, and warping along a flow.

A flow [H, W, 2] from frame a to frame b says, in pixels (x, y), that what is at x in a is at
x + flow(x) in b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

# Rec. 601 luma: brightness is what the estimator holds constant along the motion.
_LUMA = (0.299, 0.587, 0.114)
#: Smallest side of frames whose motion is estimated, in pixels.
LEAST = 8


def estimate_flow(frames: Tensor, radius: int = 10, warps: int = 5) -> Tensor:
    """Flow from each frame to the next by iterative Lucas-Kanade on a pyramid (scikit-image).

    Each window of (2 radius + 1)^2 pixels moves as one: small objects need a smaller radius,
    plain surfaces a larger one to find an edge. On 128-pixel clips of the toy world that
    move by 2.8 pixels a frame the error inside objects is 0.8 pixels.

    Args:
        frames: [F, H, W, 3] in 0..1.
        radius: half the window, pixels.
        warps: refinements at each level of the pyramid.

    Returns:
        [F - 1, H, W, 2] float32.

    Raises:
        ValueError: frames of less than ``LEAST`` pixels a side, in which no motion can be seen.
    """
    from skimage.registration import optical_flow_ilk

    height, width = frames.shape[1:3]
    if min(height, width) < LEAST:
        raise ValueError(f"images: are {width}x{height}, too small to see motion in; use frames of at least "
                         f"{LEAST}x{LEAST} pixels.")
    gray = (frames.detach().float().cpu() @ torch.tensor(_LUMA)).numpy()
    flows = np.zeros((max(0, len(gray) - 1), height, width, 2), np.float32)
    for index in range(len(flows)):
        rows, columns = optical_flow_ilk(gray[index], gray[index + 1], radius=radius, num_warp=warps)
        flows[index] = np.stack([columns, rows], axis=-1)
    return torch.from_numpy(flows)


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Look up each pixel where it moved to: out(x) = images(x + flow(x)), bilinear.

    With ``images`` = frames 1..F-1 and their flow from the frame before, the result lies on
    frames 0..F-2. Beyond the border the edge repeats.

    Args:
        images: [N, H, W, C].
        flow: [N, H, W, 2], pixels (x, y).

    Returns:
        [N, H, W, C], differentiable in both.

    Raises:
        ValueError: the flow is of another size than the images.
    """
    if images.shape[:3] != flow.shape[:3] or flow.shape[-1] != 2:
        raise ValueError(f"flow: expected {[*images.shape[:3], 2]}, but got {list(flow.shape)}.")
    height, width = images.shape[1:3]
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device, dtype=flow.dtype),
        torch.arange(width, device=flow.device, dtype=flow.dtype),
        indexing="ij",
    )
    # Pixel centres: -1 and 1 are the outer borders of the first and last pixel.
    size = flow.new_tensor([width, height])
    grid = (torch.stack([x, y], -1) + flow + 0.5) * 2 / size - 1
    sampled = torch.nn.functional.grid_sample(
        images.movedim(-1, 1), grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.movedim(1, -1)


def raft_flow(network: Callable[[Tensor, Tensor], Sequence[Tensor]], first: Tensor, second: Tensor) -> Tensor:
    """Flow by RAFT (Teed and Deng 2020) as torchvision builds it.

    RAFT wants sides that divide by 8 and at least 128 pixels: the edge is repeated on the right and below, which
    moves nothing.

    Args:
        network: of two pictures [1, 3, H, W] in -1..1; its last answer counts.
        first, second: [H, W, 3] in 0..1.

    Returns:
        [H, W, 2] float32 on the CPU, pixels (x, y).
    """
    height, width = first.shape[:2]
    missing = [max(-(-side // 8) * 8, 128) - side for side in (width, height)]
    pair = torch.stack([first, second]).movedim(-1, 1).float() * 2 - 1
    pair = torch.nn.functional.pad(pair, (0, missing[0], 0, missing[1]), mode="replicate")
    with torch.no_grad():
        flow = network(pair[:1], pair[1:])[-1][0]
    return flow[:, :height, :width].movedim(0, -1).float().cpu()


def consistent(forward: Tensor, backward: Tensor) -> Tensor:
    """Points that are seen in both frames, as far as two estimated flows tell.

    |f(x) + b(x + f(x))|^2 < 0.01 (|f(x)|^2 + |b(x + f(x))|^2) + 0.5 (Sundaram, Brox, Keutzer 2010, "Dense point
    trajectories by GPU-accelerated large displacement optical flow"), and x + f(x) lies on the picture.

    Args:
        forward: [N, H, W, 2] from each frame to the next. backward: the same, from the next to each.

    Returns:
        bool [N, H, W].
    """
    height, width = forward.shape[1:3]
    back = warp(backward, forward)
    near = (forward + back).square().sum(-1) < 0.01 * (forward.square().sum(-1) + back.square().sum(-1)) + 0.5
    x = torch.arange(width, device=forward.device) + forward[..., 0]
    y = torch.arange(height, device=forward.device)[:, None] + forward[..., 1]
    return near & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def motion_boundary(flow: Tensor) -> Tensor:
    """Points at which a flow changes abruptly, as it does around what moves, where estimates are least to be trusted.

    |grad u|^2 + |grad v|^2 > 0.01 |flow|^2 + 0.002 for flow = (u, v) (Sundaram, Brox, Keutzer 2010), gradients by
    differences to the right and below, 0 beyond the last column and row.

    Args:
        flow: [N, H, W, 2].

    Returns:
        bool [N, H, W].
    """
    gradient = torch.zeros_like(flow[..., 0])
    gradient[:, :, :-1] += flow.diff(dim=2).square().sum(-1)
    gradient[:, :-1] += flow.diff(dim=1).square().sum(-1)
    return gradient > 0.01 * flow.square().sum(-1) + 0.002
