"""A clip of any length, edited in windows from file to file."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import explain_no_memory, multiple_of_8
from .video import COLOURS, FITS

CATEGORY = "SteadyEdit/video"
NOISES = ["the same for all frames", "each frame its own"]
IMAGES = ["each frame's own", "as connected"]
STARTS = ["the video", "an empty latent"]
BLENDS = ["none", "ramp", "no ramp", "last step only"]
Inversion = io.Custom("STEADYEDIT_STREAMED_INVERSION")


class StreamedEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditStreamedEdit",
            display_name="Streamed Edit: videos of any length",
            category=CATEGORY,
            description="Edits a video of any length from file to file, a window of frames at a time, exactly as it "
            "would be edited in one piece: each window is read, encoded, sampled, decoded and written before the next. "
            "Memory hardly grows with the video, and queueing again goes on after the last finished window, even "
            "after a crash.",
            inputs=[
                io.Video.Input("video", tooltip="From the core Load Video. Only a window of it is ever in memory."),
                io.Guider.Input("guider", tooltip="CFGGuider, BasicGuider or DualCFGGuider with the model and its "
                                "prompts. Gather-Swap may be on the model; its group spans the whole video."),
                io.Sampler.Input("sampler", tooltip="Any of KSamplerSelect's that draws no noise of its own: euler, "
                                 "heun, dpmpp_2m, uni_pc, ... but none of the ancestral or sde kind."),
                io.Sigmas.Input("sigmas", tooltip="From BasicScheduler. denoise below 1 starts from the video itself, "
                                "that much noised."),
                io.Vae.Input("vae", tooltip="That of the model."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate="fixed",
                             tooltip="Of the noise. It depends on a frame's number alone, never on the window."),
                io.Combo.Input("noise", options=NOISES, default=NOISES[0], tooltip="One noise for all frames keeps "
                               "them alike, as in VIA; noise of its own is what RandomNoise gives every frame of a "
                               "batch."),
                io.Int.Input("window", default=16, min=1, max=4096, tooltip="Frames at a time. The result does not "
                             "depend on it; memory does. The group's frames ride along with each window."),
                io.Int.Input("start", default=0, min=0, max=10**9, tooltip="Number of the first frame that is "
                             "taken, counted from 0."),
                io.Int.Input("count", default=0, min=0, max=10**9, tooltip="Number of frames; 0 for all."),
                io.Int.Input("stride", default=1, min=1, max=10**6, tooltip="2 takes every second frame, 3 every "
                             "third, ...: more of the clip in as many frames, at a lower rate."),
                io.Int.Input("size", default=512, min=0, max=8192, step=8, tooltip="Side in pixels, a multiple of 8 "
                             "(toy model: 128). 0 keeps the video's own size, cropped to multiples of 8."),
                io.Combo.Input("fit", options=FITS, default="crop", optional=True, tooltip="How other proportions "
                               "become a square: cut the sides, add bars, distort; or keep the shape, with size as the "
                               "shorter side."),
                io.Combo.Input("background", options=COLOURS, default="black", optional=True,
                               tooltip="What transparent pixels and the bars of 'pad' show."),
                io.Combo.Input("image_condition", options=IMAGES, default=IMAGES[0], optional=True,
                               tooltip="For instruction editors, whose prompts hold an image (encode any one frame "
                               "for them): each frame's own puts every frame in the place of that one; as connected "
                               "keeps it for all frames."),
                io.Combo.Input("start_from", options=STARTS, default=STARTS[0], optional=True, tooltip="What is "
                               "noised: the video's own latents, or none: an empty latent, as "
                               "InstructPixToPixConditioning gives for instruction editors, with full denoise."),
                io.Video.Input("mask_video", optional=True, tooltip="White where to edit, of the video's length; read "
                               "with the same range, size and fit. Outside of it the frames stay the video's own, bit "
                               "for bit before the video is written."),
                io.Int.Input("feather", default=8, min=0, max=512, optional=True, tooltip="With a mask: width of the "
                             "seam in pixels, outside of the mask. 0 or 1: a hard edge."),
                io.Boolean.Input("match_colour", default=True, optional=True, tooltip="With a mask: shift the edit's "
                                 "colours smoothly so that they meet the original's around it."),
                io.Video.Input("hint_video", optional=True, tooltip="What the ControlNet sees (edges, depth, ...), of "
                               "the video's length; read with the same range, size and fit."),
                io.ControlNet.Input("control_net", optional=True, tooltip="The ControlNet of the hint video. It acts "
                                    "on all prompts of the guider."),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01, optional=True,
                               tooltip="Of the ControlNet, as in Apply ControlNet."),
                io.Float.Input("hint_start", default=0.0, min=0.0, max=1.0, step=0.01, optional=True,
                               tooltip="Share of the noise schedule at which the ControlNet begins."),
                io.Float.Input("hint_end", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
                               tooltip="Share of the noise schedule at which it ends."),
                Inversion.Input("inversion", optional=True, tooltip="From Inversion for Streamed Edit: begin with the "
                                "source's inversion instead of noise. Connect its sigmas, too."),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The edited video, in a file, with the source's rate, "
                                "sound and timecode: for the core Save Video."),
                io.String.Output(display_name="info", tooltip="What was done, in words."),
            ],
        )

    @classmethod
    def execute(cls, video, guider, sampler, sigmas, vae, seed, noise, window, start, count, stride, size, fit="crop",
                background="black", image_condition=IMAGES[0], start_from=STARTS[0], mask_video=None, feather=8,
                match_colour=True, hint_video=None, control_net=None, strength=1.0, hint_start=0.0, hint_end=1.0,
                inversion=None) -> io.NodeOutput:  # fmt: skip
        from comfy_api.latest import InputImpl

        from .. import backends
        from ..files.cache import FOLDER
        from ..streaming.clip_edit import ClipEdit, Hints, Masked
        from ..streaming.noise import FrameNoise
        from ..streaming.source import frames_from
        from ..streaming.video import edited_video

        multiple_of_8("size", size)
        host = backends.current()
        if (hint_video is None) != (control_net is None):
            missing, there = ("hint_video", "control_net") if hint_video is None else ("control_net", "hint_video")
            raise ValueError(f"{missing}: is missing, but {there} is connected; connect both, or neither.")

        def frames(given):
            return frames_from(given, start, count, stride, size=size, fit=fit, background=background)

        clip = frames(video)
        edit = ClipEdit(
            host, clip, guider, sampler, sigmas, vae, FrameNoise(seed, noise), image_condition == IMAGES[0],
            None if mask_video is None else Masked(frames(mask_video), feather, match_colour),
            None if hint_video is None else Hints(frames(hint_video), control_net, strength, hint_start, hint_end),
            inversion, start_from == STARTS[1])
        with explain_no_memory(host, "window", f"editing a window of {window} frames", "a smaller window"):
            path, made = edited_video(edit, clip, edit.identity(), host.weights_folder() / FOLDER, window,
                                      host.progress(clip.total, "edited frames"))
        found = f", {clip.total - made} of them found finished" if made < clip.total else ""
        sound = "with sound" if clip.has_sound else "no sound"
        code = f", timecode {clip.timecode}" if clip.timecode else ""
        info = f"{clip.total} frames at {float(clip.fps):.5g} a second, {sound}{code}{found}"
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), "\n".join([info, *clip.notes]))


class StreamedInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditStreamedInversion",
            display_name="Inversion for Streamed Edit",
            category=CATEGORY,
            description="Lets Streamed Edit begin with the source's inversion, window by window, as DDIM Inversion "
            "does for a clip in one piece; with a mask video also keeps what lies outside of it in the latents, as "
            "Boundary Blend does. The steps of the window at work lie on disk.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample the edit."),
                io.Conditioning.Input("conditioning", tooltip="The papers: an empty prompt. The clip's own prompt "
                                      "reconstructs more closely and edits less."),
                io.Int.Input("steps", default=50, min=1, max=999, tooltip="Steps of inversion and sampling. The papers "
                             "use 50; best a divisor of 1000."),
                io.Int.Input("refinement", default=0, min=0, max=20, tooltip="Fixed-point iterations per step. 0 is "
                             "plain DDIM inversion; 2 to 5 come close to an exact inverse, each as dear as one run."),
                io.Combo.Input("blend", options=BLENDS, default="none", tooltip="Keep the latents outside of the mask "
                               "video, as Boundary Blend: ramp is the paper's. none keeps the pixels alone."),
                io.Combo.Input("reading", options=["A", "B"], default="A", optional=True,
                               tooltip="What grows along the ramp. A: the source outside the mask. B: the edit inside "
                               "it, with the source outside at once."),
                io.Int.Input("ramp_steps", default=0, min=0, max=1000, optional=True,
                             tooltip="Length of the ramp in sampling steps; 0 for all of them."),
                io.Boolean.Input("soft_mask", default=True, optional=True, tooltip="On: a latent cell (8x8 pixels) "
                                 "that the mask covers partly is mixed by that part. Off: it is edited."),
            ],
            outputs=[
                Inversion.Output(display_name="inversion", tooltip="For Streamed Edit."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels, descending, for Streamed Edit."),
            ],
        )

    @classmethod
    def execute(cls, model, conditioning, steps, refinement, blend, reading="A", ramp_steps=0,
                soft_mask=True) -> io.NodeOutput:  # fmt: skip
        from .. import backends
        from ..streaming.inversion import StreamedInversion as Settings

        sigmas = backends.of(model).schedule(model).ddim_sigmas(steps)
        return io.NodeOutput(Settings(model, conditioning, sigmas, refinement, blend, reading, ramp_steps, soft_mask),
                             sigmas)


NODES = [StreamedEdit, StreamedInversion]
