"""ControlNets on diffusers: how a hint is fitted, and how conditions with and without one go in one call."""

from __future__ import annotations

import torch
from steadyedit.backends.diffusers.control import added_up, fit


def test_a_hint_is_cut_around_its_centre():
    """12 x 20 to squares: 4 columns go on either side; 20 x 12 alike; then every third pixel's nearest."""
    wide = torch.arange(12 * 20.0).reshape(1, 1, 12, 20)
    assert torch.equal(fit(wide, 12, 12), wide[..., 4:16])
    tall = wide.mT.contiguous()
    assert torch.equal(fit(tall, 12, 12), tall[..., 4:16, :])
    assert torch.equal(fit(wide, 4, 4), wide[..., 4:16][..., 1::3, 1::3])
    assert fit(wide, 12, 20) is wide


def test_a_condition_without_a_controlnet_gets_zeros_beside_one_that_has_it():
    residuals = [torch.ones(2, 4, 8, 8), torch.full((2, 8, 4, 4), 2.0)], torch.full((2, 8, 2, 2), 3.0)
    assert added_up([None, None]) is None
    for place, branches in enumerate(([residuals, None], [None, residuals])):
        down, middle = added_up(branches)
        for whole, one in zip([*down, middle], [*residuals[0], residuals[1]], strict=True):
            parts = whole.chunk(2)
            assert torch.equal(parts[place], one) and not parts[1 - place].any()
    down, middle = added_up([residuals, residuals])
    assert torch.equal(middle, torch.cat([residuals[1]] * 2)) and len(down) == 2
