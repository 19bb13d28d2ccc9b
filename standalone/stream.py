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
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import places
from ..files.writing import whole
from ..video.write import write_clip
from . import host_api
from .executor import execute
from .graph import CREATE_VIDEO, Graph, GraphError, is_link
from .run import known_nodes
from .stream_checks import check_methods, check_values
from .window_nodes import COLLECT, INVERT, Collect, Place, Source, inversion_node, window_node
from .windowed import INVERSION, SAVE_VIDEO, checked, group_of, left_out, one, roots_of, seeing, sources_of, windowed


def as_frames(images: list[torch.Tensor]) -> torch.Tensor:
    """IMAGE of pictures."""
    return torch.stack(images)


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
    place = places.Folders(input=Path.cwd(), output=output)
    nodes = known_nodes()
    with host_api.installed():
        check_methods(graph, nodes)
    with host_api.installed(), places.using(place):
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
        roots = roots_of(graph, sources, total)
        edited = windowed(graph, sources, sink, group, roots)
        constant = checked(edited, nodes, sources, roots)
        left_out(graph, edited, nodes)
        paths = _windows(edited, nodes, sources, group, tuple(roots.values()), constant, total, window, parts,
                         place_now)
        prefix = graph[one(graph, SAVE_VIDEO)]["inputs"]["filename_prefix"]
        rate = graph[sink]["inputs"]["fps"]
        sound = sources[0].sound() if is_link(graph[sink]["inputs"].get("audio")) else None
        saved = place.free_path(prefix, ".mp4")
        write_clip(saved, finished(paths), sources[0].fps if is_link(rate) else rate, sound, count=total)
    shutil.rmtree(parts)
    return saved


def _windows(
    graph: Graph, nodes: dict[str, type[Any]], sources: list[Source], group: tuple[int, ...], roots: tuple[int, ...],
    constant: set[str], total: int, window: int, parts: Path, place: Place,
) -> list[Path]:  # fmt: skip
    """Edit what is not kept yet; returns the kept windows in order."""
    from tqdm import tqdm

    heads = {source.key: [next(source.read(index, 1)) for index in group] for source in sources}
    starts = range(0, total, window)
    paths = [parts / f"{start:06d}.npy" for start in starts]
    missing = [(start, path) for start, path in zip(starts, paths, strict=True) if not path.exists()]
    with tqdm(total=total, initial=total - sum(min(window, total - s) for s, _ in missing), desc="frames") as bar:
        if missing:
            for source in sources:
                alone = [next(source.read(index, 1)) for index in roots]
                source.frames = as_frames([*heads[source.key], *alone] or [next(source.read(0, 1))])
            handed = seeing(graph, constant, sources)

            def look(key: str, results: tuple) -> None:
                # At once, before what takes long.
                if key in constant:
                    check_values(graph, {key: results}, handed)

            first = execute(graph, nodes, only=constant | {source.key for source in sources}, given=look)
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
