"""Tuned weights to and from files in the host's models folder ``steadyedit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .checks import tuned_weights
from .tuning import Weights

CATEGORY = "SteadyEdit/tune"


def folders() -> list[Path]:
    """Where tuned weights lie: the folder that they are saved in, then the host's others of that kind."""
    from .. import backends

    manager = backends.manager()
    return list(dict.fromkeys([manager.weights_folder(), *manager.folders("steadyedit")]))


def weight_files() -> list[str]:
    """Names of the files in the folders, without the cache of running tunings."""
    from ..files.cache import FOLDER
    from ..files.found import listed_files

    return listed_files(folders(), [".safetensors"], without=[FOLDER])


class SaveTuned(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditSaveTuned",
            display_name="Save Tuned Weights",
            category=CATEGORY,
            description="Writes tuned weights into models/steadyedit, with the method, the base model's hash and the "
            "recipe inside. The file is written as a whole or not at all.",
            inputs=[
                Weights.Input("weights", tooltip="From One-Shot Tune, Norm-Tune, Visual Adapter or Load Tuned "
                              "Weights."),
                io.String.Input("filename_prefix", default="tuned", tooltip="Name of the file; a number is added."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, weights, filename_prefix) -> io.NodeOutput:
        from comfy_api.latest import ui

        from .. import backends
        from ..files.names import free_path
        from ..methods.tuning import save_tuned

        folder = backends.current().weights_folder()
        path = free_path(folder, filename_prefix, ".safetensors")
        save_tuned(path, tuned_weights(weights))
        return io.NodeOutput(ui=ui.PreviewText(path.relative_to(folder).as_posix()))


class LoadTuned(io.ComfyNode):
    @classmethod
    def methods_of(cls, name: str) -> tuple[str, ...]:
        """Slugs of the methods that a file attaches."""
        from ..files.found import located
        from ..methods.tuned_weights import load_tuned

        return tuple(entry["method"] for entry in load_tuned(located(folders(), name, "name")).metadata["methods"])

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditLoadTuned",
            display_name="Load Tuned Weights",
            category=CATEGORY,
            description="Attaches the methods of a file from models/steadyedit and its tuned weights. Edit a clip many "
            "times without tuning again. LoRA loaders go after this node.",
            inputs=[
                io.Model.Input("model", tooltip="The base model that the weights were tuned on. DAPE's also "
                               "fit others of its architecture."),
                io.Combo.Input("name", options=weight_files(), tooltip="A file in models/steadyedit."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The tuned model."),
                Weights.Output(display_name="weights", tooltip="The weights of the file."),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str = "") -> bool:
        """That the file is there is checked when it runs: graphs name files that are only saved later."""
        return True

    @classmethod
    def fingerprint_inputs(cls, model: Any = None, name: str = "") -> Any:
        from ..files.found import located, stamp

        try:
            return name, stamp(located(folders(), name, "name"))
        except (OSError, ValueError):
            return name

    @classmethod
    def execute(cls, model, name) -> io.NodeOutput:
        import torch

        from .. import backends
        from ..files.found import located
        from ..methods.tuning import apply_tuned, load_tuned

        backend = backends.of(model)
        # The weights may be trained further, which tensors of inference mode never can.
        with torch.inference_mode(False):
            weights = load_tuned(located(folders(), name, "name"))
            return io.NodeOutput(apply_tuned(backend, model, weights), weights)


NODES = [SaveTuned, LoadTuned]
