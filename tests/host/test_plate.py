"""Crop, stitch and colours in the host: as it calls nodes, in inference mode."""

from __future__ import annotations

import pytest
import torch
from steadyedit import nodes
from tolerances import NETWORK, RUN

NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}


def run(node_id, **inputs):
    """Call a node as the host does, with its defaults."""
    schema = NODES[node_id].GET_SCHEMA()
    defaults = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None}
    with torch.inference_mode():
        return NODES[node_id].execute(**{**defaults, **inputs}).args


def test_a_large_frame_is_edited_in_its_box_alone():
    images = torch.rand(3, 540, 960, 3)
    mask = torch.zeros(3, 540, 960)
    for i in range(3):
        mask[i, 200:280, 300 + 40 * i : 380 + 40 * i] = 1
    boxes, inside, crop, width, height = run("SteadyEditCropToMask", images=images, mask=mask, width=96, height=96)
    assert boxes.shape == (3, 96, 96, 3) and inside.shape == (3, 96, 96) and (width, height) == (96, 96)
    (out,) = run("SteadyEditStitch", original=images, edited=1 - boxes, crop=crop, mask=inside)
    changed = (out != images).any(-1)
    assert changed[mask > 0].float().mean() > 0.99 and changed.float().mean() < 0.06
    outside = torch.ones_like(mask, dtype=torch.bool)
    for i in range(3):
        x1, y1, x2, y2 = crop.inside(i)
        outside[i, y1:y2, x1:x2] = False
    assert not changed[outside].any()
    with pytest.raises(ValueError, match="edited: has 1 frames, but 3 were cropped"):
        run("SteadyEditStitch", original=images, edited=boxes[:1], crop=crop)
    with pytest.raises(TypeError, match="crop: expected that of Crop to Mask"):
        run("SteadyEditStitch", original=images, edited=boxes, crop=None)
    with pytest.raises(ValueError, match="mask: is 10x10, but its images are 960x540"):
        run("SteadyEditCropToMask", images=images, mask=torch.ones(1, 10, 10))


def test_colours_of_the_source_come_back_by_region():
    source = 0.3 + 0.4 * torch.rand(6, 40, 60, 3)
    mask = torch.zeros(6, 40, 60)
    mask[:, 10:30, 20:40] = 1
    edited = source.clone()
    edited[mask == 1] = torch.tensor([0.9, 0.1, 0.1])
    cast = (edited * torch.tensor([0.8, 1.0, 1.0]) + 0.05).clamp(0, 1)
    (out,) = run("SteadyEditColorMatch", images=cast, reference=source, mask=mask, region="measure outside, change all")
    assert (out - source)[mask == 0].abs().max() < NETWORK, "the cast is gone"
    assert (out - edited)[mask == 1].abs().max() < RUN, "and the edit's own colour is not"
    (outside,) = run("SteadyEditColorMatch", images=cast, reference=source, mask=mask, region="outside")
    assert torch.equal(outside[mask == 1], cast[mask == 1]) and (outside - source)[mask == 0].abs().max() < NETWORK
    drift = source + 0.2 * (torch.arange(6) / 5)[:, None, None, None]
    (still,) = run("SteadyEditColorMatch", images=drift, method="mean", span="each frame")
    assert still.mean((1, 2)).std(0).max() < NETWORK
    with pytest.raises(ValueError, match="^reference: has 2 frames, but images 6"):
        run("SteadyEditColorMatch", images=cast, reference=source[:2], span="drift")
    with pytest.raises(ValueError, match="^reference_mask: is 60x40, but its images are 8x8"):
        run("SteadyEditColorMatch", images=cast, reference=source[:, :8, :8], reference_mask=mask)
