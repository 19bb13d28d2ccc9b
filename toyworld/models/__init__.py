"""Architectures of the toy world's models, and loading of their trained weights.

`build_*` make untrained modules (diffusers / transformers classes), `load_*` the trained ones, float32, eval.
Key names and shapes are SD1.x's, only narrower: one U-Net layer a block, but the same three attention stages down,
one in the middle, three up. Channel counts are multiples of 32 (the host's constructors demand it), groups are 8.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from ..shipped import WEIGHTS
from . import flow_editor, wan
from .low_rank import file_names, multiply_out
from .tokenizer import BOS, EOS, TOKENIZER, VOCAB_SIZE, load_tokenizer, tokenize  # noqa: F401

#: what serves the toy editor best
EDITOR_TEXT_GUIDANCE, EDITOR_IMAGE_GUIDANCE = 2.5, 1.0

VAE_CONFIG: dict[str, Any] = dict(
    in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, block_out_channels=(32, 32, 64, 64),
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    norm_num_groups=8, sample_size=128, scaling_factor=0.18215,
)
TEXT_CONFIG: dict[str, Any] = dict(
    vocab_size=VOCAB_SIZE, hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=96, bos_token_id=BOS, eos_token_id=EOS,
    pad_token_id=EOS,
)
UNET_CONFIG: dict[str, Any] = dict(
    sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 96, 64, 64),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), mid_block_type="UNetMidBlock2DCrossAttn",
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, attention_head_dim=4, norm_num_groups=8,
    cross_attention_dim=96, use_linear_projection=False,
)
#: the U-Net's encoder, but with the 32 groups that ComfyUI gives every ControlNet
CONTROLNET_CONFIG: dict[str, Any] = {
    **{k: v for k, v in UNET_CONFIG.items() if k not in ("sample_size", "out_channels", "up_block_types")},
    "norm_num_groups": 32, "conditioning_embedding_out_channels": (16, 32, 96, 64),
}
CLIP_CONFIG: dict[str, Any] = dict(
    projection_dim=64, logit_scale_init_value=2.6592,
    text_config=dict(
        vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=64, bos_token_id=BOS, eos_token_id=EOS,
        pad_token_id=EOS),
    vision_config=dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=64,
        patch_size=8, hidden_act="quick_gelu", projection_dim=64),
)
GROUNDER_CONFIG: dict[str, Any] = dict(width=48, depth=4)
SAM_CONFIG: dict[str, Any] = dict(  # official architecture and key names; the fields of vision.segmentation.names.Shape
    side=128, patch=8, width=96, depth=5, heads=4, window=4, global_layers=(1, 4), mlp=192, channels=64,
    decoder_depth=2, decoder_mlp=128, masks=3, score_depth=3, score_width=64,
)
SCHEDULER_CONFIG: dict[str, Any] = dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    prediction_type="epsilon", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
)


def build_vae():
    """Untrained diffusers AutoencoderKL, f=8, 4 latent channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE_CONFIG)


def build_unet(in_channels: int = 4):
    """Untrained diffusers UNet2DConditionModel of SD1.x topology; 8 input channels for the instruction sister."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**{**UNET_CONFIG, "in_channels": in_channels})


def build_controlnet(**changes):
    """Untrained diffusers ControlNetModel for the U-Net, of hints [B,3,8h,8w] in 0..1; `changes` of its settings."""
    from diffusers import ControlNetModel

    return ControlNetModel(**{**CONTROLNET_CONFIG, **changes})


def build_text_encoder():
    """Untrained transformers CLIPTextModel (the U-Net reads its last, layer-normed hidden states)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG))


def build_clip():
    """Untrained transformers CLIPModel on 64x64 images in [-1, 1], [B,3,64,64]."""
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(**CLIP_CONFIG))


def sam_shape():
    """The toy Segment Anything's sizes as its loader reads them off the weights."""
    from ...vision.segmentation.names import Shape

    return Shape(**SAM_CONFIG)


def build_sam():
    """Untrained transformers SamModel on 128x128 pictures."""
    from ...vision.segmentation.load import build_transformers

    return build_transformers(sam_shape())


def build_grounder():
    """Untrained text grounding on 128x128 pictures."""
    from .grounder import Grounder

    return Grounder(**GROUNDER_CONFIG)


def build_classifier():
    """Untrained judge of colour, shape, texture, background and style."""
    from .classifier import Classifier

    return Classifier()


BUILDERS = {
    "vae": build_vae, "unet": build_unet, "text_encoder": build_text_encoder, "clip": build_clip,
    "classifier": build_classifier, "editor": lambda: build_unet(in_channels=8),
    "editor_text_encoder": build_text_encoder, "controlnet": build_controlnet, "grounder": build_grounder,
    "wan_vae": wan.build_vae, "wan": wan.build, "flow_editor": flow_editor.build,
}
#: name -> the model that it was trained from and whose weights it shares where its own file has none
OVERLAYS = {"editor": "unet", "controlnet": "unet"}


def weights_path(name: str) -> Path:
    """Path of `name`'s fp16 safetensors (it may not exist yet)."""
    return WEIGHTS / f"{name}.safetensors"


