"""Stand-ins for the host's core nodes around a trained LoRA, its model and the plain sampler: same ids, inputs,
meaning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import backends
from ..diffusion.samplers import SAMPLERS
from ..files.places import current
from ..files.writing import write_bytes
from ..methods.lora import UP
from .core_sampling import SCALE, SCHEDULERS, SEED, Guider, Noise, sigmas_of
from .host_api import ComfyNode, NodeOutput, schema

STRENGTH = ("FLOAT", {"min": -100.0, "max": 100.0})


def loaded(model: Any, lora: dict[str, Any], strength: float) -> Any:
    """A clone with a LoRA at a strength; the MODEL itself at 0.

    Raises:
        ValueError: the LoRA was made for another model.
    """
    from ..methods.lora_edit.train import with_alpha_in

    if strength == 0:
        return model
    scaled = {key: value * strength if key.endswith(UP) else value for key, value in with_alpha_in(lora).items()}
    backend = backends.of(model)
    add = backend.add_video_lora if hasattr(backend, "add_video_lora") else backend.add_lora
    return add(model, scaled)


def lora_file(name: str) -> Path:
    """A LoRA named in a graph: as it stands, in the working folder, or in the models folder ``loras``.

    Raises:
        FileNotFoundError: it is at none of these places.
    """
    folders = backends.manager().folders("loras")
    for path in (Path(name).expanduser(), current().input / name, *(folder / name for folder in folders)):
        if path.is_file():
            return path
    raise FileNotFoundError(f"lora_name: '{name}' is not here and not in {', '.join(map(str, folders))}; give the "
                            "path of the file that Save LoRA wrote.")


class SaveLoRA(ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = {"lora": "LORA_MODEL", "prefix": "STRING", "steps": ("INT", {"optional": True})}
        return schema("SaveLoRA", inputs, saves=True)

    @classmethod
    def execute(cls, lora, prefix, steps=None):
        from safetensors.torch import save

        prefix = prefix if steps is None or not prefix else f"{prefix}_{steps}_steps"
        path = current().free_path(prefix, ".safetensors", label="prefix")
        write_bytes(path, save({key: value.contiguous().cpu() for key, value in lora.items()}))
        return NodeOutput()


class LoraModelLoader(ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = {"model": "MODEL", "lora": "LORA_MODEL", "strength_model": STRENGTH}
        return schema("LoraModelLoader", inputs, "MODEL")

    @classmethod
    def execute(cls, model, lora, strength_model):
        return NodeOutput(loaded(model, lora, strength_model))


class LoraLoaderModelOnly(ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = {"model": "MODEL", "lora_name": "STRING", "strength_model": STRENGTH}
        return schema("LoraLoaderModelOnly", inputs, "MODEL")

    @classmethod
    def execute(cls, model, lora_name, strength_model):
        from safetensors.torch import load_file

        return NodeOutput(loaded(model, load_file(lora_file(lora_name)), strength_model))


class ModelSamplingSD3(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("ModelSamplingSD3", {"model": "MODEL", "shift": SCALE}, "MODEL")

    @classmethod
    def execute(cls, model, shift):
        if not hasattr(model, "shift"):
            raise TypeError("model: its noise levels have no shift; this node is for flow models such as Toy Wan.")
        return NodeOutput(replace(model, shift=shift))


class KSampler(ComfyNode):
    frame_by_frame = True
    draws_noise = True

    @classmethod
    def define_schema(cls):
        inputs = {
            "model": "MODEL", "seed": SEED, "steps": ("INT", {"min": 1, "max": 10000}), "cfg": SCALE,
            "sampler_name": ("COMBO", {"options": tuple(SAMPLERS)}), "scheduler": ("COMBO", {"options": SCHEDULERS}),
            "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT",
            "denoise": ("FLOAT", {"min": 0.0, "max": 1.0}),
        }  # fmt: skip
        return schema("KSampler", inputs, "LATENT")

    @classmethod
    def execute(cls, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise):
        sigmas = sigmas_of(model, scheduler, steps, denoise)
        guider = Guider(model, positive, negative, cfg)
        return NodeOutput(guider.sample(Noise(seed), sampler_name, sigmas, latent_image))


NODES = {node.__name__: node for node in (SaveLoRA, LoraModelLoader, LoraLoaderModelOnly, ModelSamplingSD3, KSampler)}
