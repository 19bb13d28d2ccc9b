"""The toy world's trained models as the host's stock MODEL, CLIP and VAE."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.controlnet
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

from ...toyworld import models as toyworld
from ...toyworld.models import control_file, flow_editor
from ...toyworld.models.colours import MAPS
from ..toy_text import check_length

#: The flow editor's text encoder among those of editors (``picture_editors``).
FLOW_EDITOR = "toy_flow_editor"
#: Layer norms of transformers' CLIP; the rest of the text encoder's settings come from the toy world.
TEXT_DEFAULTS = {"layer_norm_eps": 1e-5, "attention_dropout": 0.0, "torch_dtype": "float32"}


class Multiple(float):
    """A channel multiplier such as 1.5 whose product with a channel count is a whole number.

    The host writes widths as multiples of the first one; SD's own multiples are all whole.
    """

    def __mul__(self, channels: float) -> int:
        return round(float(self) * channels)

    __rmul__ = __mul__


def unet_config(in_channels: int = toyworld.UNET_CONFIG["in_channels"]) -> dict[str, Any]:
    """The host's description of the toy U-Net, from diffusers' one; 8 input channels are the toy editor's."""
    source = toyworld.UNET_CONFIG
    widths, layers = source["block_out_channels"], source["layers_per_block"]
    attention = [int("CrossAttn" in kind) for kind in source["down_block_types"]]
    depth_up = [flag for flag in attention for _ in range(layers + 1)]
    return {
        "image_size": 32, "in_channels": in_channels, "out_channels": source["out_channels"],
        "model_channels": widths[0], "channel_mult": [Multiple(width / widths[0]) for width in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [flag for flag in attention for _ in range(layers)],
        "transformer_depth_output": depth_up, "transformer_depth_middle": 1,
        "context_dim": source["cross_attention_dim"], "use_spatial_transformer": True,
        "use_linear_in_transformer": source["use_linear_projection"], "adm_in_channels": None,
        "use_temporal_attention": False, "legacy": False, "use_checkpoint": False,
    }


def regroup(network: torch.nn.Module, groups: int) -> None:
    """Give every GroupNorm the toy world's number of groups; the host's constructors always say 32."""
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = groups


def own_colours(latent_format: Any, autoencoder: str) -> None:
    """Let previews show the toy world's latents in its own colours, not in those of the models it resembles."""
    *factors, constant = MAPS[autoencoder]
    latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias = factors, constant
    latent_format.taesd_decoder_name = None


def unet_from(state: dict[str, torch.Tensor], disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """MODEL from a diffusers state dict of the toy U-Net, or of the toy editor: InstructPix2Pix, to the host."""
    config = unet_config(state["conv_in.weight"].shape[1])
    plain = config["in_channels"] == toyworld.UNET_CONFIG["in_channels"]
    settings = (comfy.supported_models.SD15 if plain else comfy.supported_models.SD15_instructpix2pix)(config)
    settings.unet_config["num_heads"] = toyworld.UNET_CONFIG["attention_head_dim"]
    settings.set_inference_dtype(torch.float32, None)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    base = settings.get_model({}, "", device=offload_device)
    own_colours(base.latent_format, "vae")
    regroup(base.diffusion_model, toyworld.UNET_CONFIG["norm_num_groups"])
    names = comfy.utils.unet_to_diffusers({**config, "transformer_depth": config["transformer_depth"][:]})
    # Not by load_model_weights, which only warns where a key is missing.
    base.diffusion_model.load_state_dict({names[key]: weight.float() for key, weight in state.items()}, strict=True)
    patcher = comfy.model_patcher.ModelPatcher
    kind = patcher if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", patcher)
    return kind(base, load_device, offload_device)


def load_unet(disable_dynamic: bool = False, name: str = "unet") -> comfy.model_patcher.ModelPatcher:
    """MODEL of the trained toy U-Net ("unet") or editor ("editor"); the host calls this again for a copy of its own."""
    model = unet_from(toyworld.state_of(name), disable_dynamic)
    model.cached_patcher_init = (partial(load_unet, name=name), ())
    return model


def vae_from(state: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    """VAE from a diffusers state dict of the toy autoencoder."""
    source = toyworld.VAE_CONFIG
    widths = source["block_out_channels"]
    network = {
        "double_z": True, "z_channels": source["latent_channels"], "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": widths[0], "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": source["layers_per_block"], "attn_resolutions": [], "dropout": 0.0,
    }
    config = {"params": {"ddconfig": network, "embed_dim": source["latent_channels"]}}
    vae = comfy.sd.VAE(sd={key: weight.float() for key, weight in state.items()}, config=config, dtype=torch.float32)
    regroup(vae.first_stage_model, source["norm_num_groups"])
    return vae


class ToyTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """The host's CLIP tokenizer with the toy world's vocabulary."""

    def __init__(self, embedding_directory=None, tokenizer_data=None, *, width: int) -> None:
        tokenizer = partial(
            comfy.sd1_clip.SDTokenizer, tokenizer_path=str(toyworld.TOKENIZER), embedding_size=width)
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=tokenizer)


class ToyTextEncoder(comfy.sd1_clip.SD1ClipModel):
    """The host's CLIP text encoder, narrow: the last hidden states, layer-normed, as SD1 reads them."""

    def __init__(self, device="cpu", dtype=None, model_options=None, *, config: dict[str, Any]) -> None:
        network = partial(
            comfy.sd1_clip.SDClipModel, textmodel_json_config={**TEXT_DEFAULTS, **config},
            special_tokens={"start": toyworld.BOS, "end": toyworld.EOS, "pad": toyworld.EOS},
            return_projected_pooled=False,
        )
        super().__init__(device, dtype, model_options or {}, clip_model=network)
        # The host's embedding always has CLIP-L's 49408 entries.
        words = self.clip_l.operations.Embedding(
            toyworld.VOCAB_SIZE, config["hidden_size"], dtype=dtype, device=device)
        self.clip_l.transformer.set_input_embeddings(words)
        # SD1 reads no projected embedding; without weights it would be uninitialised memory.
        torch.nn.init.eye_(self.clip_l.transformer.text_projection.weight)


def clip_from(state: dict[str, torch.Tensor], config: dict[str, Any] = toyworld.TEXT_CONFIG,
              kinds: tuple[type, type] = (ToyTokenizer, ToyTextEncoder)) -> comfy.sd.CLIP:
    """CLIP from a transformers state dict of a toy text encoder; ``kinds`` of tokenizer and encoder."""
    tokenizer, encoder = kinds
    target = comfy.supported_models_base.ClipTarget(
        partial(tokenizer, width=config["hidden_size"]), partial(encoder, config=config))
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    prefix = "" if any(key.startswith(toyworld.TEXT_PREFIX) for key in state) else toyworld.TEXT_PREFIX
    weights = {prefix + key: weight.float() for key, weight in state.items() if not key.endswith("position_ids")}
    result = clip.cond_stage_model.clip_l.transformer.load_state_dict(weights, strict=False)
    missing = [key for key in result.missing_keys if "text_projection" not in key]
    if missing or result.unexpected_keys:
        raise ValueError(f"The toy text encoder does not fit this ComfyUI: missing {missing}, "
                         f"unexpected {result.unexpected_keys}; update the pack or the host.")
    return clip


def load() -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of the toy world.

    Raises:
        ValueError: a weights file is not the one that its sidecar describes.
    """
    return load_unet(), clip_from(toyworld.state_of("text_encoder")), vae_from(toyworld.state_of("vae"))


def load_editor() -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL and CLIP of the toy world's instruction editor, and the toy world's VAE.

    Raises:
        ValueError: a weights file is not the one that its sidecar describes.
    """
    encoder = clip_from(toyworld.state_of("editor_text_encoder"))
    return load_unet(name="editor"), encoder, vae_from(toyworld.state_of("vae"))


def flow_editor_from(state: dict[str, torch.Tensor], disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """MODEL of the host's own FLUX class, from FLUX's keys.

    Its loader would find FLUX, but with 16 channels of latents and heads of 128.
    """
    source = flow_editor.CONFIG
    heads = source["num_attention_heads"]
    settings = comfy.supported_models.FluxSchnell({
        "image_model": "flux", "in_channels": 4, "out_channels": 4, "vec_in_dim": source["pooled_projection_dim"],
        "context_in_dim": source["joint_attention_dim"], "hidden_size": heads * source["attention_head_dim"],
        "mlp_ratio": 4.0, "num_heads": heads, "depth": source["num_layers"],
        "depth_single_blocks": source["num_single_layers"], "axes_dim": list(source["axes_dims_rope"]),
        "theta": flow_editor.THETA, "patch_size": flow_editor.PATCH, "qkv_bias": True, "guidance_embed": False,
        "txt_ids_dims": [],
    })
    settings.latent_format = comfy.latent_formats.SD15()
    settings.sampling_settings = {"shift": flow_editor.SHIFT, "multiplier": 1.0}
    settings.set_inference_dtype(torch.float32, None)
    offload_device = comfy.model_management.unet_offload_device()
    base = settings.get_model({}, "", device=offload_device)
    own_colours(base.latent_format, "vae")
    named = settings.process_unet_state_dict({key: weight.float() for key, weight in state.items()})
    base.diffusion_model.load_state_dict(named, strict=True)
    patcher = comfy.model_patcher.ModelPatcher
    kind = patcher if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", patcher)
    return kind(base, comfy.model_management.get_torch_device(), offload_device)


def load_flow_transformer(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """MODEL of the trained flow editor; the host calls this again for a copy of its own."""
    model = flow_editor_from(toyworld.state_of("flow_editor"), disable_dynamic)
    model.cached_patcher_init = (load_flow_transformer, ())
    return model


class ToyFlowTokenizer(ToyTokenizer):
    """The toy world's tokens under a name by which the flow editor's text encoder is known."""

    def tokenize_with_weights(self, text, return_word_ids=False, **kwargs):
        """Raises ValueError (one sentence) where the editor would not read all of the text."""
        parts = super().tokenize_with_weights(text, return_word_ids, **kwargs)["l"]
        # Longer ones come in parts, each with ends of its own and filled up with ends.
        words = sum(token[0] not in (toyworld.BOS, toyworld.EOS) for part in parts for token in part)
        check_length(words + 2, flow_editor.TOKENS)
        return {FLOW_EDITOR: parts}


class ToyFlowTextEncoder(ToyTextEncoder):
    """The instruction editor's encoder as the flow editor reads it: its first tokens, and the state at the end of the
    text as the pooled one."""

    def encode_token_weights(self, token_weight_pairs):
        text, *others = super().encode_token_weights({"l": token_weight_pairs[FLOW_EDITOR]})
        return (text[:, : flow_editor.TOKENS], *others)


def load_flow_editor() -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL and CLIP of the toy world's flow-matching editor, and the toy world's VAE.

    Raises:
        ValueError: a weights file is not the one that its sidecar describes.
    """
    encoder = clip_from(toyworld.state_of("editor_text_encoder"), kinds=(ToyFlowTokenizer, ToyFlowTextEncoder))
    return load_flow_transformer(), encoder, vae_from(toyworld.state_of("vae"))


def load_controlnet() -> comfy.controlnet.ControlNet:
    """CONTROL_NET of the toy world's edges, by the host's own loader.

    The file is a Control-LoRA, which takes what it lacks from the MODEL that it is applied to. Here that is filled in
    from the toy U-Net, so that it is the same ControlNet on a MODEL with tuned or patched weights, or on the editor.

    Raises:
        ValueError: a weights file is not the one that its sidecar describes.
    """
    return comfy.controlnet.load_controlnet_state_dict(control_file.to_stock(toyworld.state_of("controlnet")))