def config_of(name: str) -> dict:
    """The sidecar of `name`: recipe, seed, steps, measured bars, sha256, architecture."""
    return json.loads((WEIGHTS / f"{name}.json").read_text())


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@cache
def check_hash(name: str) -> None:
    """Raise ValueError unless the weights file is the one its sidecar describes."""
    if sha256_of(weights_path(name)) != config_of(name)["sha256"]:
        raise ValueError(
            f"toyworld/weights/{name}.safetensors is not the file that {name}.json describes: "
            "restore it from the repository or train it again.")


#: transformers 5 dropped the `text_model.` level of CLIPTextModel; files keep the classic names
TEXT_PREFIX = "text_model."


def to_file_keys(name: str, state: dict) -> dict:
    """Module keys -> the names in the file (classic transformers layout for text encoders, Control-LoRA's)."""
    if name == "controlnet":
        from .control_file import to_stock

        return to_stock(state)
    if name == "wan":
        return file_names(wan.to_wan(state))
    if name == "flow_editor":
        return flow_editor.to_flux(state)
    if not name.endswith("text_encoder"):
        return state
    return {k if k.startswith(TEXT_PREFIX) else TEXT_PREFIX + k: v for k, v in state.items()}


def from_file_keys(name: str, state: dict, module) -> dict:
    """Names in the file -> keys of `module` in the installed diffusers or transformers."""
    if name.startswith("wan"):
        return wan.to_diffusers(state) if name == "wan" else wan.vae_to_diffusers(state)
    if name == "flow_editor":
        return flow_editor.to_diffusers(state)
    if not name.endswith("text_encoder") or any(k.startswith(TEXT_PREFIX) for k in module.state_dict()):
        return state
    return {k.removeprefix(TEXT_PREFIX): v for k, v in state.items()}


def without_base(name: str, state: dict, record: dict) -> tuple[dict, dict]:
    """What an overlay has to store: weights that differ from its base's, and the base's hash in the record."""
    if (base := OVERLAYS.get(name)) is None:
        return state, record
    shared = state_of(base)
    own = {k: v for k, v in state.items()
           if k not in shared or shared[k].shape != v.shape or not shared[k].equal(v.half())}
    return own, {**record, "base": base, "base_sha256": sha256_of(weights_path(base))}


def state_of(name: str) -> dict:
    """All tensors of `name`, fp16, under the file's names (a ControlNet's under diffusers'), products of low rank
    multiplied out; the files' hashes are checked first.

    Raises:
        ValueError: a file is not the one that its sidecar, or that of an overlay on it, describes.
    """
    from safetensors.torch import load_file

    check_hash(name)
    own = load_file(weights_path(name))
    if (base := OVERLAYS.get(name)) is None:
        return multiply_out(own)
    if config_of(name)["base_sha256"] != sha256_of(weights_path(base)):
        raise ValueError(f"toyworld/weights/{base}.safetensors is not the file that {name} was trained from: "
                         "restore it from the repository or train it again.")
    if name == "controlnet":
        from .control_file import from_stock

        return from_stock(own, state_of(base), build_controlnet().state_dict())
    return {**state_of(base), **own}


def load(name: str):
    """Trained module `name`, float32, eval, without gradients; the file's hash is checked first."""
    module = BUILDERS[name]()
    state = {k: v.float() if v.is_floating_point() else v for k, v in state_of(name).items()}
    result = module.load_state_dict(from_file_keys(name, state, module), strict=False)
    missing = [k for k in result.missing_keys if not k.endswith("position_ids")]
    if missing or result.unexpected_keys:
        raise ValueError(f"toyworld/weights/{name}.safetensors does not fit the architecture: "
                         f"missing {missing}, unexpected {result.unexpected_keys}.")
    return module.eval().requires_grad_(False)


def load_vae():
    """Trained AutoencoderKL; latents x 0.18215 have unit variance, as SD1.x's."""
    return load("vae")


def load_unet():
    """Trained UNet2DConditionModel (epsilon prediction, SD's betas)."""
    return load("unet")


def load_controlnet():
    """Trained ControlNetModel of edges (`control.edges`)."""
    return load("controlnet")


def load_text_encoder():
    """Trained CLIPTextModel; conditioning is its `last_hidden_state` [B,77,96]."""
    return load("text_encoder")


def load_clip():
    """Trained CLIPModel."""
    return load("clip")


def load_sam():
    """Trained Segment Anything, as a `vision.segmentation.Segmenter`."""
    from ...vision.segmentation.load import load_segmenter

    check_hash("sam")
    return load_segmenter(weights_path("sam"), engine="transformers")


def load_grounder():
    """Trained text grounding, with the two members of a `vision.grounding.Detector` that nodes use."""
    from .grounder import ToyDetector

    return ToyDetector(load("grounder"))


def load_classifier():
    """Trained judge."""
    return load("classifier")


def load_editor():
    """Trained UNet2DConditionModel with 8 input channels: noisy latents, then raw latents of the source."""
    return load("editor")


def load_editor_text_encoder():
    """Trained CLIPTextModel of the editor's instructions."""
    return load("editor_text_encoder")


def load_wan_vae():
    """Trained AutoencoderKLWan; (latents - mean) / deviation, with Wan 2.1's numbers, have unit variance."""
    return load("wan_vae")


def load_wan():
    """Trained WanTransformer3DModel: 36 channels in, text [B,77,96] of `load_text_encoder`; flow matching."""
    return load("wan")
