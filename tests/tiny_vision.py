"""Networks with random weights in the shapes of Segment Anything, SAM 2 and Grounding DINO, small or true to size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from steadyedit.vision.grounding.names import Shape as GroundingShape
from steadyedit.vision.segmentation.names import Shape

TINY_SAM = Shape(side=128, patch=16, width=32, depth=3, heads=2, window=4, global_layers=(1,), mlp=128, channels=32,
                 decoder_depth=2, decoder_mlp=64, masks=3, score_depth=3, score_width=32)
#: The official vit_b, l and h.
FULL_SAM = {
    name: Shape(side=1024, patch=16, width=width, depth=depth, heads=heads, window=14, global_layers=layers,
                mlp=4 * width, channels=256, decoder_depth=2, decoder_mlp=2048, masks=3, score_depth=3,
                score_width=256)
    for name, width, depth, heads, layers in (
        ("vit_b", 768, 12, 12, (2, 5, 8, 11)), ("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        ("vit_h", 1280, 32, 16, (7, 15, 23, 31)))
}  # fmt: skip
WORDS = ["dog", "red", "ball", "a"]
#: groundingdino's own modules are 256 wide and have a Swin of one of its sizes; the rest is small.
TINY_GROUNDING = GroundingShape(
    swin_width=96, swin_depths=(2, 2, 6, 2), swin_heads=(3, 6, 12, 24), swin_window=7, width=256, queries=20,
    encoder_layers=1, decoder_layers=2, mlp=64, levels=4, encoder_points=4, decoder_points=4,
    text=tuple(dict(hidden_size=64, vocab_size=1030 + len(WORDS), max_position_embeddings=64, num_hidden_layers=1,
                    intermediate_size=64, num_attention_heads=1).items()))
SAM2_SIDE = 128


def shaken(build: Callable[[], torch.nn.Module], scale: float = 0.05, seed: int = 0) -> torch.nn.Module:
    """Random weights away from the constants that norms and tables start at, the same in whatever order tests run."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build()
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval().requires_grad_(False)


def vocabulary(folder: Path) -> Path:
    """A vocab.txt with BERT's numbers of the special words and stops."""
    words = [f"[unused{i}]" for i in range(1030)]
    for number, word in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".",
                         1029: "?"}.items():
        words[number] = word
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words + WORDS) + "\n", encoding="utf-8")
    return folder


def sam2_configs():
    """(Sam2Config, Sam2VideoConfig) of a tiny network."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2VideoConfig

    grid = SAM2_SIDE // 4
    backbone = Sam2HieraDetConfig(
        image_size=[SAM2_SIDE] * 2, hidden_size=16, embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 2, 2], blocks_per_stage=[1, 1, 2, 1], global_attention_blocks=[3],
        window_size_per_stage=[8, 4, 8, 4])
    vision = dict(model_type="sam2_vision_model", backbone_config=backbone.to_dict(), fpn_hidden_size=128,
                  backbone_channel_list=[128, 64, 32, 16], backbone_feature_sizes=[[grid >> i] * 2 for i in range(3)])
    parts = dict(vision_config=vision, prompt_encoder_config=dict(hidden_size=128, image_size=SAM2_SIDE),
                 mask_decoder_config=dict(hidden_size=128, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32))
    memory = dict(
        image_size=SAM2_SIDE, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64, memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128, memory_encoder_output_channels=64, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=64)
    return Sam2Config(**parts), Sam2VideoConfig(**parts, **memory)


def clip(frames: int = 2, height: int = 75, width: int = 53, seed: int = 3) -> torch.Tensor:
    """An IMAGE batch of 8-bit values and an odd size."""
    noise = torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed))
    return (noise * 255).round() / 255
