"""LoRA-Edit's training: a LoRA that learns the samples of a clip."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.lora_edit.choices import MEMORY_PRESETS, NOISE_RANGES, PRECISIONS, SHOWN_STEPS, TARGETS
from .checks import wanted
from .lora_edit import CATEGORY
from .lora_edit_samples import Samples
from .schema import growing, grown
from .training import cache_of, learning_rate_input, lora_output, loss_map_output, rank_input, reuse_input, seed_input


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
                io.Model.Input("model", lazy=True, tooltip="Wan 2.1 I2V, an expert of Wan 2.2 I2V, HunyuanVideo I2V "
                               "v1, or HunyuanVideo 1.5."),
                Samples.Input("samples", tooltip="From Mask Sample and Frame Sample."),
                io.Int.Input("steps", default=100, min=1, max=100000, tooltip="Training steps: 100 for the clip in the "
                             "paper. A second stage, by the authors' code, takes 10 rounds of 1 + 9n for n edited "
                             "frames: 100 for one, 190 for two. Short clips need more: each is a sample of its own."),
                learning_rate_input(1e-4, "The authors: 1e-4."),
                rank_input("; alpha is the same. The authors: 16"),
                io.Combo.Input("targets", options=list(TARGETS), tooltip="Which layers of the blocks: all, as in the "
                               "authors' code, or those that their paper names."),
                io.Combo.Input("noise_range", options=list(NOISE_RANGES), tooltip="All noise levels; or those that an "
                               "expert of Wan 2.2 serves: train each expert by itself."),
                io.Combo.Input("precision", options=list(PRECISIONS), tooltip="What is computed with: bfloat16 where "
                               "the device can, or float32. Weights stay as the model was loaded (bf16, fp8 ...)."),
                io.Int.Input("blocks_on_device", default=-1, min=-1, max=1000, tooltip="Blocks that stay on the "
                             "device, the others are streamed. -1: as many as fit. Fewer leave more for activations."),
                seed_input("noise and order"),
                reuse_input("the LoRA"),
                io.LoraModel.Input("lora", optional=True, lazy=True, tooltip="Go on from this LoRA (stage 2, with "
                                   "Frame Samples): same rank and targets, a fresh optimizer."),
                io.Int.Input("sample_every", default=0, min=0, max=100000, optional=True, tooltip="After every so many "
                             "steps sample a short clip and show four frames of it in the node; 0: never. Each takes "
                             f"{SHOWN_STEPS} runs of the model, about as long as two or three steps."),
                io.Boolean.Input("take_interrupted", default=False, optional=True, tooltip="Stop early and keep: "
                                 "Cancel when it looks good, turn this on and queue again; the LoRA is taken as it "
                                 "was then. Off again, the training goes on."),
                io.Combo.Input("memory", options=list(MEMORY_PRESETS), default=next(iter(MEMORY_PRESETS)),
                               optional=True, tooltip="Make the training fit into a card of this size: how many blocks "
                               "are streamed, how many blocks' inputs wait in the main memory, and how many need not "
                               "be computed again; the progress text says what was chosen. By prediction, not yet "
                               "confirmed on a GPU. It takes the place of blocks_on_device."),
                *growing(io, "more_samples", Samples.Input("samples"), "samples_", tooltip="Further "
                         "samples, one socket each: they need not be chained to be trained with those above."),
            ],
            outputs=[
                lora_output(),
                io.Model.Output(display_name="model", tooltip="The model with the LoRA on its weights."),
                loss_map_output(),
            ],
        )

    @classmethod
    def check_lazy_status(cls, samples, **given):
        from ..methods.lora_edit.samples import check_samples

        # Hosts do not hand a growing input's links over here; the training checks all of them.
        check_samples(samples)
        return wanted(given, "lora", "model")

    @classmethod
    def execute(cls, model, samples, steps, learning_rate, rank, targets, noise_range, precision, blocks_on_device,
                seed, reuse, lora=None, sample_every=0, take_interrupted=False,
                memory="what is free", more_samples=None) -> io.NodeOutput:
        from dataclasses import replace

        from .. import backends
        from ..methods.lora_edit.memory import GIB
        from ..methods.lora_edit.recipe import MaskLoRARecipe
        from ..methods.lora_edit.train import VideoSettings, train_mask_lora

        backend, default = backends.of(model), MaskLoRARecipe()
        training = replace(default.training, steps=steps, learning_rate=learning_rate, seed=seed)
        recipe = MaskLoRARecipe(training, rank=rank, targets=targets, sigmas=NOISE_RANGES[noise_range])
        card = MEMORY_PRESETS[memory]
        settings = VideoSettings(precision, blocks_on_device, sample_every=sample_every,
                                 take_interrupted=take_interrupted, budget=None if card is None else card * GIB)
        samples = together(samples, more_samples)
        tuned = train_mask_lora(backend, model, samples, recipe, settings, start=lora, cache=cache_of(backend, reuse))
        return io.NodeOutput(dict(tuned.weights.tensors), tuned.model, tuned.loss_map)


def together(samples: tuple, more_samples: dict | None) -> tuple:
    """The samples of all sockets, in their order: the same as chained ones."""
    return tuple(one for part in (samples, *grown(more_samples)) for one in part or ())


NODES = [MaskLoRATrain]
