"""Crop, stitch and colours in the host: as it calls nodes, in inference mode."""

from __future__ import annotations

import pytest
import torch
from steadyedit import nodes

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
    with pytest.raises(ValueError, match="mask: is 10x10, but the images are 960x540"):
        run("SteadyEditCropToMask", images=images, mask=torch.ones(1, 10, 10))
