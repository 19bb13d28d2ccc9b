"""Tune what is attached to a MODEL on one clip."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import clip_latent, conditions_fit, size_fits
from .training import cache_of, learning_rate_input, loss_map_output, reuse_input, seed_input

Weights = io.Custom("STEADYEDIT_WEIGHTS")


class OneShotTune(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditOneShotTune",
            display_name="One-Shot Tune",
            category="SteadyEdit/tune",
            description="Trains the attached methods on this one clip, with the loss and a sample as preview. The "
            "model that comes in is not changed and never copied. Cancelled, it goes on from its last checkpoint next "
            "time; the same clip, model and recipe is found again and not trained twice.",
            inputs=[
                io.Model.Input("model", tooltip="A model with STAM, FFAM, Tune-A-Video's attentions or SimDA "
                               "attached."),
                io.Latent.Input("latent", tooltip="The clip, all frames as one batch (VAE Encode of its images)."),
                io.Conditioning.Input("conditioning", tooltip="What the clip shows. One prompt, or one a frame."),
                io.Int.Input("steps", default=500, min=1, max=100000,
                             tooltip="Training steps. The papers use 500; the toy model needs about 100."),
                learning_rate_input(3e-5, "The papers use 3e-5."),
                seed_input("timesteps and noise", highest=2**64 - 1),
                io.Boolean.Input("tune_queries", default=True, tooltip="Also train the query projections of self- and "
                                 "cross-attention, as both papers do."),
                reuse_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The tuned model: sample the edit with it."),
                Weights.Output(display_name="weights", tooltip="The tuned weights, for Save Tuned Weights."),
                loss_map_output(),
            ],
        )

    @classmethod
    def execute(cls, model, latent, conditioning, steps, learning_rate, seed, tune_queries, reuse) -> io.NodeOutput:
        from .. import backends
        from ..methods.prompts import check_every_level
        from ..methods.tune_recipe import TuneRecipe
        from ..methods.tuning import tune

        backend = backends.of(model)
        backend.schedule(model)
        samples = clip_latent(latent)
        conditions_fit("conditioning", conditioning, len(samples))
        check_every_level("conditioning", conditioning)
        size_fits(backend, model, samples)
        if not backend.attachments(model):
            raise ValueError("model: has nothing attached to tune; put STAM and FFAM before this node.")
        recipe = TuneRecipe(steps=steps, learning_rate=learning_rate, seed=seed, queries=tune_queries)
        tuned = tune(backend, model, samples, conditioning, recipe, cache=cache_of(backend, reuse))
        return io.NodeOutput(tuned.model, tuned.weights, tuned.loss_map)


NODES = [OneShotTune]
