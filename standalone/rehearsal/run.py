"""A shipped graph run whole in a real ComfyUI on narrow random weights, and what it gave looked at."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..comfy_host import bring_files, saved_files, send
from ..comfy_process import Host
from ..comfy_process import running as running_host
from ..graph import Graph, GraphError
from . import checks, media
from .files import models_folder, stand_in_texts, wanted, write_media, write_models
from .meter import Meter
from .pieces import needed_before, read_piece
from .probes import SAVERS, Probes, add_probes, instead, trainings
from .reduce import reduced, running
from .weights import is_scaled

HOST_PACK = Path(__file__).parent / "host_pack"


@dataclass(frozen=True)
class Report:
    """What a graph's rehearsal took and looked at.

    Args:
        seconds: processor time of the host, None where the system does not tell.
        gigabytes: most that the host held at once, likewise.
        stand_ins: text encoders that a stand-in took the place of.
        checked: what was asserted, in words.
        off: models that a switch kept from being loaded.
    """

    name: str
    seconds: float | None
    gigabytes: float | None
    stand_ins: tuple[str, ...]
    checked: tuple[str, ...]
    off: tuple[str, ...] = ()

    def __str__(self) -> str:
        took = "" if self.seconds is None else f" in {self.seconds:.0f} s of processor time"
        took += "" if self.gigabytes is None else f", at most {self.gigabytes:.1f} GB"
        instead_of = f"; a stand-in for {', '.join(self.stand_ins)}" if self.stand_ins else ""
        without = f"; switched off: {', '.join(self.off)}" if self.off else ""
        return f"{self.name}: ran whole{took}; checked: {', '.join(self.checked)}{instead_of}{without}"


def needs_fresh_host(graph: Graph) -> bool:
    """Whether the graph loads scaled fp8 weights: a second run in the same host would hide what the first one shows."""
    return any(is_scaled(one.name) for one in wanted(graph) if one.folder == "diffusion_models")


def rehearse(names: Sequence[str], comfy: Path, models: Path | None = None) -> Iterator[Report | GraphError]:
    """Rehearse graphs one after another, in as few hosts as may be.

    Args:
        names: of shipped graphs and blueprints.
        comfy: folder of a ComfyUI.
        models: where the random weights are written, and found again; None for a temporary folder.

    Yields:
        For each graph what it took, or a GraphError whose sentence names graph, node and reason.

    Raises:
        GraphError: a name that is none, or a folder that is not to be written to.
    """
    graphs = {name: read_piece(name) for name in names}
    before = {other: read_piece(other) for graph in graphs.values() for other in needed_before(graph)}
    graphs = {**before, **graphs}
    with tempfile.TemporaryDirectory(prefix="steadyedit-rehearse-") as temporary:
        place = models_folder(models or Path(temporary) / "models", comfy / "models")
        shared = [name for name, graph in graphs.items() if not needs_fresh_host(graph)]
        for group in [*([shared] if shared else []), *([name] for name in graphs if name not in shared)]:
            yield from _in_one_host(group, graphs, comfy, place, Path(temporary))


def _in_one_host(names: list[str], graphs: dict[str, Graph], comfy: Path, models: Path,
                 temporary: Path) -> Iterator[Report | GraphError]:
    waiting = list(names)
    while waiting:
        output = temporary / f"output_{waiting[0]}"
        output.mkdir()
        with running_host(comfy, output, models=models, packs=[HOST_PACK]) as host:
            while waiting:
                name = waiting.pop(0)
                try:
                    yield one(name, graphs[name], host, models, output, temporary / f"of_{name}")
                except GraphError as error:
                    yield GraphError(f"{name}: {error}")
                if host.process.poll() is not None:
                    break  # It went down with this graph; the others get another one.


def one(name: str, graph: Graph, host: Host, models: Path, output: Path, folder: Path) -> Report:
    """Rehearse one graph in a host that runs.

    Raises:
        GraphError: it did not run, or a check does not hold.
    """
    graph = reduced(graph)
    stand_ins = stand_in_texts(graph)
    write_models(graph, models)
    folder.mkdir()
    write_media(graph, folder)
    at_work = running(graph)
    off = sorted({one.name for one in wanted(graph)} - {one.name for one in wanted(graph) if one.key in at_work})
    meter = Meter(host.process.pid)
    bring_files(graph, host)
    probes = add_probes(graph, folder)
    saved = saved_files(send(graph, host, bar=False), output)
    with _faults():
        checked = [*look(graph, probes, saved)]
        if trained := trainings(graph):
            checked.append(loads_again(graph, probes, trained, host, models, output, folder))
    return Report(name, meter.seconds(), meter.gigabytes(), tuple(stand_ins), tuple(checked),
                  tuple(off))


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except checks.Fault as fault:
        raise GraphError(f"ran, but {fault}.") from fault


def look(graph: Graph, probes: Probes, saved: list[Path]) -> Iterator[str]:
    """Check what a run kept and wrote; yields what holds."""
    from safetensors.torch import load_file

    videos = [path for path in saved if path.suffix == ".mp4"]
    if not videos or len(videos) != len(probes.pictures):
        raise checks.Fault(f"it saved {len(videos)} videos")
    for kind, kept in (("latents", probes.latents), ("pictures", probes.pictures)):
        for key, path in kept.items():
            checks.finite(f"{kind} of node {key}", load_file(path))
    for path, (frames, rate) in zip(videos, probes.source.values()):
        loads = any(node["class_type"] == "SteadyEditLoadFrames" for node in graph.values())
        count, fps = len(load_file(frames)["value"]), load_file(rate)["value"].item()
        checks.video(path, count, fps, media.TONE if loads else None)
    yield f"{count} frames at {fps:g} a second{' with sound' if loads else ''}, nothing infinite"
    for conditions, packed in probes.conditions.values():
        for path in conditions:
            checks.packing(load_file(path), load_file(packed))
        yield "the condition against an independent packing"
    for paths in probes.composites.values():
        original, mask, result = (load_file(path)["value"] for path in paths[:3])
        checks.composite(original, result, mask, paths[3])
        yield "pixels kept outside of the mask and edited inside"


def loads_again(graph: Graph, probes: Probes, trained: dict[str, str], host: Host, models: Path, output: Path,
                folder: Path) -> str:
    """Check that what was trained and saved gives the same from its file; returns that in words."""
    files = {training: _saved_name(graph[saver], models, output) for training, saver in trained.items()}
    results = []
    for number, taken in enumerate((files, None)):
        again, latents = instead(graph, folder / f"again_{number}", taken)
        send(again, host, bar=False)
        results.append(_all_of(latents))
    checks.same(" and ".join(files.values()), _all_of({key: probes.latents[key] for key in latents}), *results)
    return f"{' and '.join(files.values())} loaded again with the same result"


def _all_of(kept: dict[str, Path]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {f"{key}.{place}": tensor for key, path in kept.items() for place, tensor in load_file(path).items()}


def _saved_name(saver: dict[str, Any], models: Path, output: Path) -> str:
    """The name under which the host finds a saver's file; a LoRA of the core node is brought into the models folder."""
    kind, inputs = saver["class_type"], saver["inputs"]
    prefix = Path(inputs.get("prefix") or inputs["filename_prefix"])
    place = {"SaveLoRA": output, "SteadyEditSaveLoRA": models / "loras", "SteadyEditSaveTuned": models / "steadyedit"}
    found = sorted((path for path in (place[kind] / prefix.parent).glob("*.safetensors")
                    if re.match(re.escape(prefix.name) + r"_\d", path.name)), key=lambda path: path.stat().st_mtime)
    if not found:
        raise checks.Fault(f"{SAVERS[kind]} {prefix} was not saved")
    if kind == "SaveLoRA":
        shutil.copyfile(found[-1], models / "loras" / found[-1].name)
        return found[-1].name
    return found[-1].relative_to(place[kind]).as_posix()
