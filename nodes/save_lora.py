"""A LoRA as a file that other programs load, too."""

from __future__ import annotations

from comfy_api.latest import io

BOTH, OWN = "ComfyUI and diffusers", "ComfyUI"


class SaveLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditSaveLoRA",
            display_name="Save LoRA (SteadyEdit)",
            category="SteadyEdit/tune",
            description="Writes a LoRA of Test-Time Adapt into models/loras under names that both ComfyUI's Load LoRA "
            "and diffusers' load_lora_weights read. The core Save LoRA Weights keeps the names that only "
            "ComfyUI reads.",
            inputs=[
                io.LoraModel.Input("lora", tooltip="From Test-Time Adapt, Norm-Tune or Mask-Aware LoRA."),
                io.String.Input("filename_prefix", default="steadyedit", tooltip="Name of the file; a number is "
                                "added."),
                io.Combo.Input("names", options=[BOTH, OWN], default=BOTH, tooltip="Whose names of layers. For "
                               "diffusers: LoRAs on Stable Diffusion's attention. Norms and video models: ComfyUI."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, lora, filename_prefix, names) -> io.NodeOutput:
        from comfy_api.latest import ui
        from safetensors.torch import save

        from .. import backends
        from ..files.names import free_path
        from ..files.writing import write_bytes
        from ..methods.lora_names import for_diffusers

        folder = backends.manager().folders("loras")[0]
        path = free_path(folder, filename_prefix, ".safetensors")
        plain = for_diffusers(lora) if names == BOTH else lora
        write_bytes(path, save({key: value.detach().cpu().contiguous() for key, value in plain.items()},
                               {"format": "pt"}))  # fmt: skip
        return io.NodeOutput(ui=ui.PreviewText(path.relative_to(folder).as_posix()))


NODES = [SaveLoRA]
