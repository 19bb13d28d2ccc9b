"""Stand-ins for the names of ``comfy_api.latest`` that this pack's nodes use.

They keep what a schema says and do nothing else: enough to check a graph and call its nodes.
Installed only where no real host is loaded, and only while standalone runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from .video_values import Video

#: Socket and widget types by the attribute of ``io`` that names them.
TYPES = {
    "Model": "MODEL", "Clip": "CLIP", "Vae": "VAE", "Conditioning": "CONDITIONING", "Latent": "LATENT",
    "Image": "IMAGE", "Mask": "MASK", "Audio": "AUDIO", "Video": "VIDEO", "Sigmas": "SIGMAS", "Sampler": "SAMPLER",
    "Guider": "GUIDER", "Noise": "NOISE",
    "LossMap": "LOSS_MAP", "LoraModel": "LORA_MODEL", "ClipVision": "CLIP_VISION", "ControlNet": "CONTROL_NET",
    "Int": "INT", "Float": "FLOAT", "String": "STRING", "Boolean": "BOOLEAN", "Combo": "COMBO",
}  # fmt: skip


class Input:
    """One input of a schema: its id, type, and the limits that a widget has."""

    def __init__(self, io_type: str, id: str, **settings: Any):
        self.io_type, self.id, self.settings = io_type, id, settings
        self.optional = bool(settings.get("optional", False))
        options: Any = settings.get("options") or ()
        if isinstance(options, type) and issubclass(options, Enum):
            options = [option.value for option in options]
        self.options = list(options)

    @property
    def required(self) -> bool:
        """Whether a graph must give it: defaults are the editor's to fill in, not the run's."""
        return not self.optional


class Growing(Input):
    """An input with a socket for each link: ``sockets`` are those that a graph may name."""

    def __init__(self, id: str, template: SimpleNamespace, **settings: Any):
        super().__init__("COMFY_AUTOGROW_V3", id, **settings)
        self.sockets = [Input(template.input.io_type, f"{id}.{template.prefix}{place}", optional=place >= template.min)
                        for place in range(template.max)]


class Output:
    """One output of a schema."""

    def __init__(self, io_type: str, id: str | None = None, display_name: str | None = None, **settings: Any):
        self.io_type, self.id, self.display_name, self.settings = io_type, id, display_name, settings


def io_type(name: str) -> SimpleNamespace:
    """A type of sockets, with the makers of its inputs and outputs."""
    return SimpleNamespace(
        io_type=name,
        Type=Any,
        Input=lambda id, *args, **settings: Input(name, id, **_positional(args), **settings),
        Output=lambda *args, **settings: Output(name, *args, **settings),
    )


def _positional(args: tuple) -> dict[str, Any]:
    """The host lets display_name follow the id without a keyword (options, on a Combo)."""
    if not args:
        return {}
    return {"options": args[0]} if isinstance(args[0], (list, tuple, type)) else {"display_name": args[0]}


class Schema:
    """What a node declares; fields that standalone has no use for are kept aside."""

    def __init__(self, node_id: str, inputs: list[Input] | None = None, outputs: list[Output] | None = None,
                 is_output_node: bool = False, **rest: Any):
        self.node_id, self.inputs, self.outputs = node_id, inputs or [], outputs or []
        self.is_output_node, self.rest = is_output_node, rest
        self.display_name: str | None = rest.get("display_name")


def schema(node_id: str, inputs: Mapping[str, Any], outputs: str = "", saves: bool = False) -> Schema:
    """Of a stand-in: inputs by id, each a type or (type, settings); outputs as types with spaces between."""
    pairs = {id: (kind, {}) if isinstance(kind, str) else kind for id, kind in inputs.items()}
    made = [Input(kind, id, **settings) for id, (kind, settings) in pairs.items()]
    return Schema(node_id, made, [Output(kind) for kind in outputs.split()], is_output_node=saves)


class ComfyNode:
    """Base of all nodes: ``define_schema`` and ``execute`` are classmethods of the subclass."""

    hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    define_schema: Any

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        return cls.define_schema()


class NodeOutput:
    """The results of a node, and what the host would show of them."""

    def __init__(self, *args: Any, ui: Any = None, **rest: Any):
        self.args, self.ui, self.rest = args, ui, rest

    @property
    def result(self) -> tuple:
        return self.args


class ComfyExtension:
    """Base of a pack's entry: ``async get_node_list() -> list of node classes``."""

    async def on_load(self) -> None:
        """The host calls this once; nothing to prepare here."""


class Shown:
    """A preview that the host's editor would show; standalone has no editor."""

    def __init__(self, *values: Any, **settings: Any):
        self.values, self.settings = values, settings


def _modules() -> dict[str, ModuleType]:
    io = ModuleType("comfy_api.latest.io")
    io.__dict__.update({attribute: io_type(name) for attribute, name in TYPES.items()})
    io.__dict__.update(Schema=Schema, ComfyNode=ComfyNode, NodeOutput=NodeOutput, Custom=io_type)
    io.__dict__.update(Autogrow=SimpleNamespace(Input=Growing, TemplatePrefix=SimpleNamespace))
    ui = ModuleType("comfy_api.latest.ui")
    ui.__dict__.update(PreviewImage=Shown, PreviewText=Shown)
    latest = ModuleType("comfy_api.latest")
    files = SimpleNamespace(VideoFromFile=lambda path: Video(path=Path(path)))
    latest.__dict__.update(io=io, ui=ui, ComfyExtension=ComfyExtension, InputImpl=files)
    package = ModuleType("comfy_api")
    package.__dict__.update(latest=latest, __path__=[])
    return {module.__name__: module for module in (package, latest, io, ui)}


_ours = _modules()


@contextmanager
def installed() -> Iterator[Any]:
    """The stand-ins under the host's module names, inside the ``with``.

    Raises:
        RuntimeError: a real host is loaded in this process.
    """
    found = sys.modules.get("comfy_api")
    if found is not None and found is not _ours["comfy_api"]:
        raise RuntimeError("standalone runs without ComfyUI, but this process has it loaded: use --host comfy.")
    outer = found is not None
    sys.modules.update(_ours)
    try:
        yield _ours["comfy_api.latest"]
    finally:
        if not outer:
            for name in _ours:
                sys.modules.pop(name, None)
