"""Run an API-format graph in a real ComfyUI, started for it and ended after it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.names import safe_name
from .comfy_process import Host, running
from .graph import Graph, GraphError, label, title_of
from .websocket import connect, messages

if TYPE_CHECKING:
    import socket

#: Inputs that name a file of the host's input folder, by class.
FILE_INPUTS = {"LoadVideo": "file", "LoadImage": "image", "LoadAudio": "audio"}


def bring_files(graph: Graph, host: Host) -> None:
    """Copy the files that loaders name into the host's input folder and name the copies."""
    for number, (key, node) in enumerate(graph.items()):
        field = FILE_INPUTS.get(node["class_type"])
        value = node["inputs"].get(field)
        if not isinstance(value, str):
            continue
        places = [Path(value).expanduser(), host.comfy / "input" / value]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise GraphError(f"{label(graph, key)}: input '{field}': there is no file '{value}'.")
        # Not by the node's id, which may be any text.
        name = f"{number}_{safe_name(found.name)}"
        shutil.copyfile(found, host.input / name)
        node["inputs"][field] = name


def check_classes(graph: Graph, host: Host, set_inputs: Sequence[tuple[str, str]] = ()) -> None:
    """Raise GraphError for a class that the host does not know, or a --set that it would pass over."""
    known = host.ask("/object_info")
    for key, node in graph.items():
        if node["class_type"] not in known:
            raise GraphError(f"{label(graph, key)}: this ComfyUI has no node {node['class_type']}.")
    for key, field in set_inputs:
        groups = known[graph[key]["class_type"]]["input"]
        names = [name for group in ("required", "optional") for name in groups.get(group, {})]
        if field.split(".")[0] not in names:
            raise GraphError(f"{label(graph, key)} has no input '{field}'; it has {', '.join(names) or 'none'}.")


def refusal(graph: Graph, answer: dict[str, Any]) -> str:
    """One sentence from a prompt that the host refused."""
    for key, node in (answer.get("node_errors") or {}).items():
        for error in node["errors"]:
            name = (error.get("extra_info") or {}).get("input_name")
            where = f"{label(graph, key)}: input '{name}'" if name else label(graph, key)
            return f"{where}: {error['message']} ({error['details']})."
    return f"ComfyUI refused the graph: {answer.get('error', answer)}"


def follow(graph: Graph, prompt_id: str, connection: socket.socket, shows: bool = True) -> None:
    """Show the host's progress until the prompt is done. Raises GraphError where a node failed."""
    from tqdm import tqdm

    bar, shown = None, None
    try:
        for text in messages(connection):
            message = json.loads(text)
            kind, data = message["type"], message.get("data", {})
            if data.get("prompt_id") not in (None, prompt_id):
                continue
            if kind == "progress" and shows:
                if bar is None or shown != data.get("node"):
                    if bar is not None:
                        bar.close()
                    shown = data.get("node")
                    bar = tqdm(total=data["max"], desc=title_of(graph[shown]) if shown in graph else None)
                bar.total = data["max"]
                bar.update(data["value"] - bar.n)
            elif kind == "execution_error":
                raise GraphError(f"{label(graph, data['node_id'])}: {data['exception_message'].strip()}")
            elif kind == "execution_interrupted":
                raise GraphError("the run was cancelled in ComfyUI.")
            elif kind == "executing" and data.get("node") is None:
                # The last message: what the prompt wrote is in the history by now.
                return
        raise GraphError("ComfyUI closed the connection before the graph was done.")
    finally:
        if bar is not None:
            bar.close()


def saved_files(history: dict[str, Any], output: Path) -> list[Path]:
    """Paths of what the prompt wrote into the output folder."""
    entries = [
        entry for shown in history.get("outputs", {}).values() for group in shown.values() if isinstance(group, list)
        for entry in group if isinstance(entry, dict) and entry.get("type") == "output"
    ]  # fmt: skip
    return [output / entry["subfolder"] / entry["filename"] for entry in entries]


def send(graph: Graph, host: Host, set_inputs: Sequence[tuple[str, str]] = (), bar: bool = True) -> dict[str, Any]:
    """Run a graph in a ComfyUI that is there; returns what its history says of it.

    Args:
        graph: API format; names of input files are those of the host's input folder.
        set_inputs: (node id, input) that the user set.
        bar: show its progress.

    Raises:
        GraphError: the host refused the graph, a node failed, or the host went away; one sentence.
    """
    check_classes(graph, host, set_inputs)
    client = uuid.uuid4().hex
    try:
        connection = connect("127.0.0.1", host.port, f"/ws?clientId={client}")
        with connection:
            answer = host.ask("/prompt", {"prompt": graph, "client_id": client})
            if "prompt_id" not in answer:
                raise GraphError(refusal(graph, answer))
            follow(graph, answer["prompt_id"], connection, bar)
    except ConnectionError as error:
        raise GraphError(f"ComfyUI went away ({error}); its last words were:\n{host.tail()}") from error
    return host.ask(f"/history/{answer['prompt_id']}").get(answer["prompt_id"], {})


def run_in_comfy(graph: Graph, comfy: Path, output: Path, set_inputs: list[tuple[str, str]]) -> list[Path]:
    """Run a graph in a ComfyUI of its own.

    Args:
        graph: API format; names of input files may be paths of this machine.
        comfy: folder of a ComfyUI.
        output: where the host writes.
        set_inputs: (node id, input) that the user set.

    Returns:
        Files written.

    Raises:
        GraphError: the host did not start, refused the graph, or a node failed; one sentence.
    """
    output.mkdir(parents=True, exist_ok=True)
    with running(comfy, output) as host:
        return run_on_host(graph, host, output, set_inputs)


def run_on_host(graph: Graph, host: Host, output: Path, set_inputs: Sequence[tuple[str, str]]) -> list[Path]:
    """Run a graph, whose input files may be paths, in a ComfyUI that is there; see ``run_in_comfy``."""
    check_classes(graph, host, set_inputs)
    bring_files(graph, host)
    return saved_files(send(graph, host), output)
