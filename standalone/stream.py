"""Edit a video of any length with a graph, a window of frames at a time: memory does not grow with the video.

With gather-swap a frame's edit depends on that frame and on the group's frames alone. So every
window is the group's frames, named by hand, and then the window's own; the rows of the group
are dropped from its result. What looks at no frame but the root (candidates, adaptation) runs
once. Finished windows are kept on disk, and so is the trajectory of the window at work, step by
step and memory-mapped: the same command goes on after the last of both.

The result is that of the whole clip in one piece where all frames start from one noise
(LatentBatchSeedBehavior fixed), as the graphs of this pack do.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ..files.writing import whole
from ..methods.via.gather_swap import GatherSwap
from ..nodes.checks import whole_numbers
from ..video.write import write_clip
from . import folders, host_api
from .executor import execute, order_of
from .graph import CREATE_VIDEO, LOAD_FRAMES, LOAD_VIDEO, Graph, GraphError, is_link, label
from .run import known_nodes
from .window_nodes import COLLECT, INVERT, WINDOW, Collect, Place, Source, inversion_node, window_node

COMPONENTS, GATHER_SWAP, INVERSION, ROOT, SAVE_VIDEO = (
    "GetVideoComponents", "SteadyEditGatherSwap", "SteadyEditDDIMInversion", "SteadyEditRootCandidates", "SaveVideo",
)  # fmt: skip
#: Nodes that make every frame look at every other one.
MIXING = ("SteadyEditSTAM", "SteadyEditFFAM", "SteadyEditSparseCausal", "SteadyEditTemporalAttention",
          "SteadyEditOneShotTune")  # fmt: skip


def sources_of(graph: Graph, find: Callable[[str], Path]) -> list[Source]:
    """All nodes that take frames from a file.

    Raises:
        GraphError: there is none.
    """
    found = []
    for key, node in graph.items():
        link = node["inputs"].get("video")
        if node["class_type"] in (LOAD_FRAMES, COMPONENTS) and is_link(link):
            loader = graph[link[0]]
            if loader["class_type"] == LOAD_VIDEO:
                found.append(Source(key, find(loader["inputs"]["file"]), node["inputs"]))
    if not found:
        raise GraphError("--stream: no node of the graph takes frames from a file; name one by --video.")
    return found


def one(graph: Graph, kind: str) -> str:
    """The id of the only node of a class."""
    keys = [key for key, node in graph.items() if node["class_type"] == kind]
    if len(keys) != 1:
        raise GraphError(f"--stream: needs one {kind} in the graph; it has {len(keys)}.")
    return keys[0]


def without_frames(graph: Graph, order: list[str], sources: list[Source]) -> set[str]:
    """Ids of nodes that give the same for every window: they see no frames but through the root."""
    seeing = {source.key for source in sources}
    for key in order:
        inputs = (value[0] for value in graph[key]["inputs"].values() if is_link(value))
        if graph[key]["class_type"] != ROOT and any(before in seeing for before in inputs):
            seeing.add(key)
    return set(order) - seeing


def windowed(graph: Graph, sources: list[Source], sink: str, group: tuple[int, ...]) -> Graph:
    """The graph with windows for its sources, one sink, and the group at the head of each window."""
    result = {key: {**node, "inputs": dict(node["inputs"])} for key, node in graph.items()}
    for source in sources:
        result[source.key] = {"class_type": f"{WINDOW}:{source.key}", "inputs": {}}
    for key, node in result.items():
        if node["class_type"] == GATHER_SWAP:
            node["inputs"]["group_frames"] = ", ".join(map(str, range(len(group))))
        if node["class_type"] == INVERSION:
            node["class_type"] = f"{INVERT}:{key}"
    result[COLLECT] = {"class_type": COLLECT, "inputs": {"images": graph[sink]["inputs"]["images"]}}
    needed, left = set(), [COLLECT]
    while left:
        key = left.pop()
        if key not in needed:
            needed.add(key)
            left += [value[0] for value in result[key]["inputs"].values() if is_link(value)]
    return {key: node for key, node in result.items() if key in needed}


def as_frames(images: list[np.ndarray]) -> torch.Tensor:
    """IMAGE of uint8 pictures."""
    return torch.from_numpy(np.stack(images)).float() / 255


def keep(path: Path, frames: torch.Tensor) -> None:
    """Write a finished window, whole or not at all, as it will go into the video: 8 bits."""
    with whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, (frames.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def finished(paths: list[Path]) -> Iterator[torch.Tensor]:
    """All frames of the kept windows, [H, W, 3] in 0..1, one by one."""
    for path in paths:
        for picture in np.load(path, mmap_mode="r"):
            yield torch.from_numpy(picture.copy()).float() / 255


def named(graph: Graph, sources: list[Source], window: int) -> str:
    """A name for this graph on these files: kept windows of another one are never taken for its own."""
    stats = [(str(source.path), source.path.stat().st_size, source.path.stat().st_mtime_ns) for source in sources]
    return hashlib.sha256(json.dumps([graph, stats, window], sort_keys=True).encode()).hexdigest()[:12]


def group_of(graph: Graph, total: int) -> tuple[int, ...]:
    """Frames that every window must hold: those of the graph's gather-swap."""
    nodes = [node["inputs"] for node in graph.values() if node["class_type"] == GATHER_SWAP]
    chosen = set()
    for inputs in nodes:
        by_hand = whole_numbers("group_frames", inputs.get("group_frames", ""))
        chosen.add(GatherSwap(group=inputs["group"], frames=by_hand).group_of(total))
    if len(chosen) > 1:
        raise GraphError("--stream: the graph's gather-swaps have different groups; give them one.")
    return chosen.pop() if chosen else ()


