"""Frames of a video, ready for a VAE, with sound and rate."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import multiple_of_8
from .pictures import progress_of_unknown_length

FITS = ["crop", "pad", "stretch", "keep shape"]
COLOURS = ["black", "white", "gray"]
TIMINGS = ["mean rate", "finest rate", "every picture"]
LENGTHS = ["any", "4N + 1"]


class LoadFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditLoadFrames",
            display_name="Load Frames",
            category="SteadyEdit/video",
            description="A range of frames of a video at a size that the VAE takes, decoding no more than that range. "
            "Rotation, transparency, interlacing, HDR and variable frame rates are taken care of; info says what was "
            "done.",
            inputs=[
                io.Video.Input("video", tooltip="From the core Load Video."),
                io.Int.Input("start", default=0, min=0, max=10**9, tooltip="Number of the first frame that is "
                             "taken, counted from 0."),
                io.Int.Input("count", default=8, min=0, max=10**6, tooltip="Number of frames; 0 for all. 8 is what "
                             "EI2's paper tunes on."),
                io.Int.Input("stride", default=1, min=1, max=10**6, tooltip="2 takes every second frame, 3 every "
                             "third, ...: more of the clip in as many frames, at a lower rate."),
                io.Int.Input("size", default=512, min=0, max=8192, step=8,
                             tooltip="Side in pixels, a multiple of 8 (papers: 512, toy model: 128). 0 keeps the "
                             "video's own size, cropped to multiples of 8."),
                io.Combo.Input("fit", options=FITS, default="crop", optional=True,
                               tooltip="How other proportions become a square: cut the sides, add bars, distort; or "
                               "keep the shape, with size as the shorter side."),
                io.Combo.Input("background", options=COLOURS, default="black", optional=True,
                               tooltip="What transparent pixels and the bars of 'pad' show."),
                io.Combo.Input("timing", options=TIMINGS, default=TIMINGS[0], optional=True,
                               tooltip="For a variable frame rate, as phones and screen recorders write it. mean rate: "
                               "in step with the sound, some pictures are left out or repeated; finest rate: no "
                               "picture is left out, more are repeated; every picture: each once, out of step."),
                io.Combo.Input("length", options=LENGTHS, default=LENGTHS[0], optional=True, tooltip="Wan, "
                               "HunyuanVideo and their like take 4N + 1 frames (5, 9, 13 ... 49): up to three frames "
                               "are left out at the end, and info says so."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames."),
                io.Audio.Output(display_name="audio", tooltip="The sound of that range; nothing if there is none."),
                io.Float.Output(display_name="fps", tooltip="Frames a second of these frames."),
                io.String.Output(display_name="info", tooltip="What was read, in words, and a line for each thing "
                                 "that was done to it."),
            ],
        )

    @classmethod
    def execute(cls, video, start, count, stride, size, fit="crop", background="black",
                timing="mean rate", length="any") -> io.NodeOutput:
        from ..video.clip import as_rate, of_4n_plus_1
        from ..video.frames_of import frames_of
        from ..video.geometry import for_a_model

        multiple_of_8("size", size)
        clip = frames_of(video, start, count, stride, timing=timing,
                         progress=progress_of_unknown_length("reading frames"),
                         **for_a_model(size, fit, background))
        if length == LENGTHS[1]:
            clip = of_4n_plus_1(clip)
        frames, height, width, _ = clip.frames.shape
        sound = "with sound" if clip.audio else "no sound"
        info = f"{frames} frames of {width}x{height} at {float(clip.fps):.5g} a second, {sound}"
        if clip.timecode:
            info += f"\ntimecode {clip.timecode}, which Create Video does not write; Streamed Edit does"
        info = "\n".join([info, *clip.notes])
        # A host that writes 30000/1001 as 29.97 is set right again.
        return io.NodeOutput(clip.frames, clip.audio, float(as_rate(clip.fps)), info)


NODES = [LoadFrames]
