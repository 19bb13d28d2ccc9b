"""One frame's mask -> the clip's, and masks put right."""

from __future__ import annotations

from comfy_api.latest import io

from .pictures import CATEGORY, Sam, clip_of, explain_out_of_memory, frame_numbers, progress

METHODS = ["auto", "memory", "flow"]


class TrackMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditTrackMask",
            display_name="Track Mask",
            category=CATEGORY,
            description="Carries the mask of one or some frames to all of them: by SAM 2's memory where a SAM 2 "
            "video model is connected, else by optical flow, put right in every frame by SAM. The confidence of a "
            "frame falls where the object is hidden.",
            inputs=[
                io.Image.Input("images", tooltip="The clip."),
                io.Mask.Input("mask", tooltip="Masks of the object, one for each number in frames."),
                io.String.Input("frames", default="0", tooltip="Which frames these masks are of, counted from 0, such "
                                "as 0, 12, 40; Point Mask and Text Mask give them."),
                io.Combo.Input("method", options=METHODS, default="auto", tooltip="auto: memory where SAM 2 video is "
                               "connected, else flow."),
                io.Float.Input("hidden_below", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Frames of less "
                               "confidence get an empty mask; 0 leaves them."),
                Sam.Input("sam", optional=True, tooltip="From SAM Model. Unconnected, optical flow is alone."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One for each frame."),
                io.String.Output(display_name="confidence", tooltip="One number in 0..1 for each frame."),
                io.Float.Output(display_name="lowest", tooltip="The lowest of them."),
            ],
        )

    @classmethod
    def execute(cls, images, mask, frames, method, hidden_below, sam=None) -> io.NodeOutput:
        from ..vision.track import track

        clip = clip_of(images)
        numbers = frame_numbers("frames", frames, len(clip))
        mask = mask[None] if mask.ndim == 2 else mask
        if not numbers or len(mask) != len(numbers):
            raise ValueError(f"frames: names {len(numbers)} frames, but mask holds {len(mask)}; name one for each.")
        if mask.shape[1:] != clip.shape[1:3]:
            raise ValueError(f"mask: is {mask.shape[2]}x{mask.shape[1]}, but the images are "
                             f"{clip.shape[2]}x{clip.shape[1]}; give the mask of these frames.")
        if not (mask > 0.5).any():
            raise ValueError("mask: is empty, so that there is nothing to follow; click on or name what to track.")
        remembers = sam is not None and hasattr(sam.model, "track")
        if method == "memory" and not remembers:
            raise ValueError("method: memory needs a SAM 2 video model in sam, but there is "
                             f"{sam.name if sam else 'none'}; load one, such as sam2.1-hiera-small, or choose flow.")
        given, advance = dict(zip(numbers, mask)), progress(len(clip), "tracking")
        with explain_out_of_memory("tracking", 1, clip):
            if remembers and method != "flow":
                masks, sure = sam.ready(1).track(clip, given, advance)
            else:
                masks, sure = track(clip, given, sam.ready(1) if sam else None, advance)
        masks[sure < hidden_below] = 0
        return io.NodeOutput(masks, ", ".join(f"{value:.3f}" for value in sure.tolist()), sure.min().item())


class MaskRefine(io.ComfyNode):
    #: Smoothing votes over time.
    frame_by_frame = {"smooth": 0}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditMaskRefine",
            display_name="Mask Refine",
            category=CATEGORY,
            description="Puts the masks of a clip right: drops specks, fills holes, smooths over time, grows, "
            "feathers, in this order.",
            inputs=[
                io.Mask.Input("mask", tooltip="The masks of a clip, or one."),
                io.Int.Input("specks", default=0, min=0, max=10**8, tooltip="Islands of fewer pixels are dropped."),
                io.Int.Input("holes", default=0, min=0, max=10**8, tooltip="Holes of at most so many pixels are "
                             "filled."),
                io.Int.Input("smooth", default=0, min=0, max=64, tooltip="Frames to each side that vote on a pixel; "
                             "takes flicker out."),
                io.Int.Input("grow", default=0, min=-512, max=512, tooltip="Pixels by which the border moves out; "
                             "negative moves it in."),
                io.Float.Input("feather", default=0.0, min=0.0, max=256.0, step=0.5, tooltip="Softness of the border: "
                               "standard deviation in pixels."),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="The masks, put right.")],
        )

    @classmethod
    def execute(cls, mask, specks, holes, smooth, grow, feather) -> io.NodeOutput:
        from ..methods.finite import check_finite
        from ..vision.refine import refined

        mask = mask[None] if mask.ndim == 2 else mask
        if mask.ndim != 3 or not mask.numel():
            raise ValueError(f"mask: expected [frames, height, width], but got the shape {tuple(mask.shape)}.")
        check_finite("mask", mask)
        return io.NodeOutput(refined(mask, grow, feather, holes, specks, smooth))


NODES = [TrackMask, MaskRefine]