def stream(graph: Graph, output: Path, window: int) -> Path:
    """Run a graph on its files, window by window; returns the video.

    Args:
        graph: API format, with one CreateVideo and one SaveVideo.
        output: folder that it saves into.
        window: frames at a time, beside those of the group.

    Raises:
        GraphError: the graph does not fit; one sentence. Finished windows stay for the next try.
    """
    if window < 1:
        raise GraphError(f"--stream: expected 1 frame at a time or more, but got {window}.")
    for key, node in graph.items():
        if node["class_type"] in MIXING:
            raise GraphError(f"--stream: {label(graph, key)} lets every frame look at all others, so the clip cannot "
                             "be edited in windows; run it without --stream.")
    place = folders.Folders(input=Path.cwd(), output=output)
    nodes = known_nodes()
    with host_api.installed(), folders.using(place):
        sources, sink = sources_of(graph, place.find), one(graph, CREATE_VIDEO)
        total = sources[0].total
        for source in sources[1:]:
            if source.total != total:
                raise GraphError(f"--stream: {source.path.name} has {source.total} frames, but "
                                 f"{sources[0].path.name} has {total}; give clips of one length.")
        schemas = {source.key: nodes[graph[source.key]["class_type"]].GET_SCHEMA().outputs for source in sources}
        nodes |= {COLLECT: Collect, **window_node({source.key: source for source in sources}, schemas)}
        place_now = Place()
        nodes |= {f"{INVERT}:{key}": inversion_node(nodes[INVERSION], key, place_now)
                  for key, node in graph.items() if node["class_type"] == INVERSION}  # fmt: skip
        group = group_of(graph, total)
        parts = output / f".{named(graph, sources, window)}.windows"
        paths = _windows(windowed(graph, sources, sink, group), nodes, sources, group, total, window, parts, place_now)
        prefix = graph[one(graph, SAVE_VIDEO)]["inputs"]["filename_prefix"]
        rate = graph[sink]["inputs"]["fps"]
        sound = sources[0].sound() if is_link(graph[sink]["inputs"].get("audio")) else None
        saved = place.free_path(prefix, ".mp4")
        write_clip(saved, finished(paths), sources[0].fps if is_link(rate) else rate, sound, count=total)
    shutil.rmtree(parts)
    return saved


def _windows(
    graph: Graph, nodes: dict[str, type], sources: list[Source], group: tuple[int, ...], total: int, window: int,
    parts: Path, place: Place,
) -> list[Path]:  # fmt: skip
    """Edit what is not kept yet; returns the kept windows in order."""
    from tqdm import tqdm

    heads = {source.key: [next(source.read(index, 1)) for index in group] for source in sources}
    starts = range(0, total, window)
    paths = [parts / f"{start:06d}.npy" for start in starts]
    missing = [(start, path) for start, path in zip(starts, paths, strict=True) if not path.exists()]
    constant = without_frames(graph, order_of(graph, nodes), sources)
    with tqdm(total=total, initial=total - sum(min(window, total - s) for s, _ in missing), desc="frames") as bar:
        if missing:
            for source in sources:
                source.frames = as_frames(heads[source.key] or [next(source.read(0, 1))])
            first = execute(graph, nodes, only=constant | {source.key for source in sources})
            known = {key: value for key, value in first.results.items() if key in constant}
        for start, path in missing:
            count = min(window, total - start)
            for source in sources:
                source.frames = as_frames([*heads[source.key], *islice(source.read(start, count), count)])
            place.folder = path.with_suffix("")
            images = execute(graph, nodes, known=known).results[COLLECT][0]
            if len(images) != len(group) + count:
                raise GraphError(f"--stream: {len(group) + count} frames went in and {len(images)} came out, so the "
                                 "graph cannot be run in windows.")
            keep(path, images[len(group):])
            shutil.rmtree(place.folder, ignore_errors=True)
            bar.update(count)
    return paths
