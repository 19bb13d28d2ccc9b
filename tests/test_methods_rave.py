"""RAVE: its grids are exact, its orders are random but reproducible, and a sampler notices nothing of either."""

from __future__ import annotations

import pytest
import torch
from steadyedit.methods.rave import Rave, denoise_in_grids, from_grid, to_grid
from steadyedit.methods.rave.frame_grid import filled, permutation
from steadyedit.methods.sampling_plan import RunFacts

SIGMAS = torch.tensor([14.6, 7.0, 3.0, 1.0, 0.0])


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_the_round_trip_is_exact(grid):
    frames = torch.randn(2 * grid**2, 3, 5, 7)
    pictures = to_grid(frames, grid)
    assert pictures.shape == (2, 3, 5 * grid, 7 * grid)
    assert torch.equal(from_grid(pictures, grid), frames)


def test_frames_lie_row_by_row():
    frames = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 2, 3)
    expected = torch.tensor([[0.0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2)
    assert torch.equal(to_grid(frames, 2)[0, 0], expected)


def test_grids_that_do_not_fill_are_refused():
    with pytest.raises(ValueError, match="5 do not fill grids of 2x2"):
        to_grid(torch.zeros(5, 4, 2, 2), 2)
    with pytest.raises(ValueError, match="5x4 is no grid of 2x2"):
        from_grid(torch.zeros(1, 4, 5, 4), 2)


@pytest.mark.parametrize("frames, grid", [(8, 2), (9, 2), (10, 3), (3, 2), (1, 3), (18, 3)])
def test_every_frame_has_one_place_of_its_own(frames, grid):
    order = Rave(grid, seed=5).order(frames, 2)
    assert len(order) % grid**2 == 0 and len(order) - frames < grid**2
    assert sorted(order[:frames]) == list(range(frames))


def test_the_last_grid_is_filled_with_other_frames():
    for step in range(20):
        order = Rave(2, seed=1).order(9, step)
        assert len(set(order[8:])) == 4, "a frame twice in one grid tells nothing"
    assert filled((2, 0, 1), 2) == (2, 0, 1, 2), "fewer frames than places: some come twice"


def test_orders_are_reproducible_and_differ_by_step_and_seed():
    assert permutation(6, 0, 0) == permutation(6, 0, 0) == (3, 5, 1, 2, 0, 4)
    orders = {permutation(8, seed, step) for seed in range(5) for step in range(10)}
    assert len(orders) == 50
    firsts = torch.tensor([permutation(4, 3, step)[0] for step in range(2000)]).bincount()
    assert (firsts - 500).abs().max() < 80, "every frame comes first equally often"


def test_a_step_is_known_by_its_sigma():
    run = RunFacts(4, SIGMAS.double())
    assert [run.step_of(float(sigma)) for sigma in SIGMAS[:-1]] == [0, 1, 2, 3]
    assert run.step_of(float(SIGMAS[1]) * (1 + 1e-6)) == 1, "rounding is no step"
    assert run.step_of(5.0) == 2, "between two levels: the order of the lower one"


@pytest.mark.parametrize("bad", [{"grid": 0}, {"chunk": -1}])
def test_settings_outside_of_their_range(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
        Rave(**bad)


@pytest.mark.parametrize("frames, grid", [(8, 2), (7, 2), (10, 3), (2, 3)])
def test_a_frame_wise_denoiser_does_not_notice(frames, grid):
    """Laid out, denoised pixel by pixel, taken out: each frame has its own result back."""
    x = torch.randn(frames, 4, 3, 5)
    seen = []

    def pictures(tiles, order):
        seen.append((tiles.shape, order))
        return tiles * 2 + 1

    for step in range(4):
        assert torch.equal(denoise_in_grids(Rave(grid), pictures, x, step), x * 2 + 1)
    assert all(shape[-2:] == (3 * grid, 5 * grid) for shape, _ in seen)
    assert len({order for _, order in seen}) == (4 if frames > 2 else 2)


def test_a_grid_of_one_is_left_as_it_is():
    x = torch.randn(5, 4, 3, 5)
    seen = []
    denoise_in_grids(Rave(1), lambda tiles, order: seen.append((tiles, order)) or tiles, x, 1)
    assert seen[0][0] is x and seen[0][1] == (0, 1, 2, 3, 4)


def test_without_shuffling_the_clip_keeps_its_order():
    assert Rave(2, shuffle=False).order(6, 3) == (0, 1, 2, 3, 4, 5, 0, 1)
