"""LoRA-Edit's mask and condition: which part of a clip an image-to-video model keeps, and which it makes anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..methods.lora_edit.choices import FAMILIES, GRAYS, KEEPS, POOLINGS
from .checks import wanted

CATEGORY = "SteadyEdit/lora edit"
SHAPES = ("boxes", "silhouettes")
KEEP_TIP = ("What the model keeps. \"outside, first frame\" is LoRA-Edit's: all but the mask, and the whole "
            "first frame. \"first frame\" is plain image-to-video, \"nothing\" text-to-video; these need no mask.")
FAMILY_TIP = ("Which model this is for; Wan 2.2's I2V models are as Wan 2.1. HunyuanVideo v2 has no mask and is "
              "refused with the reason.")
POOLING_TIP = ("How the mask comes to the latent's size: any masked pixel of a cell counts, or the authors' nearest, "
               "which can lose small things.")
SOFT_TIP = ("Pass values between 0 and 1 on; the models were trained on hard masks, and HunyuanVideo v1 rounds. Off: a "
            "pixel counts as masked from 0.5 on.")
GRAY_TIP = ("What the model is shown where it makes the clip anew: mid-gray, 0 in its -1 to 1, as in Wan's own "
            "image-to-video and ComfyUI's; or the authors' 128 of 255. The same in training and in use.")


def gray_input() -> io.Combo.Input:
    return io.Combo.Input("gray", options=list(GRAYS), default=next(iter(GRAYS)), optional=True, tooltip=GRAY_TIP)


def look_with(clip_vision: Any) -> Callable | None:
    """CLIP vision as Wan was trained with it: the whole frame squeezed into its square."""
    return None if clip_vision is None else lambda frame: clip_vision.encode_image(frame, crop=False)


def check_clip(video: Any, mask: Any, keep: str, soft: bool, family: str) -> Any:
    """What of a clip is generated, see ``condition.generated``; raises ValueError for all that is known without models.
    """
    from ..methods.lora_edit.condition import check_family, check_video, generated

    check_family(family)
    check_video("video", video)
    return generated(video, mask, keep, soft)


class BoxMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditBoxMask",
            display_name="Box Mask (LoRA-Edit)",
            category=CATEGORY,
            description="Turns a tracked mask into LoRA-Edit's: in every frame one box around each connected region, "
            "grown on all sides, so that the edit may have another outline than the original. Or the region itself, "
            "grown by pixels.",
            inputs=[
                io.Mask.Input("mask", tooltip="1 where to edit, one mask a frame (Track Mask, or any other)."),
                io.Combo.Input("shape", options=list(SHAPES), tooltip="The authors' boxes, or dilated silhouettes, "
                               "which leave more of the background but show the old outline."),
                io.Float.Input("growth", default=0.05, min=0.0, max=2.0, step=0.01, tooltip="Boxes: share of a box's "
                               "width and height by which each of its sides moves out. The authors: 0.05."),
                io.Int.Input("smallest", default=50, min=0, max=1000000,
                             tooltip="Boxes of fewer pixels, before they grow, are dropped. The authors: 50."),
                io.Int.Input("pixels", default=16, min=0, max=512,
                             tooltip="Silhouettes: how far they grow, in pixels."),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="Hard mask of the same frames, 1 where to edit.")],
        )

    @classmethod
    def execute(cls, mask, shape, growth, smallest, pixels) -> io.NodeOutput:
        from ..methods.lora_edit import masks

        mask = mask[None] if mask.ndim == 2 else mask
        if not masks.hard(mask).any():
            raise ValueError("mask: is empty in every frame, so that nothing would be edited; find or click the object "
                             "anew, 1 inside.")
        found = masks.boxes(mask, growth, smallest) if shape == SHAPES[0] else masks.silhouettes(mask, pixels)
        if not found.any():
            raise ValueError(f"smallest: every box has fewer than {smallest} pixels, and all are dropped; use a "
                             "smaller number, or find the object anew.")
        return io.NodeOutput(found)


class MaskCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditMaskCondition",
            display_name="Mask Condition (LoRA-Edit)",
            category=CATEGORY,
            description="Tells an image-to-video model to keep a clip outside of a mask and to make the inside anew, "
            "from an edited first frame. For any core sampler. Untrained models cannot do this well: train a LoRA on "
            "the clip with Mask-Aware LoRA first.",
            inputs=[
                io.Conditioning.Input("positive", lazy=True, tooltip="What the edited clip shows."),
                io.Conditioning.Input("negative", lazy=True, tooltip="What it shall not show."),
                io.Vae.Input("vae", lazy=True, tooltip="The model's video VAE."),
                io.Image.Input("video", tooltip="The original clip: 4N+1 frames, both sides multiples of 16."),
                io.Combo.Input("keep", options=list(KEEPS), tooltip=KEEP_TIP),
                io.Combo.Input("family", options=list(FAMILIES), tooltip=FAMILY_TIP),
                io.Combo.Input("pooling", options=list(POOLINGS), tooltip=POOLING_TIP),
                io.Boolean.Input("soft", default=False, tooltip=SOFT_TIP),
                io.Mask.Input("mask", optional=True, tooltip="1 where the model makes the clip anew: the same mask as "
                              "in training (Box Mask)."),
                io.Image.Input("edited_first_frame", optional=True, lazy=True, tooltip="Takes the place of the "
                               "first frame, in the condition and for CLIP vision. Without it the clip is only "
                               "repeated."),
                io.ClipVision.Input("clip_vision", optional=True, lazy=True, tooltip="For models with an image branch "
                                    "(Wan 2.1 I2V, HunyuanVideo 1.5): looks at the first frame."),
                gray_input(),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With condition latents and mask."),
                io.Conditioning.Output(display_name="negative", tooltip="With the same condition latents and mask."),
                io.Latent.Output(display_name="latent", tooltip="An empty latent of the clip's size, for a sampler."),
            ],
        )

    @classmethod
    def check_lazy_status(cls, video, keep, family, soft, mask=None, **given):
        check_clip(video, mask, keep, soft, family)
        return wanted(given, "edited_first_frame", "positive", "negative", "vae", "clip_vision")

    @classmethod
    def execute(cls, positive, negative, vae, video, keep, family, pooling, soft, mask=None, edited_first_frame=None,
                clip_vision=None, gray="mid-gray") -> io.NodeOutput:
        import torch

        from ..methods.lora_edit.condition import condition

        generate = check_clip(video, mask, keep, soft, family)
        found = condition(vae.encode, video, generate, family=family, pooling=pooling, gray=gray,
                          first=edited_first_frame, look=look_with(clip_vision))
        picture = found.concat_latent_image
        latent = torch.zeros(1, picture.shape[1], *found.concat_mask.shape[2:], device=picture.device)
        return io.NodeOutput(found.onto(positive), found.onto(negative), {"samples": latent})


NODES = [BoxMask, MaskCondition]
