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
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..methods.stored import locked, set_aside
from ..video.write import write_clip
from . import folders, host_api
from .executor import execute
from .graph import CREATE_VIDEO, Graph, GraphError, is_link
from .run import known_nodes
from .stream_checks import check_methods, check_values
from .window_nodes import COLLECT, INVERT, Collect, Place, Source, inversion_node, window_node
from .windowed import INVERSION, SAVE_VIDEO, checked, group_of, left_out, one, roots_of, seeing, sources_of, windowed
from .windows import describe, finished, is_finished, keep


def as_frames(images: list[np.ndarray]) -> torch.Tensor:
    """IMAGE of uint8 pictures."""
    return torch.from_numpy(np.stack(images)).float() / 255


def named(graph: Graph, sources: list[Source], window: int) -> str:
    """A name for this graph on these files: kept windows of another one are never taken for its own."""
    stats = [(str(source.path), source.path.stat().st_size, source.path.stat().st_mtime_ns) for source in sources]
    return hashlib.sha256(json.dumps([graph, stats, window], sort_keys=True).encode()).hexdigest()[:12]


def length_of(sources: list[Source]) -> int:
    """Frames of the clip. Raises GraphError where the files differ."""
    for source in sources[1:]:
        if source.total != sources[0].total:
            raise GraphError(f"--stream: {source.path.name} has {source.total} frames, but "
                             f"{sources[0].path.name} has {sources[0].total}; give clips of one length.")
    return sources[0].total


def window_nodes(sources: list[Source], nodes: dict[str, type]) -> dict[str, type]:
    """Classes that give a window of each source."""
    schemas = {source.key: nodes[source.class_type].GET_SCHEMA().outputs for source in sources}
    return window_node({source.key: source for source in sources}, schemas)


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
    place = folders.Folders(input=Path.cwd(), output=output)
    nodes = known_nodes()
    with host_api.installed(), folders.using(place):
        check_methods(graph, nodes)
        sources, sink = sources_of(graph, place.find), one(graph, CREATE_VIDEO)
        total = length_of(sources)
        prefix = graph[one(graph, SAVE_VIDEO)]["inputs"]["filename_prefix"]
        # A name that cannot be is told before the work, not after it.
        place.free_path(prefix, ".mp4")
        group, roots = group_of(graph, total), roots_of(graph, sources, total)
        edited, name = windowed(graph, sources, sink, group, roots), named(graph, sources, window)
        run = Run(edited, nodes, sources, group, tuple(roots.values()), total, window, name, output)
        run.constant = checked(edited, run.nodes, sources, roots)
        left_out(graph, edited, nodes)
        with locked(output / f".{name}.lock", "--stream"):
            paths = run.windows()
            rate = graph[sink]["inputs"]["fps"]
            sound = sources[0].sound() if is_link(graph[sink]["inputs"].get("audio")) else None
            saved = place.free_path(prefix, ".mp4")
            write_clip(saved, finished(paths), sources[0].fps if is_link(rate) else rate, sound, count=total)
            shutil.rmtree(run.parts)
    return saved


@dataclass
class Run:
    """One graph in windows.

    Args:
        graph: ``windowed``.
        nodes: classes by ``class_type``; those of the windows are added.
        group: frames at the head of every window.
        roots: frames of the clip that candidates are made of.
        total: frames of the clip.
        window: frames at a time.
        name: of what is kept, by the graph and its files.
        output: folder that it is kept in.
        constant: ids of the nodes that run once.
    """

    graph: Graph
    nodes: dict[str, type]
    sources: list[Source]
    group: tuple[int, ...]
    roots: tuple[int, ...]
    total: int
    window: int
    name: str
    output: Path
    constant: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.parts, self.place = self.output / f".{self.name}.windows", Place()
        inverts = [key for key, node in self.graph.items() if node["class_type"] == f"{INVERT}:{key}"]
        self.nodes = {
            **self.nodes, COLLECT: Collect, **window_nodes(self.sources, self.nodes),
            **{f"{INVERT}:{key}": inversion_node(self.nodes[INVERSION], key, self.place) for key in inverts},
        }  # fmt: skip

    def windows(self) -> list[Path]:
        """Edit what is not kept yet; returns the kept windows in order."""
        from tqdm import tqdm

        starts = range(0, self.total, self.window)
        paths = [self.parts / f"{start:06d}.npy" for start in starts]
        missing = [(start, path) for start, path in zip(starts, paths, strict=True)
                   if not is_finished(path, self.description(start))]
        left = sum(self.count(start) for start, _ in missing)
        with tqdm(total=self.total, initial=self.total - left, desc="frames") as bar:
            heads = {source.key: [next(source.read(index, 1)) for index in self.group] for source in self.sources}
            known = self.once(heads) if missing else {}
            for start, path in missing:
                keep(path, self.edit(start, path, heads, known))
                describe(path, self.description(start))
                shutil.rmtree(self.place.folder, ignore_errors=True)
                bar.update(self.count(start))
        return paths

    def count(self, start: int) -> int:
        """Frames of the window that begins there."""
        return min(self.window, self.total - start)

    def description(self, start: int) -> dict[str, Any]:
        """What a kept window says that it is."""
        return {"kind": "window", "version": 1, "stream": self.name, "start": start, "frames": self.count(start)}

    def once(self, heads: dict[str, list[np.ndarray]]) -> dict[str, tuple]:
        """Results of the nodes that give the same for every window."""
        for source in self.sources:
            alone = [next(source.read(index, 1)) for index in self.roots]
            source.frames = as_frames([*heads[source.key], *alone] or [next(source.read(0, 1))])
        handed = seeing(self.graph, self.constant, self.sources)

        def look(key: str, results: tuple) -> None:
            # At once, before what takes long.
            if key in self.constant:
                check_values(self.graph, {key: results}, handed)

        wanted = self.constant | {source.key for source in self.sources}
        results = execute(self.graph, self.nodes, only=wanted, given=look).results
        return {key: value for key, value in results.items() if key in self.constant}

    def edit(self, start: int, path: Path, heads: dict[str, list[np.ndarray]],
             known: dict[str, tuple]) -> torch.Tensor:  # fmt: skip
        """The edited frames of one window, without the group's."""
        count = self.count(start)
        for source in self.sources:
            source.frames = as_frames([*heads[source.key], *islice(source.read(start, count), count)])
        self.place.folder = path.with_suffix("")
        begun = self.place.folder.exists()
        try:
            images = execute(self.graph, self.nodes, known=known).results[COLLECT][0]
        except GraphError as error:
            if not begun:
                raise
            # What was kept of it may be at fault: the window is begun anew, once.
            set_aside(self.place.folder, str(error))
            images = execute(self.graph, self.nodes, known=known).results[COLLECT][0]
        if len(images) != len(self.group) + count:
            raise GraphError(f"--stream: {len(self.group) + count} frames went in and {len(images)} came out, so the "
                             "graph cannot be run in windows.")
        return images[len(self.group):]
