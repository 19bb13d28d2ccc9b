"""A clip of any length, edited in windows from file to file."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import explain_no_memory, multiple_of_8
from .video import COLOURS, FITS

CATEGORY = "SteadyEdit/video"
NOISES = ["the same for all frames", "each frame its own"]
IMAGES = ["each frame's own", "as connected"]


class StreamedEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditStreamedEdit",
            display_name="Streamed Edit: videos of any length",
            category=CATEGORY,
            description="Edits a video of any length from file to file, a window of frames at a time, exactly as it "
            "would be edited in one piece: each window is read, encoded, sampled, decoded and written before the next. "
            "Memory does not grow with the video, and queueing again goes on after the last finished window, even "
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
                             tooltip="Of the noise. It hangs on a frame's number alone, never on the window."),
                io.Combo.Input("noise", options=NOISES, default=NOISES[0], tooltip="One noise for all frames keeps "
                               "them alike, as in VIA; noise of its own is what RandomNoise gives every frame of a "
                               "batch."),
                io.Int.Input("window", default=16, min=1, max=4096, tooltip="Frames at a time. The result does not "
                             "depend on it; memory does. The group's frames ride along with each window."),
                io.Int.Input("start", default=0, min=0, max=10**9, tooltip="First frame."),
                io.Int.Input("count", default=0, min=0, max=10**9, tooltip="Number of frames; 0 for all."),
                io.Int.Input("stride", default=1, min=1, max=10**6, tooltip="Take every so many-th frame."),
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
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The edited video, in a file, with the source's rate and "
                                "sound: for the core Save Video."),
                io.String.Output(display_name="info", tooltip="What was done, in words."),
            ],
        )

    @classmethod
    def execute(cls, video, guider, sampler, sigmas, vae, seed, noise, window, start, count, stride, size, fit="crop",
                background="black", image_condition=IMAGES[0]) -> io.NodeOutput:  # fmt: skip
        from comfy_api.latest import InputImpl

        from .. import backends
        from ..files.cache import FOLDER
        from ..streaming.clip_edit import ClipEdit
        from ..streaming.noise import FrameNoise
        from ..streaming.source import frames_from
        from ..streaming.video import edited_video

        multiple_of_8("size", size)
        host = backends.current()
        clip = frames_from(video, start, count, stride, size=size, fit=fit, background=background)
        edit = ClipEdit(host, clip, guider, sampler, sigmas, vae, FrameNoise(seed, noise), image_condition == IMAGES[0])
        with explain_no_memory(host, "window", f"editing a window of {window} frames", "a smaller window"):
            path, made = edited_video(edit, clip, edit.identity(), host.weights_folder() / FOLDER, window,
                                      host.progress(clip.total, "edited frames"))
        found = f", {clip.total - made} of them found finished" if made < clip.total else ""
        sound = "with sound" if clip.has_sound else "no sound"
        info = f"{clip.total} frames at {float(clip.fps):.5g} a second, {sound}{found}"
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), info)


NODES = [StreamedEdit]
