"""Clicks -> masks."""

from __future__ import annotations

import json
import logging

from comfy_api.latest import io

from .pictures import CATEGORY, NOTHING, Boxes, Sam, clip_of, explain_out_of_memory
from .shown_frames import shown_frames, shown_masks

#: Keys under which web/js finds the frames and the masks.
PICTURE, OVERLAY = "steadyedit_frame", "steadyedit_masks"

TYPED = ("typed as 10,20; 30,40 (| 12: 5,6 for frame 12, | 12#2: 5,6 for its second object), or as the JSON that the "
         "SAM 3 nodes of ComfyUI take")


class PointMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditPointMask",
            display_name="Point Mask",
            category=CATEGORY,
            description="Masks what you click on, in one frame or several, one object or several. Run once to see "
            "the clip in the node; then click on the object, right-click on what does not belong to it, and drag for "
            "a box.",
            # Runs on its own, so that the clip can be seen before all else runs, and shows itself again when cached.
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The clip, or one picture."),
                Sam.Input("sam", lazy=True, tooltip="From SAM Model; opened once there is a mark."),
                io.Int.Input("frame", default=0, min=0, max=10**6, tooltip="Which frame is shown first, counted from "
                             "0, and the frame of all marks whose frame is not written beside them."),
                io.String.Input("positive", default="", tooltip=f"Points on the object in pixels, clicked or {TYPED}."),
                io.String.Input("negative", default="", tooltip=f"Points beside it, right-clicked or {TYPED}."),
                io.String.Input("boxes", default="", tooltip="Boxes around objects in pixels, dragged or typed as "
                                "x,y,width,height; x,y,width,height, with frame and object as for the points."),
                io.Combo.Input("on_nothing", options=NOTHING, default="empty mask", tooltip="What to do where there is "
                               "neither a point nor a box, or the mask is empty: go on with an empty mask and a "
                               "warning, or stop."),
                Boxes.Input("bboxes", optional=True, extra_dict={"forceInput": True},
                            tooltip="Boxes from other nodes, of the frame named above."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One mask for each of the frames, all objects joined."),
                io.Float.Output(display_name="score", tooltip="The network's guess how good they are (IoU): the "
                                "lowest."),
                io.String.Output(display_name="positive_coords", tooltip="The points of the first object in the first "
                                 "of the frames, as ComfyUI's nodes take them."),
                io.String.Output(display_name="negative_coords", tooltip="The other points, likewise."),
                Boxes.Output(display_name="bboxes", tooltip="The boxes of each of the frames."),
                io.String.Output(display_name="frames", tooltip="The numbers of the frames, for Track Mask."),
                io.Mask.Output(display_name="object_masks", is_output_list=True, tooltip="A list, the masks of each "
                               "object in its own frames: nodes behind it run once for each object."),
                io.String.Output(display_name="object_frames", is_output_list=True, tooltip="The list of their "
                                 "frames, for Track Mask beside object_masks."),
            ],
        )

    @classmethod
    def check_lazy_status(cls, positive="", negative="", boxes="", bboxes=None, sam=None, **rest) -> list[str]:
        asked = any(isinstance(text, str) and text.strip() for text in (positive, boxes)) or bboxes is not None
        return ["sam"] if asked and sam is None else []

    @classmethod
    def execute(cls, images, sam=None, frame=0, positive="", negative="", boxes="", on_nothing="empty mask",
                bboxes=None) -> io.NodeOutput:
        from ..vision.boxes import per_frame
        from ..vision.marks import Marks, arranged, marks_of, masks_of_marks
        from ..vision.masks import check_inside

        clip = clip_of(images)
        if frame >= len(clip):
            raise ValueError(f"frame: there is no frame {frame} in a clip of {len(clip)}; use 0 to {len(clip) - 1}.")
        marks = marks_of(positive, negative, boxes, frame, *clip.shape[:3])
        if bboxes is not None:
            given = per_frame(bboxes, frame + 1, "bboxes")[frame]
            check_inside(given, "bboxes", *clip.shape[1:3])
            marks.setdefault((frame, 1), Marks()).boxes.extend(given)
        asked, found = any(one.prompts() for one in marks.values()), {}
        if asked:
            with explain_out_of_memory("segmenting", 1, clip):
                found = masks_of_marks(sam.ready(1), clip, marks)
        masks = {place: mask for place, (mask, _) in found.items()}
        score = min((value for _, value in found.values()), default=0.0)
        if not any(mask.any() for mask in masks.values()):
            sentence = ("positive: the network finds nothing there; click elsewhere." if asked else
                        "positive: the mask is empty; click on the object in the node, or type a point.")
            if on_nothing == "error":
                raise ValueError(sentence)
            logging.warning(sentence)
        frames, joined, each, lacking = arranged(masks, frame, *clip.shape[1:3])
        for at, number in lacking:
            logging.warning(f"positive: object {number} has no mark in frame {at}, so the joined mask lacks it there; "
                            "mark it there too, or use object_masks.")
        first = marks.get((frames[0], min(each)), Marks())
        coords = [json.dumps([{"x": x, "y": y} for x, y in points]) for points in (first.positive, first.negative)]
        rows = [sum((one.boxes for (at, _), one in marks.items() if at == number), []) for number in frames]
        ui = {PICTURE: [{**shown_frames(clip), "frame": frame}], OVERLAY: shown_masks(masks)}
        return io.NodeOutput(joined, score, *coords, rows, ", ".join(map(str, frames)),
                             [own for _, own in each.values()], [", ".join(map(str, at)) for at, _ in each.values()],
                             ui=ui)


NODES = [PointMask]
