"""DAPE's two stages: norms tuned on a clip, then a visual adapter."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .checks import clip_latent, conditions_fit, ranges, size_fits
from .training import cache_of, learning_rate_input, loss_map_output, reuse_input, seed_input
from .tuning import Weights

CATEGORY = "SteadyEdit/dape"


def inputs_of(*settings: Any, steps: int, learning_rate: float) -> list[Any]:
    """Inputs of a training: what it is about, the method's own settings, the recipe with its published defaults."""
    return [
        io.Model.Input("model", tooltip="The model to tune, with EI2's or Tune-A-Video's attentions, a LoRA or an "
                       "earlier stage on it, or plain. All that stays at work and is not trained."),
        io.Latent.Input("latent", tooltip="The clip, all frames as one batch (VAE Encode of its images)."),
        io.Conditioning.Input("conditioning", tooltip="What the clip shows. One prompt, or one a frame."),
        *settings,
        io.Int.Input("steps", default=steps, min=1, max=100000, tooltip=f"Training steps. The paper: {steps}."),
        learning_rate_input(learning_rate, f"The paper: {learning_rate:g}; the toy model needs about 1e-3."),
        io.Combo.Input("loss", options=["huber", "mse"], default="huber",
                       tooltip="Between predicted and true noise. The paper: huber."),
        io.Float.Input("delta", default=1.0, min=1e-4, max=1000.0, step=0.1, round=False,
                       tooltip="Where the Huber loss turns linear. The paper: 1."),
        seed_input("new weights, timesteps and noise"),
        io.Int.Input("checkpoint_every", default=50, min=1, max=100000,
                     tooltip="Steps between checkpoints on disk; a cancel keeps one too."),
        reuse_input(),
    ]


def outputs_of(more: tuple = ()) -> list[Any]:
    return [
        io.Model.Output(display_name="model", tooltip="The tuned model: the next stage, or the edit."),
        Weights.Output(display_name="weights", tooltip="What was trained here, for Save Tuned Weights and Apply."),
        loss_map_output(),
        *more,
    ]


def train_stage(model: Any, latent: dict, conditioning: list, methods: dict[str, dict], reuse: bool,
                **recipe: Any) -> Any:
    """``Tuned``: the methods attached anew and trained alone."""
    from .. import backends
    from ..methods.dape.pipeline import run_stage
    from ..methods.dape.recipes import Stage
    from ..methods.prompts import check_every_level
    from ..methods.tune_recipe import TuneRecipe

    backend = backends.of(model)
    backend.schedule(model)
    samples = clip_latent(latent)
    conditions_fit("conditioning", conditioning, len(samples))
    check_every_level("conditioning", conditioning)
    size_fits(backend, model, samples)
    stage = Stage(methods, TuneRecipe(queries=False, **recipe))
    return run_stage(backend, model, samples, conditioning, stage, cache=cache_of(backend, reuse))


class NormTune(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        switches = {"resnet": "Tune the norms of residual blocks.", "attention": "Tune the norms of transformers.",
                    "final": "Tune the norm before the last convolution; not among the paper's."}  # fmt: skip
        return io.Schema(
            node_id="SteadyEditNormTune",
            display_name="Norm-Tune (DAPE, stage 1)",
            category=CATEGORY,
            description="Trains the norms of the model on this one clip, each with a share of its input beside it, "
            "and nothing else. The model that comes in is not changed. Cancelled, it goes on from its last checkpoint "
            "next time; the same clip, model and recipe is found again and not trained twice.",
            inputs=inputs_of(
                *(io.Boolean.Input(kind, default=kind != "final", tooltip=tip) for kind, tip in switches.items()),
                io.Combo.Input("gamma0", options=["channel", "scalar", "none"], default="channel",
                               tooltip="The share of the input: a number a channel, one for all, or none of it."),
                steps=400, learning_rate=5e-5),
            outputs=outputs_of((io.LoraModel.Output(display_name="lora", tooltip="Weights and biases of the norms, "
                                "without gamma0, for the core Save LoRA Weights and Load LoRA Model."),)),
        )  # fmt: skip

    @classmethod
    def execute(cls, model, latent, conditioning, resnet, attention, final, gamma0, **recipe) -> io.NodeOutput:
        from ..methods.dape.lora_file import norm_lora

        kinds = [kind for kind, on in (("resnet", resnet), ("attention", attention), ("final", final)) if on]
        if not kinds:
            raise ValueError("resnet, attention, final: all three are off; switch on the norms that are to be tuned.")
        tuned = train_stage(model, latent, conditioning, {"norm-tune": {"kinds": kinds, "gamma0": gamma0}}, **recipe)
        return io.NodeOutput(tuned.model, tuned.weights, tuned.loss_map, norm_lora(tuned.weights.tensors))


class VisualAdapterTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditVisualAdapterTrain",
            display_name="Visual Adapter (DAPE, stage 2)",
            category=CATEGORY,
            description="Trains a small convolutional adapter in some attention stages of the model on this one clip; "
            "tuned norms stay as they are. The model that comes in is not changed. Cancelled, it goes on from its "
            "last checkpoint next time; the same clip, model and recipe is found again and not trained twice.",
            inputs=inputs_of(
                io.String.Input("positions", default="5", tooltip="Attention stages along the U-Net: 1-3 down, 4 "
                                "middle, 5-7 up; of SDXL: 1-2 down, 3 middle, 4-5 up. Such as 5, 1-7 or 1,2,6,7. "
                                "The paper: 5, the first on the way up, which is SDXL's 4."),
                io.Combo.Input("placement", options=["attn2", "attn1", "ff"], default="attn2", tooltip="After cross-"
                               "attention, self-attention or the feed-forward."),
                io.Int.Input("bottleneck", default=64, min=1, max=4096, tooltip="Channels between its two "
                             "projections. The paper states none."),
                io.Int.Input("kernel", default=5, min=1, max=31, step=2, tooltip="Side of its depth-wise convolution, "
                             "odd. The paper: 5."),
                io.Boolean.Input("joint", default=False, tooltip="Train the norms of ResNet and attention blocks at "
                                 "the same time, in one stage. The paper finds that worse."),
                steps=70, learning_rate=1e-5),
            outputs=outputs_of(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, latent, conditioning, positions, placement, bottleneck, kernel, joint, **recipe
    ) -> io.NodeOutput:
        from .. import backends

        methods = {"visual-adapter": {"positions": ranges("positions", positions), "placement": placement,
                                      "bottleneck": bottleneck, "kernel": kernel, "seed": recipe["seed"]}}  # fmt: skip
        if joint:
            if any(a.method == "norm-tune" for a in backends.of(model).attachments(model)):
                raise ValueError("joint: the model has tuned norms already, and here they begin anew; take the model "
                                 "from before Norm-Tune.")
            methods = {"norm-tune": {}, **methods}
        tuned = train_stage(model, latent, conditioning, methods, **recipe)
        return io.NodeOutput(tuned.model, tuned.weights, tuned.loss_map)


NODES = [NormTune, VisualAdapterTrain]
