"""Edit a video of any length with a graph, a window of frames at a time: memory does not grow with the video.

With gather-swap a frame's edit depends on that frame and on the group's frames alone. So every
window is the group's frames, named by hand, and then the window's own; the rows of the group
are dropped from its result. What looks at no frame but the root (candidates, adaptation) runs
once. Finished windows are kept on disk (``streaming.store``), and so is the trajectory of the window at work, step by
step and memory-mapped: the same command goes on after the last of both.

The result is that of the whole clip in one piece where all frames start from one noise
(LatentBatchSeedBehavior fixed), as the graphs of this pack do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from uuid import uuid4

import torch

from .. import backends
from ..files import places
from ..files.writing import write_bytes
from ..methods.content_hash import content_hash
from ..streaming.run import edit_windows
from ..streaming.store import Window, WindowStore
from ..streaming.video import tell_of_another
from ..video.write import write_clip
from . import host_api
from .executor import execute
from .graph import CREATE_VIDEO, Graph, GraphError, is_link, label
from .run import known_nodes
from .stream_checks import ADVICE, check_methods, check_values, told_apart
from .team import Team, processes, rank_of_this, team
from .window_nodes import COLLECT, INVERT, Collect, Place, Source, inversion_node, window_node
from .windowed import INVERSION, SAVE_VIDEO, checked, group_of, left_out, one, roots_of, seeing, sources_of, windowed


def as_frames(images: list[torch.Tensor]) -> torch.Tensor:
    """IMAGE of pictures."""
    return torch.stack(images)


def named(graph: Graph, sources: list[Source]) -> str:
    """Hash of this graph on these files: windows of another one are never taken for its own."""
    identity = content_hash(torch.__version__, graph, [source.clip.identity() for source in sources])
    assert identity is not None  # texts and numbers
    return identity


def stream(graph: Graph, output: Path, window: int) -> Path | None:
    """Run a graph on its files, window by window; returns the video, which of several processes the first one writes.

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
        total = sources[0].clip.total
        for source in sources[1:]:
            if source.clip.total != total:
                raise GraphError(f"--stream: {source.path.name} has {source.clip.total} frames, but "
                                 f"{sources[0].path.name} has {total}; give clips of one length.")
        made_by = graph[one(graph, SAVE_VIDEO)]["inputs"].get("video")
        if not is_link(made_by) or made_by[0] != sink:
            where = label(graph, made_by[0]) if is_link(made_by) else label(graph, sink)
            raise GraphError(f"--stream: {where} makes the video that is saved, not {CREATE_VIDEO}; {ADVICE}")
        schemas = {source.key: nodes[graph[source.key]["class_type"]].GET_SCHEMA().outputs for source in sources}
        nodes |= {COLLECT: Collect, **window_node({source.key: source for source in sources}, schemas)}
        place_now = Place()
        nodes |= {f"{INVERT}:{key}": inversion_node(nodes[INVERSION], key, place_now)
                  for key, node in graph.items() if node["class_type"] == INVERSION}  # fmt: skip
        group = group_of(graph, total)
        identity = named(graph, sources)
        store = WindowStore(output / f".{identity[:12]}.windows", identity, total)
        roots = roots_of(graph, sources, total)
        edited = windowed(graph, sources, sink, group, roots)
        constant = checked(edited, nodes, sources, roots)
        left_out(graph, edited, nodes)
        edit = GraphEdit(edited, nodes, sources, group, tuple(roots.values()), constant, place_now)
        if rank_of_this() == 0:
            for source in sources:
                tell_of_another(store.folder, source.clip)
        try:
            shared, rank = shared_out(store, window, edit, identity)
            edit_windows(store, window, edit, backends.current().progress(total, "frames"), shared)
        except ValueError as error:
            raise error if isinstance(error, GraphError) else GraphError(f"--stream: {error}") from error
        if rank:
            return None
        prefix = graph[one(graph, SAVE_VIDEO)]["inputs"]["filename_prefix"]
        rate = graph[sink]["inputs"]["fps"]
        sound = sources[0].clip.sound() if is_link(graph[sink]["inputs"].get("audio")) else None
        saved = place.free_path(prefix, ".mp4")
        write_clip(saved, store.frames(), sources[0].clip.fps if is_link(rate) else rate, sound,
                   timecode=sources[0].clip.timecode if is_link(rate) else None, count=total)
    # Under another name first: a process that waits must not take half of a folder for windows that are missing.
    shutil.rmtree(store.folder.rename(store.folder.with_suffix(".done")))
    return saved


