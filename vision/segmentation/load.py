"""A checkpoint or folder -> a segmenter."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import SEGMENTERS, kind_of, load_strictly, opening_folder, read_weights
from . import names
from .prompt import Segmenter
from .sam import OfficialEngine, Sam, TransformersEngine

#: What users look for, for the errors.
EXPECTED = ("sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth, sam_vit_h_4b8939.pth, or a folder in transformers' format "
            "such as sam-vit-base, sam2.1-hiera-small")


def load_segmenter(path: Path, dtype: torch.dtype = torch.float32, engine: str = "auto") -> Segmenter:
    """Open official Segment Anything weights, or a folder in transformers' format.

    Args:
        path: sam_vit_b/l/h*.pth or .safetensors (any size, it is read off the keys), or a folder
            of a SAM, SAM 2 or SAM 2 video model.
        dtype: of the image encoder; the rest is float32.
        engine: for official weights "segment-anything" or "transformers"; "auto" takes the first
            of them that is installed and works.

    Raises:
        ValueError: something else is in the file or folder.
        FileNotFoundError: there is nothing.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, dtype)
    weights = read_weights(path)
    if not names.is_official(weights):
        raise ValueError(f"model: '{path.name}' is no Segment Anything checkpoint (no key {names.MARK}); "
                         f"expected {EXPECTED}.")
    try:
        shape = names.shape_of(weights)
    except (KeyError, IndexError) as error:
        raise ValueError(f"model: '{path.name}' lacks weights of Segment Anything ({error}); it is damaged.") from error
    if engine == "auto":
        engine = "segment-anything" if official_works() else "transformers"
    build = build_official if engine == "segment-anything" else build_transformers
    module = build(shape)
    if engine == "transformers":
        weights = names.to_transformers(weights)
    load_strictly(module, {key: value.float() for key, value in weights.items()}, path.name)
    return Sam(OfficialEngine(module) if engine == "segment-anything" else TransformersEngine(module), dtype)


def official_works() -> bool:
    """Whether segment-anything can be imported: it needs torchvision, which not every Python with torch has."""
    try:
        import segment_anything  # noqa: F401
    except (ImportError, RuntimeError):  # the latter: a torchvision of another torch
        return False
    return True


def build_official(shape: names.Shape) -> nn.Module:
    """An untrained network of segment-anything's modules.

    Its own builder knows three sizes only; the modules take any.
    """
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
    from segment_anything.modeling import Sam as Network

    grid = shape.side // shape.patch
    encoder = ImageEncoderViT(
        img_size=shape.side, patch_size=shape.patch, embed_dim=shape.width, depth=shape.depth, num_heads=shape.heads,
        mlp_ratio=shape.mlp / shape.width, out_chans=shape.channels, qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=shape.window,
        global_attn_indexes=shape.global_layers)
    prompts = PromptEncoder(embed_dim=shape.channels, image_embedding_size=(grid, grid),
                            input_image_size=(shape.side, shape.side), mask_in_chans=16)
    decoder = MaskDecoder(
        transformer_dim=shape.channels, num_multimask_outputs=shape.masks, iou_head_depth=shape.score_depth,
        iou_head_hidden_dim=shape.score_width, transformer=TwoWayTransformer(
            depth=shape.decoder_depth, embedding_dim=shape.channels, mlp_dim=shape.decoder_mlp,
            num_heads=shape.decoder_heads))
    return Network(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)


def build_transformers(shape: names.Shape) -> nn.Module:
    """An untrained ``SamModel``."""
    from transformers import SamModel

    return SamModel(names.transformers_config(shape))


def _folder(path: Path, dtype: torch.dtype) -> Segmenter:
    kind = kind_of(path)
    if kind not in SEGMENTERS:
        raise ValueError(f"model: the folder '{path.name}' is no SAM in transformers' format (model_type "
                         f"'{kind or 'missing'}' in its config.json); expected {EXPECTED}.")
    if kind == "sam":
        return Sam(TransformersEngine(_pretrained("SamModel", path)), dtype)
    if kind == "sam2":
        from .sam2 import Sam2

        return Sam2(_pretrained("Sam2Model", path), dtype)
    from .memory import Sam2Video

    return Sam2Video(_pretrained("Sam2VideoModel", path), dtype)


def _pretrained(name: str, path: Path) -> Any:
    import transformers

    if not hasattr(transformers, name):
        raise ValueError(f"model: transformers {transformers.__version__} has no {name}, which '{path.name}' needs; "
                         "update transformers.")
    with opening_folder(path, EXPECTED):
        # .float(): versions differ in the name of the type's argument, and in whether the file's type is kept.
        return getattr(transformers, name).from_pretrained(path, local_files_only=True, use_safetensors=True).float()
