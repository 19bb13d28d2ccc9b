"""A folder of Wan 2.1 image-to-video weights as diffusers lays it out: its true parts, narrow and random."""

from __future__ import annotations

from pathlib import Path

import torch


def write(folder: Path, seed: int = 0, look: bool = True) -> Path:
    """Transformer, with its branch for CLIP vision where it shall ``look``, video VAE, UMT5 with a tokenizer of words,
    CLIP vision."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from steadyedit.toyworld.models.wan import VAE_CONFIG
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    vision = {"image_dim": 16, "added_kv_proj_dim": 24} if look else {}
    WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36, out_channels=16,
        text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True, **vision,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    AutoencoderKLWan(**{**VAE_CONFIG, "base_dim": 4}).save_pretrained(folder / "vae")
    UMT5EncoderModel(UMT5Config(vocab_size=16, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
        folder / "text_encoder")
    if look:
        CLIPVisionModel(CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14)).save_pretrained(folder / "image_encoder")  # fmt: skip
    words = {word: number for number, word in enumerate(("<pad>", "</s>", "<unk>", "a", "red", "blue", "ball"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>",
                            unk_token="<unk>").save_pretrained(folder / "tokenizer")  # fmt: skip
    return folder
