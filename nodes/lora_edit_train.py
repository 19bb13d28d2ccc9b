"""LoRA-Edit's training: samples that chain into a list, and a LoRA that learns them."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.lora_edit.choices import FAMILIES, KEEPS, NOISE_RANGES, POOLINGS, PRECISIONS, TARGETS
from .lora_edit import CATEGORY, FAMILY_TIP, KEEP_TIP, POOLING_TIP, SOFT_TIP, look_with

Samples = io.Custom("STEADYEDIT_SAMPLES")


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
        io.ClipVision.Input("clip_vision", optional=True, tooltip="For models with an image branch (Wan 2.1 I2V)."),
        Samples.Input("samples", optional=True, tooltip="Samples before this one: they are trained together."),
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
                io.Conditioning.Input("positive", tooltip="What the original clip shows; one prompt."),
                io.Vae.Input("vae", tooltip="The model's video VAE. It encodes clip and condition once."),
                io.Image.Input("video", tooltip="The original clip: 4N+1 frames, both sides multiples of 16."),
                io.Combo.Input("keep", options=list(KEEPS), tooltip=KEEP_TIP),
                io.Int.Input("clip_length", default=0, min=0, max=4097, step=1, tooltip="0 trains on the whole clip. "
                             "4N+1 cuts it into clips that overlap by a frame and need less memory; 13 in the paper."),
                io.Int.Input("repeats", default=1, min=1, max=1000, tooltip="How often it is met in a round."),
                *shared_inputs(),
                *more_inputs("1 where the model learns to make the clip: the object's boxes (Box Mask)."),
            ],
            outputs=[samples_output()],
        )

    @classmethod
    def execute(cls, positive, vae, video, keep, clip_length, repeats, family, pooling, soft, mask=None,
                clip_vision=None, samples=()) -> io.NodeOutput:
        from ..methods.lora_edit.condition import check_family, check_video
        from ..methods.lora_edit.samples import mask_samples

        check_family(family)
        check_video("video", video)
        made = mask_samples(vae.encode, video, mask, positive, keep=keep, clip_length=clip_length, family=family,
                            pooling=pooling, soft=soft, look=look_with(clip_vision), repeats=repeats)
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
                io.Conditioning.Input("positive", tooltip="What the edited frame shows; one prompt."),
                io.Vae.Input("vae", tooltip="The model's video VAE."),
                io.Image.Input("original_frame", tooltip="The frame before its edit: what surrounds the mask."),
                io.Image.Input("edited_frame", tooltip="The same frame, edited: what is learned. Same size."),
                io.Int.Input("repeats", default=9, min=1, max=1000, tooltip="How often it is met in a round; the "
                             "authors mix 9 of each frame with 1 of the clip."),
                *shared_inputs(),
                *more_inputs("1 where the frame was edited (its boxes). Without it the whole frame is learned."),
            ],
            outputs=[samples_output()],
        )

    @classmethod
    def execute(cls, positive, vae, original_frame, edited_frame, repeats, family, pooling, soft, mask=None,
                clip_vision=None, samples=()) -> io.NodeOutput:
        from ..methods.lora_edit.samples import frame_sample

        made = frame_sample(vae.encode, original_frame, edited_frame, mask, positive, family=family, pooling=pooling,
                            soft=soft, look=look_with(clip_vision), repeats=repeats)
        return io.NodeOutput((*(samples or ()), made))


class MaskLoRATrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditMaskLoRATrain",
            display_name="Mask-Aware LoRA (LoRA-Edit)",
            category=CATEGORY,
            description="Trains a LoRA on an image-to-video model with masked samples of one clip. The model that "
            "comes in is not changed and never copied; it stays in its own precision, and its blocks are streamed "
            "where they do not fit. Memory is checked before it begins. Cancelled, it goes on from its last checkpoint "
            "next time; the same samples, model and recipe are found again, not trained twice.",
            inputs=[
                io.Model.Input("model", tooltip="Wan 2.1 I2V, an expert of Wan 2.2 I2V, or HunyuanVideo I2V v1."),
                Samples.Input("samples", tooltip="From Mask Sample and Frame Sample."),
                io.Int.Input("steps", default=100, min=1, max=100000, tooltip="Training steps; 100 in the paper, for "
                             "each stage. Short clips need more: each is a sample of its own."),
                io.Float.Input("learning_rate", default=1e-4, min=1e-8, max=1.0, step=1e-6, round=False,
                               tooltip="AdamW's learning rate."),
                io.Int.Input("rank", default=16, min=1, max=1024, tooltip="Of the LoRA; alpha is the same."),
                io.Combo.Input("targets", options=list(TARGETS), tooltip="Which layers of the blocks: all, as in the "
                               "authors' code, or those that their paper names."),
                io.Combo.Input("noise_range", options=list(NOISE_RANGES), tooltip="All noise levels; or those that an "
                               "expert of Wan 2.2 serves: train each expert by itself."),
                io.Combo.Input("precision", options=list(PRECISIONS), tooltip="What is computed with: bfloat16 where "
                               "the device can, or float32. Weights stay as the model was loaded (bf16, fp8 ...)."),
                io.Int.Input("blocks_on_device", default=-1, min=-1, max=1000, tooltip="Blocks that stay on the "
                             "device, the others are streamed. -1: as many as fit. Fewer leave more for activations."),
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1, control_after_generate="fixed",
                             tooltip="Seed of noise and order. Another seed is another training."),
                io.Boolean.Input("reuse", default=True, tooltip="Find the LoRA of an equal run, and continue an "
                                 "interrupted one. Off: train anew and keep nothing on disk."),
                io.LoraModel.Input("lora", optional=True, tooltip="Go on from this LoRA (stage 2, with Frame "
                                   "Samples): same rank and targets, a fresh optimizer."),
            ],
            outputs=[
                io.LoraModel.Output(display_name="lora", tooltip="For the core Save LoRA and Load LoRA Model."),
                io.Model.Output(display_name="model", tooltip="The model with the LoRA on its weights."),
                io.LossMap.Output(display_name="loss_map", tooltip="Loss of every step, for the core Loss Graph."),
            ],
        )

    @classmethod
    def execute(cls, model, samples, steps, learning_rate, rank, targets, noise_range, precision, blocks_on_device,
                seed, reuse, lora=None) -> io.NodeOutput:
        from dataclasses import replace

        from .. import backends
        from ..methods.lora_edit.recipe import MaskLoRARecipe
        from ..methods.lora_edit.train import VideoSettings, train_mask_lora

        backend, default = backends.of(model), MaskLoRARecipe()
        training = replace(default.training, steps=steps, learning_rate=learning_rate, seed=seed)
        recipe = MaskLoRARecipe(training, rank=rank, targets=targets, sigmas=NOISE_RANGES[noise_range])
        cache = backend.weights_folder() / "cache" if reuse else None
        settings = VideoSettings(precision, blocks_on_device)
        tuned = train_mask_lora(backend, model, samples, recipe, settings, start=lora, cache=cache)
        return io.NodeOutput(dict(tuned.weights.tensors), tuned.model, tuned.loss_map)


NODES = [MaskSample, FrameSample, MaskLoRATrain]
