"""Sequences of numbered pictures, in and out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .pictures import progress_of_unknown_length
from .plate import check_images, mask_of

if TYPE_CHECKING:
    from ..files.places import Folders

CATEGORY = "SteadyEdit/video"
FORMATS = ["PNG 8 bit", "PNG 16 bit", "EXR half", "EXR float"]
COLOURS = ["sRGB", "linear"]
STORED = ["by its kind", *COLOURS]
HANDLING = ["cut off", "add"]
MISSING = ["stop with an error", "repeat the frame before"]
EXISTING = ["new version", "overwrite"]


def places() -> Folders:
    """Where this host reads and writes what users name; in ComfyUI its input and output folders alone."""
    from ..files.places import Folders, current

    host = sys.modules.get("folder_paths")
    if host is None:
        return current()
    from pathlib import Path

    return Folders(Path(host.get_input_directory()), Path(host.get_output_directory()), anywhere=False)


class LoadSequence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditLoadSequence",
            display_name="Load Image Sequence",
            category=CATEGORY,
            description="Frames out of numbered pictures: EXR, PNG, TIFF, JPEG, WebP, with their alpha. Frame numbers, "
            "gaps and handles are respected, and info says what was read.",
            inputs=[
                io.String.Input("name", default="", tooltip="In ComfyUI's input or output folder: shot_####.exr, "
                                "shot_%04d.png, shot.$F4.exr, a folder, or one file of the sequence."),
                io.Int.Input("first", default=-1, min=-1, max=10**9, tooltip="Number of the first frame; -1 for the "
                             "sequence's first."),
                io.Int.Input("count", default=0, min=0, max=10**6, tooltip="Number of frames; 0 for all from there."),
                io.Int.Input("step", default=1, min=1, max=10**4, tooltip="Take every so many-th frame number; 2 for a "
                             "sequence on twos."),
                io.Int.Input("handles", default=0, min=0, max=10**4, tooltip="Frames at each end beyond the cut."),
                io.Combo.Input("handling", options=HANDLING, default=HANDLING[0], tooltip="cut off: the range has "
                               "these frames at its ends, and they are left out. add: they lie before and after the "
                               "range, and are read, too."),
                io.Combo.Input("missing", options=MISSING, default=MISSING[0], tooltip="What becomes of frames whose "
                               "file is not there. They are named either way."),
                io.Combo.Input("files", options=STORED, default=STORED[0], tooltip="What the files hold. By its kind: "
                               "light (linear) in EXR and float TIFF, sRGB in all others."),
                io.Combo.Input("images", options=COLOURS, default=COLOURS[0], tooltip="What comes out: models work on "
                               "sRGB. Where it is what the files hold, no number is changed."),
                io.Boolean.Input("unpremultiply", default=False, tooltip="Divide colours by alpha, where the files "
                                 "have them multiplied, as EXR does."),
                io.Boolean.Input("clip", default=False, tooltip="Cut values to 0..1, as models expect them; off keeps "
                                 "highlights for a later EXR."),
                io.Float.Input("fps", default=24.0, min=0.01, max=1000.0, step=0.001, tooltip="Frames a second: "
                               "pictures do not say. 23.976, 29.97 and 59.94 are taken as 24000/1001 and so on."),
                io.String.Input("layer", default="", optional=True, tooltip="Layer of an EXR, such as beauty; empty "
                                "for the one without a name."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, at their own size."),
                io.Mask.Output(display_name="alpha", tooltip="1 where opaque, one a frame: a matte that other nodes "
                               "take as mask (the core Load Image's mask is its inverse). All 1 without alpha."),
                io.Float.Output(display_name="fps", tooltip="Frames a second."),
                io.Int.Output(display_name="first", tooltip="Number of the first frame, for Save Image Sequence."),
                io.String.Output(display_name="info", tooltip="What was read and done, a line each."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name="", **rest) -> Any:
        from ..video.sequences.names import found

        try:
            pattern = found(*places().reading(name or ""))
            return [(n, (status := pattern.path(n).stat()).st_mtime_ns, status.st_size) for n in pattern.numbers()]
        except (OSError, ValueError):
            # Not to be found now, or never: the run says so.
            return float("nan")

    @classmethod
    def execute(cls, name, first, count, step, handles, handling, missing, files, images, unpremultiply, clip, fps,
                layer="") -> io.NodeOutput:
        from ..video.clip import as_rate
        from ..video.sequences.names import found
        from ..video.sequences.read import Range, read_sequence

        rate = as_rate(fps)
        pattern = found(*places().reading(name))
        read = read_sequence(pattern, Range(first, count, step, handles, handling, missing), files=files,
                             images=images, unmultiply=unpremultiply, clip=clip, layer=layer.strip(),
                             progress=progress_of_unknown_length("reading frames"))
        height, width = read.frames.shape[1:3]
        info = "\n".join([read.notes[0] + f", {width}x{height}, {float(rate):.6g} a second", *read.notes[1:]])
        return io.NodeOutput(read.frames, read.alpha, float(rate), read.numbers[0], info)


class SaveSequence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditSaveSequence",
            display_name="Save Image Sequence",
            category=CATEGORY,
            description="Frames into numbered pictures in the output folder: PNG of 8 or 16 bits, EXR half or float. "
            "EXR float keeps every number bit for bit. Each file is whole or not there.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The frames."),
                io.String.Input("name", default="sequence/shot_####", tooltip="In the output folder, with subfolders "
                                "by slashes; #### or %04d is the frame number."),
                io.Combo.Input("format", options=FORMATS, default="PNG 16 bit", tooltip="Of the files. PNG holds 0..1; "
                               "EXR any value, half with 11 bits of it, float all."),
                io.Int.Input("start_number", default=1001, min=0, max=10**9, tooltip="Number of the first frame of "
                             "images: connect first of Load Image Sequence."),
                io.Int.Input("step", default=1, min=1, max=10**4, tooltip="From one frame's number to the next."),
                io.Int.Input("handles", default=0, min=0, max=10**4, tooltip="Frames at each end that are not saved; "
                             "the others keep their numbers."),
                io.Combo.Input("images_are", options=COLOURS, default=COLOURS[0], tooltip="What comes in: as images of "
                               "Load Image Sequence says."),
                io.Combo.Input("files", options=STORED, default=STORED[0], tooltip="What the files are to hold. By its "
                               "kind: light (linear) in EXR, sRGB in PNG. Where it is what comes in, no number is "
                               "changed but by rounding."),
                io.Boolean.Input("premultiply", default=False, tooltip="Multiply colours by alpha, as EXR has them; "
                                 "off where they come multiplied."),
                io.Combo.Input("existing", options=EXISTING, default=EXISTING[0], tooltip="Where there is a sequence "
                               "of this name already: write shot_v002_####, or write over its frames."),
                io.Mask.Input("alpha", optional=True, tooltip="1 where opaque, one a frame or one for all. Without it "
                              "the files have no alpha."),
            ],
            outputs=[io.String.Output(display_name="info", tooltip="What was saved and done, a line each.")],
        )

    @classmethod
    def execute(cls, images, name, format, start_number, step, handles, images_are, files, premultiply, existing,
                alpha=None) -> io.NodeOutput:
        from comfy_api.latest import ui

        from .. import backends
        from ..video.sequences.names import output_paths
        from ..video.sequences.write import ending, write_sequence

        check_images("images", images)
        alpha = mask_of("alpha", alpha, images)
        kept = range(handles, len(images) - handles)
        if not kept:
            raise ValueError(f"handles: {handles} at each end leave none of {len(images)} frames; use fewer.")
        numbers = [start_number + index * step for index in kept]
        place, overwrite = places(), existing == "overwrite"
        paths = output_paths(place.output, name, ending(format), numbers, overwrite=overwrite,
                             size=(images.shape[2], images.shape[1]))
        shown = backends.current().progress(len(paths), "writing frames")
        notes = write_sequence(paths, images[kept.start : kept.stop, ..., :3],
                               alpha if alpha is None or len(alpha) == 1 else alpha[kept.start : kept.stop],
                               format, images=images_are, files=files, multiply=premultiply, keep_finished=overwrite,
                               progress=lambda done, total: shown.update(done))
        place.saved.extend(paths)
        first = paths[0].relative_to(place.output).as_posix()
        info = "\n".join([f"{first} to {paths[-1].name}: {len(paths)} frames", *notes])
        return io.NodeOutput(info, ui=ui.PreviewText(info))


NODES = [LoadSequence, SaveSequence]
