"""A shipped graph made ready to be verified: its switches resolved, a clip put in, what measures added."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..graph import CREATE_VIDEO, LOAD_FRAMES, LOAD_VIDEO, Graph, GraphError, is_link, label, put_video, title_of
from ..rehearsal.files import TEXT_ENCODERS, wanted
from ..rehearsal.probes import SAVERS
from ..rehearsal.reduce import SWITCH, running

MODELS = Path(__file__).parents[2] / "docs" / "models.json"
KEEP, METRICS, COMPARE, VISION = ("SteadyEditKeepFrames", "SteadyEditClipMetrics", "SteadyEditCompare",
                                  "CLIPVisionLoader")  # fmt: skip
#: Frames of each clip on the sheet.
SHOWN = 6
#: Text encoders, which ``wanted`` leaves to a rehearsal's stand-in.
TEXTS = "text_encoders"
#: Folders in which the host looks, too.
OLDER = {"text_encoders": ("clip",), "diffusion_models": ("unet",)}
#: The clip that is taken where none is given: seed, kind of edit, size; and frames where the graph takes all.
OWN, OWN_FRAMES = {"seed": 3, "edit": "colour", "size": 512}, 16
#: Titles of widgets that our own clip has words for.
WORDS = {
    "What the clip shows": "caption", "Your own words for the clip": "caption", "What it should show": "answer",
    "What the edited clip shows": "answer", "Your own words for the edit": "answer",
    "Your own words for the later frame": "answer", "Instruction": "instruction",
    "The instruction, the first frame": "instruction", "What to edit, in words": "object",
    "The object, in your words": "object",
}  # fmt: skip
#: Titles of switches to what is one's own.
SWITCHES = ("Your own words instead of the caption?", "Your own words instead of the captions?",
            "Your own words for the object?", "Your own picture instead?", "Your own later picture instead?")


@dataclass(frozen=True)
class Prepared:
    """A graph to run, and where the measuring nodes are in it.

    Args:
        graph: API format.
        kept: where the frames will be.
        metrics: key of the node of metrics.
    """

    graph: Graph
    kept: Path
    metrics: str


def put_own_clip(graph: Graph, folder: Path) -> None:
    """Render a clip and the true answer to an edit of it, and put both and their words into the graph.

    The same clip on every machine: what comes back from two of them can be compared.
    """
    from PIL import Image

    from ...video.write import write_clip
    from ..render import FPS, clip_and_answer

    if not any(node["class_type"] == LOAD_VIDEO for node in graph.values()):
        return  # The graph brings its own.
    counts = [node["inputs"].get("count") for node in graph.values() if node["class_type"] == LOAD_FRAMES]
    frames = max([count for count in counts if isinstance(count, int) and count > 0] or [OWN_FRAMES])
    clip, answer, edit = clip_and_answer({**OWN, "frames": frames})
    put_video(graph, str(write_clip(folder / "clip.mp4", clip.frames, FPS)))
    picture = folder / "edited_frame.png"
    Image.fromarray((answer.frames[0] * 255).round().byte().numpy()).save(picture)
    words = {"caption": clip.caption, "answer": answer.caption, "instruction": edit.instruction,
             "object": " ".join(edit.instruction.split()[2:-1])}  # fmt: skip
    for node in graph.values():
        inputs, title = node["inputs"], title_of(node)
        if title in SWITCHES:
            field = "switch" if node["class_type"] == SWITCH else "value"
            if not is_link(inputs.get(field)):
                inputs[field] = True
        elif node["class_type"] == "LoadImage":
            inputs["image"] = str(picture)
        elif title in WORDS:
            for field in ("text", "value", "prompt"):
                if isinstance(inputs.get(field), str):
                    inputs[field] = words[WORDS[title]]


def resolved(graph: Graph) -> Graph:
    """The same work without switches and what they turn off, without files for later, and with no training reused."""
    at_work = running(graph)
    graph = {key: {**node, "inputs": dict(node["inputs"])} for key, node in graph.items() if key in at_work}
    for key in [key for key, node in graph.items() if node["class_type"] == SWITCH]:
        inputs = graph[key]["inputs"]
        switch: Any = inputs["switch"]
        if is_link(switch):
            switch = graph[switch[0]]["inputs"].get("value")
        if isinstance(switch, bool):
            chosen = inputs["on_true" if switch else "on_false"]
            for node in graph.values():
                for name, value in node["inputs"].items():
                    if value == [key, 0]:
                        node["inputs"][name] = chosen
            del graph[key]
    for node in graph.values():
        if "reuse" in node["inputs"]:
            node["inputs"]["reuse"] = False
    return {key: node for key, node in graph.items() if node["class_type"] not in SAVERS}


def measuring(graph: Graph, folder: Path, vision: str | None) -> Prepared:
    """Add the nodes that keep frames and measure them; changes the graph.

    Args:
        vision: a CLIP vision file that is there, for CLIP-Frame and its kin; None leaves them out.

    Raises:
        GraphError: the graph makes no video of pictures.
    """
    after = next((node["inputs"]["images"] for node in graph.values() if node["class_type"] == CREATE_VIDEO), None)
    compared = (node["inputs"]["before"] for node in graph.values() if node["class_type"] == COMPARE)
    loaded = ([key, 0] for key, node in graph.items() if node["class_type"] in (LOAD_FRAMES, "SteadyEditToyClip"))
    before = next(compared, None) or next(loaded, None)
    if after is None or before is None:
        raise GraphError("verify: this graph makes no video of pictures; choose another one.")
    kept = folder / "frames.safetensors"
    graph["verify:frames"] = {"class_type": KEEP, "_meta": {"title": "Frames for the sheet"}, "inputs": {
        "before": before, "after": after, "count": SHOWN, "path": str(kept)}}  # fmt: skip
    metrics = next((key for key, node in graph.items() if node["class_type"] == METRICS), "verify:metrics")
    if metrics not in graph:
        graph[metrics] = {"class_type": METRICS, "_meta": {"title": "The papers' metrics"}, "inputs": {
            "images": after, "source": before, "prompt": ""}}  # fmt: skip
    if vision is not None and "clip_vision" not in graph[metrics]["inputs"]:
        graph["verify:vision"] = {"class_type": VISION, "_meta": {"title": "CLIP vision for the metrics"},
                                  "inputs": {"clip_name": vision}}  # fmt: skip
        graph[metrics]["inputs"]["clip_vision"] = ["verify:vision", 0]
    return Prepared(graph, kept, metrics)


def check_models(graph: Graph, models: Path) -> None:
    """Raise GraphError that names the model files which the graph wants and the folder lacks, and where to get them."""
    if not models.is_dir():
        raise GraphError(f"--models {models}: there is no such folder; give ComfyUI's folder of models.")
    texts = [(key, TEXTS, value) for key, node in graph.items() if node["class_type"] in TEXT_ENCODERS
             for name, value in node["inputs"].items() if name.startswith("clip_name") and isinstance(value, str)]
    named = [*((one.key, one.folder, one.name) for one in wanted(graph)), *texts]
    missing = [(key, folder, name) for key, folder, name in named
               if not any((models / place / name).exists() for place in (folder, *OLDER.get(folder, ())))]  # fmt: skip
    if missing:
        addresses = {row["name"]: row["url"] for row in json.loads(MODELS.read_text(encoding="utf-8"))
                     } if MODELS.is_file() else {}  # fmt: skip
        lacking = "; ".join(dict.fromkeys(f"{folder}/{name}" + (f" ({addresses[name]})" if name in addresses else "")
                                          for _, folder, name in missing))  # fmt: skip
        raise GraphError(f"{label(graph, missing[0][0])}: the folder of models lacks {lacking}.")


def vision_file(models: Path) -> str | None:
    """The first file of a CLIP vision in a folder of models."""
    found = sorted(path.name for path in (models / "clip_vision").glob("*.safetensors"))
    return next((name for name in found if "clip" in name.lower()), None)
