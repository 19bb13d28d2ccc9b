"""Texts in the space that CLIP shares with images."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import comfy.clip_vision
import comfy.sd
import comfy.sd1_clip
import torch

from ...methods.prompt_to_prompt import TextTokens
from ...toyworld import models as toyworld
from . import toy

#: Names of CLIP text encoders inside the host's CLIP; the joint one comes first.
ENCODERS = ("clip_g", "clip_l", "clip_h")


def text_embedding(clip: comfy.sd.CLIP, text: str) -> torch.Tensor:
    """``Backend.text_embedding``: the pooled text times the encoder's own projection.

    The host's own pooled output leaves the projection out for Stable Diffusion 1.x, whose
    checkpoints do not carry it.
    """
    model = getattr(clip, "cond_stage_model", None)
    if model is None:
        raise TypeError(f"clip: expected that of Load CLIP, but got a {type(clip).__name__}.")
    encoder = next((getattr(model, name) for name in ENCODERS if hasattr(model, name)), None)
    projection = getattr(getattr(encoder, "transformer", None), "text_projection", None)
    if projection is None or not usable(projection.weight):
        raise ValueError("clip: this text encoder has no projection into the space of images (Stable Diffusion 1.x "
                         "checkpoints leave it out); load a whole CLIP, such as clip_l.safetensors, by CLIPLoader.")
    _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")
    with torch.no_grad():
        return projection(pooled.float()).float().cpu()


def text_tokens(clip: comfy.sd.CLIP, text: str) -> TextTokens:
    """``Backend.text_tokens``; of several text encoders, as SDXL's, the first: they share a tokenizer."""
    if not hasattr(clip, "tokenize"):
        raise TypeError(f"clip: expected that of Load CLIP, but got a {type(clip).__name__}.")

    def encode(part: str) -> list[Any]:
        windows = next(iter(clip.tokenize(part).values()))
        # A learned embedding (textual inversion) is its own token.
        return [f"embedding {float(token.sum())}" if isinstance(token, torch.Tensor) else int(token)
                for window in windows for token, *_ in window]

    # Emphasis, as in (purple:1.2), is no word.
    parts = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
    return TextTokens.read(comfy.sd1_clip.unescape_important("".join(part for part, _ in parts)), encode)


def usable(weight: torch.Tensor) -> bool:
    """Whether a projection was loaded: neither the identity, nor memory that nobody has written."""
    weight = weight.detach().float().cpu()
    identity = weight.shape[0] == weight.shape[1] and torch.equal(weight, torch.eye(len(weight)))
    return not identity and bool(torch.isfinite(weight).all()) and 0 < weight.abs().max() < 100


def load_toy_clip() -> tuple[comfy.sd.CLIP, comfy.clip_vision.ClipVisionModel]:
    """CLIP and CLIP_VISION of the toy world's scorer.

    Raises:
        ValueError: the weights are not those that the sidecar describes, or do not fit this host.
    """
    state = {key: weight.float() for key, weight in toyworld.state_of("clip").items()}
    text = {key: weight for key, weight in state.items() if key.startswith("text_")}
    image = {key: weight for key, weight in state.items() if key.startswith("vis") and "position_ids" not in key}
    vision = {**toyworld.CLIP_CONFIG["vision_config"], "num_channels": 3, "model_type": "clip_vision_model",
              "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
    # The oldest hosts read the description from a file only.
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(vision))
        model = comfy.clip_vision.ClipVisionModel(str(path))
    missing, unexpected = model.load_sd(image)
    if missing or unexpected:
        raise ValueError(f"The toy CLIP does not fit this ComfyUI: missing {missing}, unexpected {unexpected}; "
                         "update the pack or the host.")
    return toy.clip_from(text, toyworld.CLIP_CONFIG["text_config"]), model


def image_embeddings(clip_vision: Any, images: torch.Tensor) -> torch.Tensor:
    """``Backend.image_embeddings``."""
    if not hasattr(clip_vision, "encode_image"):
        raise TypeError(f"clip_vision: expected that of Load CLIP Vision, but got a {type(clip_vision).__name__}.")
    try:
        embeddings = getattr(clip_vision.encode_image(images, crop=False), "image_embeds", None)
    except AttributeError:
        # The host asks encoders without such an embedding (DINO) for it all the same.
        embeddings = None
    if embeddings is None or embeddings.ndim != 2:
        raise ValueError("clip_vision: gives no embedding in a space shared with text; load a CLIP vision model.")
    return embeddings.float().cpu()
