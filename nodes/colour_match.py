"""The colours of an edit brought back to those of its source."""

from __future__ import annotations

from comfy_api.latest import io

from .pictures import progress
from .plate import CATEGORY, check_images, mask_of

METHODS = ["mean and spread", "mean", "histogram"]
SPANS = ["whole clip", "drift", "each frame"]
REGIONS = ["inside", "outside", "measure outside, change all"]


class ColorMatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditColorMatch",
            display_name="Color Match",
            category=CATEGORY,
            description="Gives an edited clip the colours of another: of the clip before its edit, or of one frame. "
            "Takes out a cast that a model brought in, and colours that drift along the clip, without flicker.",
            inputs=[
                io.Image.Input("images", tooltip="The clip whose colours change."),
                io.Image.Input("reference", optional=True, tooltip="Whose colours it gets: a clip of as many frames, "
                               "or one frame. Without it the clip's own first frame, so that its drift goes."),
                io.Combo.Input("method", options=METHODS, default=METHODS[0], tooltip="mean and spread: brightness, "
                               "cast and contrast. mean: no contrast. histogram: every tone; strongest."),
                io.Combo.Input("span", options=SPANS, default=SPANS[0], tooltip="whole clip: one change for all "
                               "frames, never flickers. drift: follows what changes slowly. each frame: exact, and may "
                               "flicker where things move in and out."),
                io.Float.Input("smooth", default=12.0, min=0.0, max=10000.0, step=0.5, tooltip="For drift: over how "
                               "many frames (standard deviation)."),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05, tooltip="How much of the change: "
                               "1 all of it, 0 none."),
                io.Combo.Input("region", options=REGIONS, default=REGIONS[0], tooltip="With a mask: what is measured "
                               "and changed. Outside of an object and everywhere is for edits that change the object's "
                               "colours on purpose."),
                io.Mask.Input("mask", optional=True, tooltip="Of the images, one or one a frame. Without it all of the "
                              "picture."),
                io.Mask.Input("reference_mask", optional=True, tooltip="The same region in the reference. Without it "
                              "the mask, where the reference has its size; else all of the picture."),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The clip in the reference's colours.")],
        )

    @classmethod
    def execute(cls, images, method, span, smooth, strength, region, reference=None, mask=None,
                reference_mask=None) -> io.NodeOutput:
        from ..vision.colour import matched

        check_images("images", images)
        reference = images[:1] if reference is None else reference
        check_images("reference", reference)
        mask = mask_of("mask", mask, images)
        other = mask_of("reference_mask", reference_mask, reference)
        if other is None and mask is not None and mask.shape[1:] == reference.shape[1:3]:
            other = mask if len(mask) in (1, len(reference)) else mask[: len(reference)]
        if region != REGIONS[0]:
            mask, other = (None if part is None else 1 - part for part in (mask, other))
        change = None if region == REGIONS[2] else mask
        return io.NodeOutput(matched(images, reference, method, span, smooth, strength, mask, other, change,
                                     progress(len(images), "matching colours")))


NODES = [ColorMatch]
