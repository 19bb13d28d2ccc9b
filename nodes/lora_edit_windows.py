"""LoRA-Edit on clips longer than its model, window after window."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.lora_edit.choices import FAMILIES, KEEPS, POOLINGS
from .lora_edit import CATEGORY, FAMILY_TIP, POOLING_TIP, SOFT_TIP, gray_input, look_with


class EditInWindows(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditMaskWindows",
            display_name="Edit in Windows (LoRA-Edit)",
            category=CATEGORY,
            description="Edits a clip that is longer than the model takes, from an edited first frame: overlapping "
            "windows one after the other, each of which goes on from the last frames of the one before, which its mask "
            "keeps. Takes the place of Mask Condition, the sampler and the decoder. Train one Mask-Aware LoRA for the "
            "whole clip, with the same frames per clip at Mask Sample.",
            inputs=[
                io.Guider.Input("guider", tooltip="CFGGuider with the model, its LoRA and both prompts; without a "
                                "condition of the clip, which is made here for each window."),
                io.Sampler.Input("sampler", tooltip="One that draws no noise of its own: euler, uni_pc, dpmpp_2m, ..."),
                io.Sigmas.Input("sigmas", tooltip="From BasicScheduler, denoise 1."),
                io.Vae.Input("vae", tooltip="The model's video VAE."),
                io.Image.Input("video", tooltip="The original clip: 4N+1 frames, both sides multiples of 16."),
                io.Combo.Input("keep", options=list(KEEPS[:2]), tooltip="What the model keeps, as in "
                               "training. \"outside, first frame\" is LoRA-Edit's; \"first frame\" is plain "
                               "image-to-video, which needs no mask."),
                io.Int.Input("length", default=13, min=5, max=4097, step=4, tooltip="Frames of a window, 4N+1: what "
                             "the model and memory take. The paper's short clips have 13, Wan's native length is 81."),
                io.Int.Input("overlap", default=1, min=1, max=4093, step=4, tooltip="Frames, 4N+1, that a window takes "
                             "over from the one before. 1 hands on the look, 5 the motion too."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate="fixed",
                             tooltip="Of the noise, which is one for the whole clip."),
                io.Boolean.Input("match_colour", default=True, tooltip="Bring each window's colours outside of the "
                                 "mask back to the original's, so that a drift does not add up from window to window."),
                io.Combo.Input("family", options=list(FAMILIES), tooltip=FAMILY_TIP),
                io.Combo.Input("pooling", options=list(POOLINGS), tooltip=POOLING_TIP),
                io.Boolean.Input("soft", default=False, tooltip=SOFT_TIP),
                io.Mask.Input("mask", optional=True, tooltip="1 where the model makes the clip anew: the same mask as "
                              "in training (Box Mask)."),
                io.Image.Input("edited_first_frame", optional=True, tooltip="Takes the place of the first frame. "
                               "Without it the clip is only repeated."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="For models with an image branch (Wan 2.1 "
                                    "I2V): looks at the first frame of each window."),
                gray_input(),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The edited clip, of the video's length.")],
        )

    @classmethod
    def execute(cls, guider, sampler, sigmas, vae, video, keep, length, overlap, seed, match_colour, family, pooling,
                soft, mask=None, edited_first_frame=None, clip_vision=None, gray="mid-gray") -> io.NodeOutput:
        import torch

        from .. import backends
        from ..methods.lora_edit.clips import clip_ranges
        from ..methods.lora_edit.condition import check_family, check_video, condition, generated
        from ..methods.lora_edit.packing import latent_frames
        from ..methods.lora_edit.window_chain import edit_in_windows, latents_of
        from ..vision.colour import brought_back

        check_family(family)
        check_video("video", video)
        spans, host = clip_ranges(len(video), length, overlap), backends.current()
        model, steps = host.guider_model(guider), max(1, len(sigmas) - 1)
        bar = host.progress(len(spans) * steps, "windows")
        noise: list[torch.Tensor] = []

        def edit(span, given, generate):
            found = condition(vae.encode, given, generate, family=family, pooling=pooling, gray=gray,
                              look=look_with(clip_vision))
            channels, cells = found.concat_latent_image.shape[1], found.concat_mask.shape[-2:]
            if not noise:
                shape = (1, channels, latent_frames(len(video)), *cells)
                noise.append(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
            here = noise[0][:, :, latents_of(span)]
            before = spans.index(span) * steps
            there = host.changed_guider(guider, model, lambda values: found.onto([[None, dict(values)]])[0][1])
            done = host.guided(there, here, torch.zeros_like(here), sampler, sigmas, seed,
                               lambda step: bar.update(before + step))
            return host.decoded(vae, done)

        return io.NodeOutput(edit_in_windows(video, generated(video, mask, keep, soft), edited_first_frame, spans, edit,
                                             brought_back if match_colour else None))


NODES = [EditInWindows]
