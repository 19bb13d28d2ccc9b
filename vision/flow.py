"""Dense optical flow of a clip, and warping along a flow.

A flow [H, W, 2] from frame a to frame b says, in pixels (x, y), that what is at x in a is at
x + flow(x) in b.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Rec. 601 luma: brightness is what the estimator holds constant along the motion.
_LUMA = (0.299, 0.587, 0.114)


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
    """
    from skimage.registration import optical_flow_ilk

    gray = (frames.detach().float().cpu() @ torch.tensor(_LUMA)).numpy()
    height, width = gray.shape[1:]
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
