"""Crop, edit, stitch as a graph without a host: an object recoloured in its box alone."""

from __future__ import annotations

import sys

import pytest
import torch
from steadyedit.standalone.run import run_standalone
from tolerances import RUN

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")

CROP = {"width": 0, "height": 0, "aspect": "1:1", "padding": 0.25, "motion": "moving", "smooth": 8.0, "multiple": 16}
GRAPH = {
    "1": {"class_type": "SteadyEditToyClip", "inputs": {"seed": 3, "frames": 5, "size": 192, "edit": "colour",
                                                         "split": "demo"}},
    "2": {"class_type": "SteadyEditCropToMask", "inputs": {"images": ["1", 0], "mask": ["1", 3], **CROP}},
    # The true answer's box stands for the edit.
    "3": {"class_type": "SteadyEditCropToMask", "inputs": {"images": ["1", 4], "mask": ["1", 3], **CROP}},
    "4": {"class_type": "SteadyEditStitch", "inputs": {"original": ["1", 0], "edited": ["3", 0], "crop": ["2", 2],
                                                        "feather": 4, "match_colour": False, "mask": ["2", 1]}},
    "5": {"class_type": "SteadyEditColorMatch", "inputs": {
        "images": ["4", 0], "reference": ["1", 4], "method": "mean", "span": "whole clip", "smooth": 12.0,
        "strength": 1.0, "region": "inside"}},
    "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
}  # fmt: skip


def test_the_edit_in_the_box_becomes_the_edit_of_the_clip(tmp_path):
    results = run_standalone(GRAPH, tmp_path).results
    images, mask, truth = (results["1"][i] for i in (0, 3, 4))
    boxes, _, crop, width, height = results["2"]
    assert crop == results["3"][2] and boxes.shape[1:3] == (height, width) and width < 192
    (out,) = results["4"]
    assert not torch.equal(out, images)
    assert torch.equal(out[mask == 1], truth[mask == 1])
    # Nothing but the object changes its colour, so that all of the frame is the true answer but for the object's rim.
    assert (out - truth).abs().mean() < 0.1 * (images - truth).abs().mean()
    assert (results["5"][0].mean((0, 1, 2)) - truth.mean((0, 1, 2))).abs().max() < RUN
