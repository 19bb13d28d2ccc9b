"""FlowEdit's path against the paper's algorithm written out, in float64; masks of video latents; what is refused."""

from __future__ import annotations

import pytest
import torch
from steadyedit.methods.flow_edit import FlowEdit, FlowEditPrompts, check_sigmas, flow_edit
from steadyedit.methods.via.latent_mask import video_keep_mask
from tolerances import FLOAT64

SHAPE, STEPS = (2, 3, 5, 4), 7
SIGMAS = torch.tensor([1.0, 0.93, 0.8, 0.61, 0.5, 0.2, 0.04, 0.0], dtype=torch.float64)


def clip():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def velocity(x, sigma, side):
    """Nonlinear, other at each level, and mixing the rows."""
    if side == "target":
        return torch.sin(2 * x) * (1 + sigma) + x.mean(0, keepdim=True) - 0.3
    return torch.cos(x) + sigma**2 * x


def edited(keep=None, seed=3, **settings):
    x, settings = clip(), FlowEdit(**settings)
    draw = settings.draws(x.shape, seed)
    return flow_edit(velocity, lambda s, eps: (1 - s) * x + s * eps, lambda: draw().double(), x, SIGMAS, settings, keep)


def written_out(n_max, n_min, n_avg, shared, keep=0.0, seed=3):
    """Algorithm 1 with the paper's indices: t[0] = 0 ... t[T]."""
    t, source = SIGMAS.flip(0).tolist(), clip()
    generator = torch.Generator().manual_seed(seed)

    def noise():
        rows = torch.randn((1 if shared else SHAPE[0], *SHAPE[1:]), generator=generator).double()
        return rows.repeat(SHAPE[0] // len(rows), 1, 1, 1)

    z = source.clone()
    for i in range(n_max, n_min, -1):
        total = 0
        for _ in range(n_avg):
            eps = noise()
            x_source = t[i] * eps + (1 - t[i]) * source
            x_target = z - source + x_source
            total = total + (velocity(x_target, t[i], "target") - velocity(x_source, t[i], "source")) / n_avg
        z = z - (t[i] - t[i - 1]) * (1 - keep) * total
    if n_min:
        eps = noise()
        x = z - source + t[n_min] * eps + (1 - t[n_min]) * source
        for i in range(n_min, 0, -1):
            x = x - (t[i] - t[i - 1]) * velocity(x, t[i], "target")
            x = keep * (t[i - 1] * eps + (1 - t[i - 1]) * source) + (1 - keep) * x
        return x
    return z


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("n_max", "n_min", "n_avg"), [(7, 0, 1), (5, 0, 3), (1, 0, 1), (6, 2, 2), (4, 4, 1)])
def test_it_is_the_papers_algorithm(n_max, n_min, n_avg, shared):
    found = edited(n_max=n_max, n_min=n_min, n_avg=n_avg, shared_noise=shared)
    expected = written_out(n_max, n_min, n_avg, shared)
    assert (found - expected).abs().max() < FLOAT64 * expected.abs().max()
    assert (found - clip()).abs().max() > 0.05


@pytest.mark.parametrize("n_min", [0, 3])
def test_what_is_kept_comes_out_bit_for_bit_and_soft_cells_move_in_part(n_min):
    keep = torch.zeros(1, 1, 5, 4, dtype=torch.float64)
    keep[..., :2] = 1
    keep[..., 2] = 0.4
    found, expected = edited(keep, n_max=6, n_min=n_min), written_out(6, n_min, 1, True, keep)
    assert torch.equal(found[..., :2], clip()[..., :2])
    assert (found - expected).abs().max() < FLOAT64 * expected.abs().max()
    assert ((found - clip()).abs()[..., 2:] > 0).all()


def test_equal_sides_change_nothing():
    x, settings = clip(), FlowEdit(n_max=5)
    draw = settings.draws(x.shape, 0)
    same = flow_edit(lambda x, s, side: torch.sin(x), lambda s, eps: (1 - s) * x + s * eps, lambda: draw().double(), x,
                     SIGMAS, settings)
    assert (same - x).abs().max() < FLOAT64


def test_every_step_is_reported_with_what_it_foresees():
    x, told, settings = clip(), [], FlowEdit(n_max=4, n_min=1)
    draw = settings.draws(x.shape, 0)
    out = flow_edit(velocity, lambda s, eps: (1 - s) * x + s * eps, lambda: draw().double(), x, SIGMAS, settings,
                    report=lambda *said: told.append(said))
    assert [step for step, _, _ in told] == [0, 1, 2, 3]
    assert (told[-1][2] - out).abs().max() < FLOAT64 * out.abs().max()


def test_masks_of_a_video_keep_a_cell_only_where_no_frame_of_it_is_edited():
    mask = torch.zeros(10, 16, 24)  # 9 frames are encoded: 1 + 2 * 4; the tenth is not
    mask[6, :8, :8] = 1
    mask[0, 8:, 20:] = 1
    mask[9] = 1
    keep = video_keep_mask(mask, 3, 2, 3)
    expected = torch.ones(1, 1, 3, 2, 3)
    expected[0, 0, 2, 0, 0] = 0
    expected[0, 0, 0, 1, 2] = 0.5
    assert torch.equal(keep, expected)
    assert video_keep_mask(mask, 3, 2, 3, soft=False)[0, 0, 0, 1, 2] == 0
    assert video_keep_mask(mask[:1], 3, 2, 3).shape == (1, 1, 1, 2, 3)
    assert video_keep_mask(mask[:9], 2, 2, 3, stride=8)[0, 0, 1, 0, 0] == 0
    assert video_keep_mask(mask[:3], 3, 2, 3).shape == (1, 1, 3, 2, 3)
    with pytest.raises(ValueError, match="mask: 7 masks do not fit a latent of 3 frames, which are 9 frames of video"):
        video_keep_mask(mask[:7], 3, 2, 3)


@pytest.mark.parametrize(("sigmas", "said"), [
    ([1.0, 0.5, 0.1], "sigmas: FlowEdit needs noise levels that descend to 0"),
    ([0.0, 0.5, 1.0], "sigmas: FlowEdit needs noise levels that descend to 0"),
    ([0.0], "sigmas: FlowEdit needs noise levels that descend to 0"),
    ([], "sigmas: FlowEdit needs noise levels that descend to 0"),
    ([14.6, 5.0, 2.0, 0.7, 0.0], "sigmas: begin at 14.6"),
    ([1.0, 0.5, 0.0], "n_max: 3 steps are more than the 2 that the sigmas have; set n_max to 2 or less"),
])
def test_wrong_sigmas_are_told(sigmas, said):
    with pytest.raises(ValueError, match=said):
        check_sigmas(torch.tensor(sigmas), FlowEdit(n_max=3))


def test_wrong_settings_are_told():
    for settings, said in [({"n_max": 2, "n_min": 3}, "n_min: 3 steps at the end are more than the 2 of n_max"),
                           ({"n_max": 0}, "n_max: expected n_max and n_avg of at least 1"),
                           ({"n_avg": 0}, "n_max: expected n_max and n_avg of at least 1")]:
        with pytest.raises(ValueError, match=said):
            FlowEdit(**settings)
    with pytest.raises(ValueError, match="target_guidance: 13.5 guides away from a negative prompt, but none"):
        FlowEditPrompts([], [], None, None, source_guidance=1)
