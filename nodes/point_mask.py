"""Clicks -> a mask."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from .pictures import CATEGORY, NOTHING, Boxes, Sam, clip_of, memory_told

#: Key under which web/js/point_mask.js finds the frame.
PICTURE = "steadyedit_frame"

TYPED = "typed as 10,20; 30,40, or as the JSON that the host's SAM 3 nodes take"


def in_the_node(picture: Any, cls: type) -> Any:
    """The frame for the node's own widget, instead of a preview below it."""
    from comfy_api.latest import ui

    shown = ui.PreviewImage(picture, cls=cls)
    return {PICTURE: shown.as_dict()["images"]} if hasattr(shown, "as_dict") else shown


class PointMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditPointMask",
            display_name="Point Mask",
            category=CATEGORY,
            description="Masks what you click on in one frame. Run once to see the frame in the node; then click on "
            "the object, Shift-click on what does not belong to it, and drag for a box.",
            inputs=[
                io.Image.Input("images", tooltip="The clip, or one picture."),
                Sam.Input("sam", tooltip="From SAM Model."),
                io.Int.Input("frame", default=0, min=0, max=10**6, tooltip="Which frame, counted from 0."),
                io.String.Input("positive", default="", tooltip=f"Points on the object in pixels, clicked or {TYPED}."),
                io.String.Input("negative", default="", tooltip=f"Points beside the object, Shift-clicked or {TYPED}."),
                io.String.Input("boxes", default="", tooltip="Boxes around objects in pixels, dragged or typed as "
                                "x,y,width,height; x,y,width,height."),
                io.Combo.Input("on_nothing", options=NOTHING, default="empty mask", tooltip="What to do where there is "
                               "neither a point nor a box, or the mask is empty: go on with an empty mask and a "
                               "warning, or stop."),
                Boxes.Input("bboxes", optional=True, extra_dict={"forceInput": True},
                            tooltip="Boxes from other nodes, of the same frame."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="The mask of this frame."),
                io.Float.Output(display_name="score", tooltip="The network's guess how good it is (IoU)."),
                io.String.Output(display_name="positive_coords", tooltip="The points, as the host's nodes take them."),
                io.String.Output(display_name="negative_coords", tooltip="The other points, likewise."),
                Boxes.Output(display_name="bboxes", tooltip="All boxes of the frame."),
                io.String.Output(display_name="frames", tooltip="The frame's number, for Track Mask."),
            ],
        )

    @classmethod
    def execute(cls, images, sam, frame, positive, negative, boxes, on_nothing, bboxes=None) -> io.NodeOutput:
        import json

        import torch

        from ..vision.boxes import per_frame
        from ..vision.masks import check_inside, masks_of, parsed_boxes, parsed_points, point_prompts

        clip = clip_of(images)
        if frame >= len(clip):
            raise ValueError(f"frame: there is no frame {frame} in a clip of {len(clip)}, counted from 0.")
        picture, (height, width) = clip[frame : frame + 1], clip.shape[1:3]
        inside, outside = (parsed_points(text, label, height, width)
                           for text, label in ((positive, "positive"), (negative, "negative")))
        found = parsed_boxes(boxes, "boxes", height, width)
        if bboxes is not None:
            given = per_frame(bboxes, frame + 1, "bboxes")[frame]
            check_inside(given, "bboxes", height, width)
            found += given
        mask, score = torch.zeros(1, height, width), 0.0
        # Points that only say what it is not ask for nothing.
        if inside or found:
            with memory_told("segmenting", 1, clip):
                mask, (score,) = masks_of(sam.ready(1), picture, [point_prompts(inside, outside, found)])
        if not mask.any():
            sentence = ("positive: the mask is empty; click on the object in the node, or type a point."
                        if not (inside or found) else "positive: the network finds nothing there; click elsewhere.")
            if on_nothing == "error":
                raise ValueError(sentence)
            logging.warning(sentence)
        coords = [json.dumps([{"x": x, "y": y} for x, y in points]) for points in (inside, outside)]
        return io.NodeOutput(mask, score, *coords, [found], str(frame), ui=in_the_node(picture, cls))


NODES = [PointMask]
