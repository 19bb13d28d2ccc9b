"""LoRA-Edit's training samples, which chain into a list."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.lora_edit.choices import FAMILIES, KEEPS, POOLINGS
from .checks import wanted
from .lora_edit import CATEGORY, FAMILY_TIP, KEEP_TIP, POOLING_TIP, SOFT_TIP, check_clip, gray_input, look_with

Samples = io.Custom("STEADYEDIT_SAMPLES")
#: Computed once clip and mask are right: what loads models, and samples before this one.
LAZY = ("samples", "positive", "vae", "clip_vision")


def shared_inputs() -> list:
    """What both kinds of samples ask."""
    return [
        io.Combo.Input("family", options=list(FAMILIES), tooltip=FAMILY_TIP),
        io.Combo.Input("pooling", options=list(POOLINGS), tooltip=POOLING_TIP),
        io.Boolean.Input("soft", default=False, tooltip=SOFT_TIP),
    ]


def more_inputs(mask_tip: str) -> list:
    """The optional ones."""
    return [
        io.Mask.Input("mask", optional=True, tooltip=mask_tip),
        io.ClipVision.Input("clip_vision", optional=True, lazy=True, tooltip="For models with an image branch (Wan 2.1 "
                            "I2V)."),
        Samples.Input("samples", optional=True, lazy=True, tooltip="Samples before this one: they are trained "
                      "together."),
    ]


def samples_output() -> io.Output:
    return Samples.Output(display_name="samples", tooltip="Encoded once; for the next sample or for the training.")


class MaskSample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditMaskSample",
            display_name="Mask Sample (LoRA-Edit)",
            category=CATEGORY,
            description="The original clip as a training sample: given the clip outside of the mask and its first "
            "frame, the model learns to make the inside, and what the mask means. Low-cost: cut it into short clips.",
            inputs=[
                io.Conditioning.Input("positive", lazy=True, tooltip="What the original clip shows; one prompt."),
                io.Vae.Input("vae", lazy=True, tooltip="The model's video VAE. It encodes clip and condition once."),
                io.Image.Input("video", tooltip="The original clip: 4N+1 frames, both sides multiples of 16."),
                io.Combo.Input("keep", options=list(KEEPS), tooltip=KEEP_TIP),
                io.Int.Input("clip_length", default=0, min=0, max=4097, step=1, tooltip="0 trains on the whole clip. "
                             "4N+1 cuts it into clips that overlap by a frame and need less memory; 13 in the paper."),
                io.Int.Input("repeats", default=1, min=1, max=1000, tooltip="How often it is met in a round, beside "
                             "other samples: 1, to 9 of each edited frame, by the authors."),
                *shared_inputs(),
                *more_inputs("1 where the model learns to make the clip: the object's boxes (Box Mask)."),
                gray_input(),
            ],
            outputs=[samples_output()],
        )

    @classmethod
    def check_lazy_status(cls, video, keep, clip_length, family, soft, mask=None, **given):
        from ..methods.lora_edit.clips import clip_ranges

        check_clip(video, mask, keep, soft, family)
        clip_ranges(len(video), clip_length)
        return wanted(given, *LAZY)

    @classmethod
    def execute(cls, positive, vae, video, keep, clip_length, repeats, family, pooling, soft, mask=None,
                clip_vision=None, samples=(), gray="mid-gray") -> io.NodeOutput:
        from ..methods.lora_edit.samples import mask_samples

        check_clip(video, mask, keep, soft, family)
        made = mask_samples(vae.encode, video, mask, positive, keep=keep, clip_length=clip_length, family=family,
                            pooling=pooling, gray=gray, soft=soft, look=look_with(clip_vision), repeats=repeats)
        return io.NodeOutput((*(samples or ()), *made))


class FrameSample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditFrameSample",
            display_name="Frame Sample (LoRA-Edit)",
            category=CATEGORY,
            description="An edited later frame as a training sample: how the edit shall look where the object has "
            "turned or changed. Train it together with the clip's Mask Sample, on top of the LoRA of that clip.",
            inputs=[
                io.Conditioning.Input("positive", lazy=True, tooltip="What the edited frame shows; one prompt."),
                io.Vae.Input("vae", lazy=True, tooltip="The model's video VAE."),
                io.Image.Input("original_frame", tooltip="The frame before its edit: what surrounds the mask. Or the "
                               "whole clip, with its number in frame."),
                io.Image.Input("edited_frame", lazy=True, tooltip="The same frame, edited: what is learned. Same "
                               "size."),
                io.Int.Input("repeats", default=9, min=1, max=1000, tooltip="How often it is met in a round; the "
                             "authors mix 9 of each frame with 1 of the clip."),
                *shared_inputs(),
                *more_inputs("1 where the frame was edited (its boxes). Without it the whole frame is learned."),
                io.Int.Input("frame", default=-1, min=-1, max=100000, optional=True, tooltip="Number of the edited "
                             "frame, counted from 0, where original_frame is the whole clip and mask its masks. A "
                             "number beyond the end is refused. -1: original_frame is the frame itself."),
                gray_input(),
            ],
            outputs=[samples_output()],
        )

    @classmethod
    def check_lazy_status(cls, original_frame, family, soft, mask=None, frame=-1, **given):
        from ..methods.lora_edit.samples import picked

        original_frame, mask = picked(frame, original_frame, mask)
        check_clip(original_frame[:1], mask, "nothing" if mask is None else "outside", soft, family)
        return wanted(given, *LAZY, "edited_frame")

    @classmethod
    def execute(cls, positive, vae, original_frame, edited_frame, repeats, family, pooling, soft, mask=None,
                clip_vision=None, samples=(), frame=-1, gray="mid-gray") -> io.NodeOutput:
        from ..methods.lora_edit.samples import frame_sample, picked

        original_frame, mask = picked(frame, original_frame, mask)
        made = frame_sample(vae.encode, original_frame, edited_frame, mask, positive, family=family, pooling=pooling,
                            gray=gray, soft=soft, look=look_with(clip_vision), repeats=repeats)
        return io.NodeOutput((*(samples or ()), made))


NODES = [MaskSample, FrameSample]
