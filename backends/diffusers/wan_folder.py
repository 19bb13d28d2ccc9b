"""Wan image-to-video weights in diffusers' folder layout as MODEL, CLIP, VAE and CLIP vision of this backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from .toy_wan import VideoAutoencoder
from .video import DiffusersVideoModel

if TYPE_CHECKING:
    from torch import Tensor

#: Tokens of a prompt, as Wan was trained: shorter ones are filled up with zeros.
TOKENS = 512
PARTS = ("transformer", "vae", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class WanFolder:
    """Weights as ``WanImageToVideoPipeline.save_pretrained`` lays them out; parts load when they are asked for.

    Args:
        folder: with transformer/, vae/, text_encoder/, tokenizer/; and image_encoder/ where the transformer looks at
            the first frame (Wan 2.1).
        device: to load onto.

    Raises:
        ValueError: a part is missing, or it holds another kind of model; one sentence.
    """

    folder: Path
    device: str = "cpu"

    def __post_init__(self) -> None:
        for part in PARTS:
            if not (self.folder / part).is_dir():
                raise ValueError(f"weights {self.folder}: has no {part} folder; name a folder in diffusers' layout, "
                                 "such as a copy of Wan2.1-I2V-14B-480P-Diffusers.")
        config = json.loads((self.folder / "transformer" / "config.json").read_text(encoding="utf-8"))
        if config.get("_class_name") != "WanTransformer3DModel":
            raise ValueError(f"weights {self.folder}: its transformer is a {config.get('_class_name')}, not Wan's; "
                             "LoRA-Edit trains Wan's image-to-video models here.")
        if config.get("image_dim") and not (self.folder / "image_encoder").is_dir():
            raise ValueError(f"weights {self.folder}: the transformer looks at the first frame by CLIP vision, but "
                             "there is no image_encoder folder.")

    def model(self, dtype: torch.dtype) -> DiffusersVideoModel:
        """MODEL, in one width."""
        from diffusers import WanTransformer3DModel

        network = self._loaded(WanTransformer3DModel, "transformer", torch_dtype=dtype)
        config = json.loads((self.folder / "vae" / "config.json").read_text(encoding="utf-8"))
        return DiffusersVideoModel(network.to(self.device), tuple(config["latents_mean"]), tuple(config["latents_std"]))

    def vae(self) -> VideoAutoencoder:
        """VAE, float32."""
        from diffusers import AutoencoderKLWan

        return VideoAutoencoder(self._loaded(AutoencoderKLWan, "vae", torch_dtype=torch.float32).to(self.device))

    @torch.no_grad()
    def text(self, prompt: str, dtype: torch.dtype) -> list:
        """CONDITIONING of a prompt: UMT5's tokens, behind them zeros."""
        from transformers import AutoTokenizer, UMT5EncoderModel

        tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)
        encoder = self._loaded(UMT5EncoderModel, "text_encoder", torch_dtype=dtype).to(self.device)
        tokens = tokenizer(" ".join(prompt.split()), padding="max_length", max_length=TOKENS, truncation=True,
                           add_special_tokens=True, return_attention_mask=True, return_tensors="pt").to(self.device)
        states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return [[(states * tokens.attention_mask[..., None]).float().cpu(), {}]]

    def look(self) -> Callable[[Tensor], Any] | None:
        """CLIP vision of one frame, squeezed into its square; None where the model has no branch for it."""
        if not (self.folder / "image_encoder").is_dir():
            return None
        from torch.nn.functional import interpolate
        from transformers import CLIPVisionModel

        encoder = self._loaded(CLIPVisionModel, "image_encoder", torch_dtype=torch.float32).to(self.device)
        mean, std = (torch.tensor(values)[:, None, None] for values in (
            (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip

        @torch.no_grad()
        def seen(frame: Tensor) -> Any:
            side = encoder.config.image_size
            small = interpolate(frame[..., :3].movedim(-1, 1).float(), (side, side), mode="bicubic", antialias=True)
            pixels = ((small.clamp(0, 1) - mean) / std).to(self.device)
            states = encoder(pixels, output_hidden_states=True).hidden_states[-2]
            return SimpleNamespace(penultimate_hidden_states=states.float().cpu())

        return seen

    def _loaded(self, kind: Any, part: str, **settings: Any) -> Any:
        try:
            loaded = kind.from_pretrained(self.folder / part, local_files_only=True, use_safetensors=True, **settings)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise ValueError(f"weights {self.folder}: {part} cannot be loaded ({reason}).") from error
        return loaded.eval().requires_grad_(False)
