"""``make demo``: a clip is written as an mp4, edited by EI2 from mp4 to mp4, and measured against the true answer.

The graph is the one that ships for the editor, workflows/api/toy_ei2.json; the file takes the
place of its clip by the command line's own ``--video``. Beside it stands the same graph with
no block at all, each frame on its own.
"""

from __future__ import annotations

import copy
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .graph import CLIP, Graph, put_video, read_graph, title_of
from .run import StandaloneRun, run_standalone

if TYPE_CHECKING:
    from torch import Tensor

    from ..toyworld import Clip

GRAPH = Path(__file__).parents[1] / "workflows" / "api" / "toy_ei2.json"
TUNE, STAM, FFAM = "SteadyEditOneShotTune", "SteadyEditSTAM", "SteadyEditFFAM"
#: Where a picture is neither the thing nor its edge: the edit had no business there.
MARGIN = 6


@dataclass(frozen=True)
class Measured:
    """How an edit compares with the answer.

    Args:
        right: frames in which the judge sees what the prompt asked for.
        frames: of the clip.
        truth: PSNR to the true answer, dB, over the whole picture.
        background: PSNR to the source where nothing should change, dB; None where the edit
            is of the whole picture.
        flicker: change of the error from frame to frame, in 1/255 (``vision.metrics.flicker``).
    """

    right: int
    frames: int
    truth: float
    background: float | None
    flicker: float

    def __str__(self) -> str:
        kept = "" if self.background is None else f"\nbackground {self.background:.1f} dB"
        right = f"right in {self.right} of {self.frames} frames"
        return f"{right}\nto the truth {self.truth:.1f} dB{kept}\nflicker {self.flicker:.1f}"


def measure(frames: Tensor, clip: Clip, answer: Clip, edit: Any) -> Measured:
    """Judge an edited clip [F, H, W, 3] in 0..1."""
    from ..toyworld.models.classifier import boxes_of
    from ..toyworld.models.judge import classify
    from ..vision import metrics

    local = edit.kind in ("colour", "shape", "texture")
    seen = classify(frames, boxes_of(answer.masks[0]) if local else None)[edit.kind]
    background = None
    if local:
        thing = torch.maximum(clip.masks[0], answer.masks[0])[:, None]
        grown = torch.nn.functional.max_pool2d(thing, 2 * MARGIN + 1, 1, MARGIN)[:, 0]
        background = metrics.psnr(frames, clip.frames, grown < 0.01)
    truth = metrics.psnr(frames, answer.frames)
    assert truth is not None  # every picture has pixels
    flicker = 255 * (metrics.flicker(frames, answer.frames, answer.flow, answer.flow_valid) or 0.0)
    return Measured(sum(name == edit.target for name in seen), len(frames), truth, background, flicker)


def without_methods(graph: Graph) -> Graph:
    """The graph on the base model, each frame on its own: nothing attached, nothing tuned."""
    graph = copy.deepcopy(graph)
    gone = {TUNE, STAM, FFAM}
    source = {key: node["inputs"]["model"] for key, node in graph.items() if node["class_type"] in gone}
    for node in graph.values():
        while (link := node["inputs"].get("model")) and link[0] in source:
            node["inputs"]["model"] = source[link[0]]
    return graph


def edit_file(graph: Graph, source: Path, saved: Path) -> tuple[StandaloneRun, Tensor]:
    """Run a graph on a video file, put the video that it saves at ``saved``, and read that."""
    from ..video.read import read_clip

    graph = copy.deepcopy(graph)
    put_video(graph, str(source.absolute()))
    with tempfile.TemporaryDirectory() as folder:
        run = run_standalone(graph, Path(folder))
        videos = [path for path in run.saved if path.suffix == ".mp4"]
        saved.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(videos[0], saved)
    return run, read_clip(saved).frames


def report(rows: list[tuple[str, Measured, float]]) -> str:
    """The table that is printed."""
    lines = [f"{'':18}{'edit seen':>12}{'to truth':>12}{'background':>12}{'flicker':>10}{'seconds':>10}"]
    for name, measured, seconds in rows:
        kept = "-" if measured.background is None else f"{measured.background:.1f} dB"
        took = f"{seconds:.0f}" if seconds else "-"
        seen = f"{measured.right}/{measured.frames}"
        numbers = f"{measured.truth:>9.1f} dB{kept:>12}{measured.flicker:>10.1f}"
        lines.append(f"{name:18}{seen:>12}{numbers}{took:>10}")
    return "\n".join(lines)


def main(output: Path) -> None:
    """Render, edit, measure; writes source.mp4, edited.mp4 and contact_sheet.png into ``output``."""
    start = time.perf_counter()
    from ..video.read import read_clip
    from ..video.sheet import contact_sheet
    from ..video.write import write_clip
    from .render import FPS, clip_and_answer

    graph = read_graph(GRAPH)
    settings = next(node["inputs"] for node in graph.values() if node["class_type"] == CLIP)
    clip, answer, edit = clip_and_answer(settings)
    source = output / "source.mp4"
    write_clip(source, clip.frames, FPS)
    print(f"{source}: {clip.caption}\nthe edit: {answer.caption}", file=sys.stderr)

    methods = {"EI2": graph, "each frame alone": without_methods(graph)}
    rows: list[tuple[str, Measured, float]] = []
    pictures: list[tuple[str, str, Tensor]] = []
    for name, method in methods.items():
        began = time.perf_counter()
        saved = output / ("edited.mp4" if name == "EI2" else f"{name.replace(' ', '_')}.mp4")
        run, frames = edit_file(method, source, saved)
        seconds = time.perf_counter() - began
        for key, took in run.seconds.items():
            if took > 1:
                print(f"  {title_of(graph[key]) if key in graph else key}: {took:.1f} s", file=sys.stderr)
        measured = measure(frames, clip, answer, edit)
        rows.append((name, measured, seconds))
        pictures.append((name, f"{measured}\n{seconds:.0f} s", frames))
    decoded = read_clip(source).frames
    unedited, true = (measure(frames, clip, answer, edit) for frames in (decoded, answer.frames))
    rows = [("source", unedited, 0.0), *rows, ("truth", true, 0.0)]
    judged = f"right in {true.right} of {true.frames} frames"
    pictures = [("source", str(unedited), decoded), *pictures, ("truth", judged, answer.frames)]
    contact_sheet(output / "contact_sheet.png", f"{clip.caption}  >  {answer.caption}", pictures)
    print(report(rows))
    print(f"{output / 'edited.mp4'} and {output / 'contact_sheet.png'} written; "
          f"{time.perf_counter() - start:.0f} s in all.")
