"""A part of large frames at a model's size, and its edit back in the untouched frames."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..methods.plate.boxes import ASPECTS, MOTIONS
from .pictures import progress

CATEGORY = "SteadyEdit/plate"
CropType = io.Custom("STEADYEDIT_CROP")


def check_images(label: str, images: Any) -> None:
    """Raise ValueError unless it is an IMAGE batch with finite values."""
    from ..methods.finite import check_finite

    if images.ndim != 4 or not len(images) or images.shape[-1] < 3:
        raise ValueError(f"{label}: expected an IMAGE batch, but got the shape {tuple(images.shape)}.")
    check_finite(label, images)


def mask_of(label: str, mask: Any, images: Any) -> Any:
    """A MASK [frames or 1, height, width] of an IMAGE batch; None stays None.

    Raises:
        ValueError: it is not of these images, is empty, or holds values that are not finite.
    """
    from ..methods.via.latent_mask import check_mask

    if mask is None:
        return None
    mask = check_mask(mask, len(images), label)
    if mask.shape[1:] != images.shape[1:3]:
        raise ValueError(f"{label}: is {mask.shape[2]}x{mask.shape[1]}, but its images are "
                         f"{images.shape[2]}x{images.shape[1]}; give the mask of these frames.")
    return mask


class CropToMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditCropToMask",
            display_name="Crop to Mask",
            category=CATEGORY,
            description="Cuts a box around a tracked object out of large frames, so that a model edits it at its own "
            "size. The box has one size for the clip and moves smoothly with the mask, at whole pixels: Stitch puts "
            "the edit back exactly. Frames without a mask are glided through.",
            inputs=[
                io.Image.Input("images", tooltip="The plate: the original frames, of any size."),
                io.Mask.Input("mask", tooltip="The object, 1 inside: one mask a frame (Track Mask), or one for all."),
                io.Int.Input("width", default=0, min=0, max=8192, step=16, tooltip="Width of the cropped pictures. 0: "
                             "it follows from the height, or both follow from the box, and nothing is resampled."),
                io.Int.Input("height", default=0, min=0, max=8192, step=16, tooltip="Height of the cropped pictures, "
                             "likewise."),
                io.Combo.Input("aspect", options=list(ASPECTS), default="of the mask", tooltip="Shape of the box, "
                               "where width and height are not both given. A box wider or taller than the plate "
                               "repeats the plate's edge."),
                io.Float.Input("padding", default=0.25, min=0.0, max=8.0, step=0.05, tooltip="Surroundings on each "
                               "side, as a part of the object's own size; at least 16 pixels. A model needs some to "
                               "fit its edit in."),
                io.Combo.Input("motion", options=list(MOTIONS), default=MOTIONS[0], tooltip="moving: the box follows "
                               "the object. whole clip: it stands still around all of the object's way."),
                io.Float.Input("smooth", default=8.0, min=0.0, max=1000.0, step=0.5, tooltip="Over how many frames "
                               "the moving box is smoothed; 0 follows every jitter. The object never leaves it."),
                io.Int.Input("multiple", default=16, min=1, max=256, tooltip="Sides of the cropped pictures are "
                             "multiples of so many pixels; video models need 16."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The boxes, all of one size: edit these."),
                io.Mask.Output(display_name="mask", tooltip="The mask in the boxes, one a frame."),
                CropType.Output(display_name="crop", tooltip="Where each frame's box was, for Stitch."),
                io.Int.Output(display_name="width", tooltip="Of the cropped pictures."),
                io.Int.Output(display_name="height", tooltip="Of the cropped pictures."),
            ],
        )

    @classmethod
    def execute(cls, images, mask, width, height, aspect, padding, motion, smooth, multiple) -> io.NodeOutput:
        from ..methods.plate.boxes import crop_of, cropped

        check_images("images", images)
        mask = mask_of("mask", mask, images)
        crop = crop_of(mask, len(images), width, height, aspect, padding, multiple, motion, smooth)
        taken = cropped(images, crop, progress(len(images), "cropping"))
        inside = cropped(mask.expand(len(images), -1, -1)[..., None], crop)[..., 0]
        return io.NodeOutput(taken, inside, crop, crop.out_width, crop.out_height)


class Stitch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditStitch",
            display_name="Stitch",
            category=CATEGORY,
            description="Puts an edited crop back into the original frames with a soft seam. Outside of the seam the "
            "frames are the original bit for bit, whatever the crop went through.",
            inputs=[
                io.Image.Input("original", tooltip="The frames that went into Crop to Mask."),
                io.Image.Input("edited", tooltip="The crop after its edit: as many frames, at any size of the same "
                               "proportions."),
                CropType.Input("crop", tooltip="From Crop to Mask."),
                io.Int.Input("feather", default=16, min=0, max=512, tooltip="Width of the seam in pixels of the "
                             "original: outside of the mask, or along the box without one. 0: a hard edge."),
                io.Boolean.Input("match_colour", default=False, tooltip="Shift the edit's colours smoothly so that "
                                 "they meet the original's around the edited region."),
                io.Mask.Input("mask", optional=True, tooltip="What was edited, 1 inside: of the original frames or of "
                              "the crop. Without it all of the box is edited."),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The whole frames with the edit in them.")],
        )

    @classmethod
    def execute(cls, original, edited, crop, feather, match_colour, mask=None) -> io.NodeOutput:
        from ..methods.plate.boxes import Crop
        from ..methods.plate.stitch import stitched

        if not isinstance(crop, Crop):
            raise TypeError(f"crop: expected that of Crop to Mask, but got a {type(crop).__name__}.")
        advance = progress(len(original), "stitching")
        return io.NodeOutput(stitched(original, edited, crop, mask, feather, match_colour, advance))


NODES = [CropToMask, Stitch]
