"""Flow and warping: known motions come out, and undo each other."""

from __future__ import annotations

import pytest
import torch
from steadyedit.vision.flow import consistent, estimate_flow, motion_boundary, raft_flow, warp
from tolerances import FLOAT32


def texture(height: int = 64, width: int = 80) -> torch.Tensor:
    """A smooth pattern that is different everywhere."""
    noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (0, -2), (2, 1)])
def test_warp_by_whole_pixels_is_exact(shift):
    images = texture()[None]
    flow = torch.tensor(shift, dtype=torch.float32).expand(1, 64, 80, 2)
    moved = torch.roll(images, (-shift[1], -shift[0]), (1, 2))
    assert torch.allclose(warp(images, flow)[:, 8:-8, 8:-8], moved[:, 8:-8, 8:-8], atol=FLOAT32)


def test_warp_between_pixels_is_bilinear():
    ramp = torch.arange(10.0).expand(1, 6, 10)[..., None]
    out = warp(ramp, torch.tensor([0.25, 0.5]).expand(1, 6, 10, 2))
    assert torch.allclose(out[0, :, :9, 0], torch.arange(9.0).expand(6, 9) + 0.25, atol=FLOAT32)
    assert torch.allclose(out[0, :, 9, 0], torch.full((6,), 9.0))  # beyond the border the edge repeats


def test_warp_names_a_flow_that_does_not_fit():
    with pytest.raises(ValueError, match=r"^flow: expected \[1, 6, 10, 2\], but got \[1, 6, 9, 2\]"):
        warp(torch.zeros(1, 6, 10, 3), torch.zeros(1, 6, 9, 2))


@pytest.mark.parametrize("shift", [(1.0, 0.0), (-1.5, 2.0), (0.0, 3.0)])
def test_a_known_motion_is_found(shift):
    """The convention's sign included: what is at x in a frame is at x + flow in the next."""
    first = texture(96, 96)[None]
    second = warp(first, -torch.tensor(shift).expand(1, 96, 96, 2))
    flow = estimate_flow(torch.cat([first, second]))
    error = (flow[0] - torch.tensor(shift)).norm(dim=-1)
    assert flow.shape == (1, 96, 96, 2)
    assert error[12:-12, 12:-12].mean() < 0.15
    back = warp(second, flow)
    assert (back - first)[:, 12:-12, 12:-12].abs().mean() < 0.02


def test_one_frame_has_no_flow():
    assert estimate_flow(torch.rand(1, 16, 16, 3)).shape == (0, 16, 16, 2)


def test_raft_gets_what_it_wants_and_its_last_answer_counts():
    seen = []

    def network(first, second):
        seen.append((first, second))
        flow = torch.stack([torch.full(first.shape[2:], 1.5), torch.full(first.shape[2:], -2.0)])[None]
        return [flow * 0, flow]

    first, second = texture(60, 140), texture(60, 140).flip(0)
    flow = raft_flow(network, first, second)
    assert flow.shape == (60, 140, 2) and flow[..., 0].eq(1.5).all() and flow[..., 1].eq(-2).all()
    one, two = seen[0]
    assert one.shape == two.shape == (1, 3, 128, 144)
    assert torch.equal(one[0, :, :60, :140], first.movedim(-1, 0) * 2 - 1)
    assert torch.equal(one[..., 59, 0], one[..., 127, 0])


def test_points_are_trusted_where_both_flows_agree_and_end_on_the_picture():
    forward = torch.zeros(1, 8, 20, 2)
    forward[..., 0] = 3
    backward = -forward
    backward[:, :, 10:13] = 5  # what lies there at the second frame came from elsewhere
    found = consistent(forward, backward)
    expected = torch.ones(1, 8, 20, dtype=torch.bool)
    expected[:, :, 7:10] = expected[:, :, 17:] = False
    assert torch.equal(found, expected)


def test_motion_boundaries():
    """Beside a step of the flow, above a threshold that grows with the motion."""
    flow = torch.zeros(2, 6, 8, 2)
    flow[0, 3, 3, 0] = 0.05  # 0.05^2 to the left and above, twice that itself
    flow[0, 1, 6, 1] = 0.04  # 2 x 0.04^2 itself, too little to the left and above
    flow[1, ..., 0] = 10
    flow[1, 3, 3, 1] = 0.9  # 2 x 0.9^2 itself, above 0.01 x 10^2; 0.9^2 is below it
    expected = torch.zeros(2, 6, 8, dtype=torch.bool)
    expected[0, 3, 3] = expected[0, 3, 2] = expected[0, 2, 3] = expected[0, 1, 6] = expected[1, 3, 3] = True
    assert torch.equal(motion_boundary(flow), expected)