def shared_out(store: WindowStore, size: int, edit: GraphEdit, identity: str) -> tuple[list[Window] | None, int]:
    """The windows that the processes of this run share, and this one's number; (None, 0) where it is alone.

    Raises:
        GraphError: the processes are not at work on the same; one ended before.
    """
    if processes() == 1:
        return None, 0
    with team() as all_of_us:
        all_of_us.agree("graphs or videos", f"{identity} {size}")
        store.folder.mkdir(parents=True, exist_ok=True)
        if not all(all_of_us.all_gather(_common(store, all_of_us))):
            raise GraphError(f"--output: {store.folder.parent} is not one folder for all processes; name one that all "
                             "machines share.")
        windows = all_of_us.all_gather(store.missing(size) if all_of_us.rank == 0 else None)[0]
        if windows:
            all_of_us.agree("results of what runs once", all_of_us.in_turn(edit.prepared))
        return windows, all_of_us.rank


def _common(store: WindowStore, all_of_us: Team) -> bool:
    """Whether this process sees what the first one writes."""
    sign = store.folder / "shared.json"
    word = all_of_us.all_gather(uuid4().hex)[0]
    if all_of_us.rank == 0:
        write_bytes(sign, word.encode())
    all_of_us.all_gather(None)
    return sign.is_file() and sign.read_text() == word


@dataclass
class GraphEdit:
    """``streaming.run.edit_windows``'s edit by a windowed graph.

    Args:
        graph: see ``windowed``.
        sources: what it reads; group, roots: frames that each needs beside the window's.
        constant: ids of the nodes that run once.
        place: is told the folder of the window at work.
    """

    graph: Graph
    nodes: dict[str, type]
    sources: list[Source]
    group: tuple[int, ...]
    roots: tuple[int, ...]
    constant: set[str]
    place: Place
    _heads: dict[str, list[torch.Tensor]] | None = None
    _known: dict[str, tuple] | None = None

    def __call__(self, window: Window, part: Callable[[float], None], room: Path) -> torch.Tensor:
        heads, known = self._all_alike()
        for source in self.sources:
            rest = islice(source.clip.read(window.first, window.count), window.count)
            source.frames = as_frames([*heads[source.key], *rest])
        self.place.folder = room
        images = execute(self.graph, self.nodes, known=known).results[COLLECT][0]
        return images[len(self.group) :]

    def prepared(self) -> str | None:
        """Do what runs once; a hash of what came of it."""
        heads, known = self._all_alike()
        return content_hash([heads, {key: told_apart(values) for key, values in known.items()}])

    def _all_alike(self) -> tuple[dict[str, list[torch.Tensor]], dict[str, tuple]]:
        """The group's frames of every source, and the results of what runs once."""
        if self._heads is None:
            self._heads = {s.key: [next(s.clip.read(index, 1)) for index in self.group] for s in self.sources}
        if self._known is None:
            self._known = self._once(self._heads)
        return self._heads, self._known

    def _once(self, heads: dict[str, list[torch.Tensor]]) -> dict[str, tuple]:
        """Results of the nodes that see no window."""
        for source in self.sources:
            alone = [next(source.clip.read(index, 1)) for index in self.roots]
            source.frames = as_frames([*heads[source.key], *alone] or [next(source.clip.read(0, 1))])
        handed = seeing(self.graph, self.constant, self.sources)

        def look(key: str, results: tuple) -> None:
            # At once, before what takes long.
            if key in self.constant:
                check_values(self.graph, {key: results}, handed)

        first = execute(self.graph, self.nodes, only=self.constant | {s.key for s in self.sources}, given=look)
        return {key: value for key, value in first.results.items() if key in self.constant}
