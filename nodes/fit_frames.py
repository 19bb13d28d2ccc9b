"""Pictures at a model's size, and one frame of a clip: what does not fit is said here, ahead of any model."""

from __future__ import annotations

from comfy_api.latest import io

from .plate import check_images

CATEGORY = "SteadyEdit/video"
FITS = ["crop", "pad", "stretch"]


class FitFrames(io.ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditFitFrames",
            display_name="Fit Frames",
            category=CATEGORY,
            description="Brings pictures to a model's size. A portrait clip gets the size on its side (480x832 for "
            "832x480), so that it does not lose two thirds of itself.",
            inputs=[
                io.Image.Input("images", tooltip="A clip, its edited first frame, or a mask as pictures."),
                io.Int.Input("width", default=832, min=8, max=8192, step=8, tooltip="Width in pixels."),
                io.Int.Input("height", default=480, min=8, max=8192, step=8, tooltip="Height in pixels."),
                io.Combo.Input("fit", options=FITS, default="crop", tooltip="For other proportions: cut the sides, "
                               "add black bars, or distort."),
                io.Boolean.Input("turn", default=True, tooltip="On: width and height change places where the pictures "
                                 "are portrait and the size is landscape, or the other way round."),
                io.Int.Input("multiple", default=16, min=1, max=256, tooltip="Both sides must be multiples of so many "
                             "pixels: 16 for video models, 8 for Stable Diffusion."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures at that size."),
                io.Int.Output(display_name="width", tooltip="Their width."),
                io.Int.Output(display_name="height", tooltip="Their height."),
            ],
        )

    @classmethod
    def validate_inputs(cls, width=None, height=None, multiple=None) -> bool | str:
        return misfit(width, height, multiple) or True

    @classmethod
    def execute(cls, images, width, height, fit, turn, multiple) -> io.NodeOutput:
        from ..video.frames_of import fitted

        if problem := misfit(width, height, multiple):
            raise ValueError(problem)
        check_images("images", images)
        if turn and (images.shape[1] - images.shape[2]) * (height - width) < 0:
            width, height = height, width
        return io.NodeOutput(fitted(images[..., :3], (width, height), fit), width, height)


def misfit(width: int | None, height: int | None, multiple: int | None) -> str:
    """What is wrong with the widgets, as far as they are known before the run; "" where nothing is."""
    for name, side in (("width", width), ("height", height)):
        if side is None or multiple is None:
            continue
        if not 0 < side <= 8192 or multiple < 1:
            return f"{name}: {side} pixels, but 8 to 8192 are possible, in multiples of 1 or more."
        if side % multiple:
            down = side // multiple * multiple
            return f"{name}: {side} pixels do not divide by {multiple}; use {down or multiple} or {down + multiple}."
    return ""


class PickFrame(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditPickFrame",
            display_name="Pick Frame",
            category=CATEGORY,
            description="One frame of a clip by its number. A number beyond the clip's end is refused; the core Get "
            "Image from Batch would take the last frame instead, and the wrong pair would be trained.",
            inputs=[
                io.Image.Input("images", tooltip="The clip."),
                io.Int.Input("frame", default=0, min=-100000, max=100000, tooltip="Counted from 0; -1 is the last "
                             "one, -2 the one before."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="That frame.")],
        )

    @classmethod
    def execute(cls, images, frame) -> io.NodeOutput:
        check_images("images", images)
        if not -len(images) <= frame < len(images):
            raise ValueError(f"frame: there is no frame {frame} in a clip of {len(images)}; use 0 to "
                             f"{len(images) - 1}.")
        frame %= len(images)
        return io.NodeOutput(images[frame : frame + 1].clone())


NODES = [FitFrames, PickFrame]
