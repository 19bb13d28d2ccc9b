"""Folders in transformers' format of small random networks that find and describe things.

transformers writes them itself, so that config, tokenizer and weights have the form of the published folders.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..graph import GraphError
from .vocabulary import WORDS, bert, chat, florence

#: Qwen2.5-VL's files beside its tokenizer.
PROCESSORS = {
    "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14,
                                 "processor_class": "Qwen2_5_VLProcessor", "temporal_patch_size": 2, "merge_size": 2,
                                 "min_pixels": 3136, "max_pixels": 12845056},
    "video_preprocessor_config.json": {"video_processor_type": "Qwen2VLVideoProcessor"},
}  # fmt: skip
#: Side in pixels of the pictures that Segment Anything sees, and how far weights lie from where they begin.
SIDE, SPREAD = 128, 0.05
#: With these the networks find and outline a part of the picture, which the rest of a graph needs.
SEEDS = {"sam2": 8, "grounding-dino": 2}
#: How sure the decoder is that the object is in the picture.
OBJECT = 10.0


def random(build: Callable[[], Any], spread: float = SPREAD, seed: int = 0) -> Any:
    """A network of random numbers, the same ones everywhere: each tensor's come from its name."""
    module = build()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
            one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(one + spread * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def write(path: Path, folder: str) -> None:
    """Write the folder that a picker of ``models/<folder>`` names.

    Raises:
        GraphError: it is of a kind that is not known here.
    """
    make = next((make for kind, pattern, make in KINDS if kind == folder and re.search(pattern, path.name,
                                                                                      re.IGNORECASE)), None)
    if make is None:
        raise GraphError(f"models/{folder}/{path.name}: no narrow network of this kind is known; its sizes belong into "
                         "standalone/rehearsal.")
    make(path)


def sam2_video(path: Path) -> None:
    """SAM 2 with its memory."""
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel

    grid = SIDE // 4
    backbone = Sam2HieraDetConfig(
        image_size=[SIDE] * 2, hidden_size=16, embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 2, 2], blocks_per_stage=[1, 1, 2, 1], global_attention_blocks=[3],
        window_size_per_stage=[8, 4, 8, 4])
    vision = dict(model_type="sam2_vision_model", backbone_config=backbone.to_dict(), fpn_hidden_size=128,
                  backbone_channel_list=[128, 64, 32, 16], backbone_feature_sizes=[[grid >> i] * 2 for i in range(3)])
    config = Sam2VideoConfig(
        vision_config=vision, prompt_encoder_config=dict(hidden_size=128, image_size=SIDE),
        mask_decoder_config=dict(hidden_size=128, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32),
        image_size=SIDE, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64, memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128, memory_encoder_output_channels=64, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=64)
    module = random(lambda: Sam2VideoModel(config), seed=SEEDS["sam2"])
    with torch.no_grad():
        # An outline by the picture's own colours, whatever place or box or frame it is: specks over all of the picture
        # would leave nothing that is kept.
        decoder, places = module.mask_decoder, module.vision_encoder.backbone
        for part in (places.pos_embed, places.pos_embed_window, decoder.upscale_conv2.weight,
                     decoder.upscale_conv2.bias):
            part.zero_()
        for mixing in decoder.output_hypernetworks_mlps:
            mixing.proj_out.weight.zero_()
            mixing.proj_out.bias.copy_(decoder.output_hypernetworks_mlps[0].proj_out.bias)
        decoder.pred_obj_score_head.proj_out.bias.fill_(OBJECT)
    module.save_pretrained(path)


def grounding_dino(path: Path) -> None:
    """Grounding DINO with a Swin of a quarter of its width."""
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    tokenizer = bert()
    swin = SwinConfig(embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=7, image_size=224,
                      out_indices=[2, 3, 4])
    text = BertConfig(hidden_size=32, vocab_size=len(tokenizer), max_position_embeddings=64, num_hidden_layers=1,
                      intermediate_size=32, num_attention_heads=1)
    config = GroundingDinoConfig(
        backbone_config=swin.to_dict(), text_config=text.to_dict(), d_model=64, num_queries=20, num_feature_levels=4,
        encoder_layers=1, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=2,
        decoder_attention_heads=2)
    random(lambda: GroundingDinoForObjectDetection(config), 0.1, SEEDS["grounding-dino"]).save_pretrained(path)
    tokenizer.save_pretrained(path)


def florence2(path: Path) -> None:
    """Florence-2; it stops after its first word."""
    from transformers import (
        BartConfig,
        CLIPImageProcessorPil,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        Florence2VisionConfig,
    )

    tokenizer = florence()
    text = BartConfig(vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1,
                      encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
                      max_position_embeddings=512)
    vision = Florence2VisionConfig(
        embed_dim=[16, 16, 32, 32], num_heads=[1, 1, 2, 2], num_groups=[1, 1, 2, 2], depths=[1, 1, 1, 1],
        window_size=4, projection_dim=32, in_channels=3)
    config = Florence2Config(text_config=text.to_dict(), vision_config=vision.to_dict(),
                             image_token_id=tokenizer.convert_tokens_to_ids("<image>"))
    module = random(lambda: Florence2ForConditionalGeneration(config))
    _says_a_word(module, tokenizer)
    module.save_pretrained(path)
    # A picture of 64 pixels is 2x2 tokens behind four stages, and their mean.
    pictures = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5)
    Florence2Processor(pictures, tokenizer).save_pretrained(path)


def qwen25_vl(path: Path) -> None:
    """Qwen2.5-VL, which chats; it stops after its first word."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = chat()
    number = tokenizer.convert_tokens_to_ids
    text = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096, bos_token_id=None,
                eos_token_id=number("<|im_end|>"), rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]})
    vision = dict(depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=32, patch_size=14,
                  window_size=112, fullatt_block_indexes=[0])
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"), vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"))
    module = random(lambda: Qwen2_5_VLForConditionalGeneration(config))
    _says_a_word(module, tokenizer)
    module.save_pretrained(path)
    tokenizer.save_pretrained(path)
    # As the published folder has them; making these objects here would need torchvision.
    for name, values in PROCESSORS.items():
        (path / name).write_text(json.dumps(values), encoding="utf-8")


def _says_a_word(module: Any, tokenizer: Any) -> None:
    """Let it write words only, and stop after each: a random network would never stop by itself."""
    special = {number for word, number in tokenizer.get_vocab().items() if word.strip("Ġ") not in WORDS}
    module.generation_config.forced_eos_token_id = None
    module.generation_config.suppress_tokens = sorted(special)
    module.generation_config.eos_token_id = list(range(len(tokenizer)))
    module.generation_config.pad_token_id = tokenizer.pad_token_id


#: Folder below models, and what the name must say -> who writes it.
KINDS: tuple[tuple[str, str, Callable[[Path], None]], ...] = (
    ("sams", r"sam2", sam2_video),
    ("grounding-dino", r"dino", grounding_dino),
    ("LLM", r"florence-?2", florence2),
    ("LLM", r"qwen2\.5-vl", qwen25_vl),
)
