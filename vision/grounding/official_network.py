"""groundingdino-py behind ``detector.Network``; its break on transformers 5 is mended here and nowhere else.

groundingdino wraps BertModel and calls helpers of it that transformers 5 no longer has
(``get_head_mask``, ``get_extended_attention_mask``). All that the wrapper adds is an attention
mask of its own for every pair of tokens, which BertModel takes itself; so a plain BertModel, given
that mask in the form that the installed version reads, stands where the wrapper was. Nor is a BERT
downloaded: its weights are in the checkpoint.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .detector import Tokens
from .names import Shape

#: Backbones by width and window, under groundingdino's names.
BACKBONES = {(96, 7): "swin_T_224_1k", (128, 7): "swin_B_224_22k", (128, 12): "swin_B_384_22k",
             (192, 7): "swin_L_224_22k", (192, 12): "swin_L_384_22k"}
MODULE = "groundingdino.models.GroundingDINO.groundingdino"
_building = threading.Lock()


def works(shape: Shape) -> bool:
    """Whether groundingdino-py is installed, can be imported, and has a backbone of this size."""
    if importlib.util.find_spec("groundingdino") is None or (shape.swin_width, shape.swin_window) not in BACKBONES:
        return False
    try:
        importlib.import_module(MODULE)
    except (ImportError, RuntimeError, AttributeError):  # another version of what it builds on
        return False
    return True


class OfficialNetwork:
    """groundingdino's ``GroundingDINO``."""

    def __init__(self, module: nn.Module, tokenizer: Any):
        self.module, self.tokenizer = module, tokenizer

    def run(self, pixels: Tensor, caption: str, tokens: Tokens) -> tuple[Tensor, Tensor]:
        done = self.module(pixels, captions=[caption] * len(pixels))
        return done["pred_logits"], done["pred_boxes"]


class PairwiseBert(nn.Module):
    """BertModel under groundingdino's names and call: ``attention_mask`` is [n, t, t], True where a token attends."""

    def __init__(self, bert_model: nn.Module):
        super().__init__()
        self.config, self.embeddings = bert_model.config, bert_model.embeddings
        self.encoder, self.pooler = bert_model.encoder, bert_model.pooler
        # Outside of the module tree: its parts above are the same modules, and keys must not come twice.
        self._whole = (bert_model,)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **fields: Tensor) -> Any:
        import transformers

        if int(transformers.__version__.split(".")[0]) >= 5:
            attention_mask = attention_mask[:, None]  # four dimensions are taken as they are
        return self._whole[0](input_ids=input_ids, attention_mask=attention_mask, **fields)


def build(shape: Shape, tokenizer: Any) -> nn.Module:
    """An untrained network of groundingdino's modules."""
    from transformers import BertConfig, BertModel

    module = importlib.import_module(MODULE)
    bert = BertModel(BertConfig(**dict(shape.text)))
    with _replaced(module, bert, tokenizer):
        return module.build_groundingdino(_settings(shape))


@contextmanager
def _replaced(module: Any, bert: nn.Module, tokenizer: Any) -> Iterator[None]:
    """groundingdino's three ways to its text encoder lead to ours, while one network is built."""
    source = Namespace(get_tokenlizer=lambda name: tokenizer, get_pretrained_language_model=lambda name: bert)
    with _building:
        kept = {name: getattr(module, name) for name in ("get_tokenlizer", "BertModelWarper")}
        module.get_tokenlizer, module.BertModelWarper = source, PairwiseBert
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(module, name, value)


def _settings(shape: Shape) -> Namespace:
    """What groundingdino's configuration files say, with the sizes of this one."""
    return Namespace(
        backbone=BACKBONES[shape.swin_width, shape.swin_window], return_interm_indices=[1, 2, 3],
        backbone_freeze_keywords=None, use_checkpoint=False, dilation=False, position_embedding="sine",
        pe_temperatureH=20, pe_temperatureW=20, enc_layers=shape.encoder_layers, dec_layers=shape.decoder_layers,
        pre_norm=False, dim_feedforward=shape.mlp, hidden_dim=shape.width, dropout=0.0, nheads=shape.heads,
        num_queries=shape.queries, query_dim=4, num_patterns=0, num_feature_levels=shape.levels,
        enc_n_points=shape.encoder_points, dec_n_points=shape.decoder_points, two_stage_type="standard",
        two_stage_bbox_embed_share=False, two_stage_class_embed_share=False, transformer_activation="relu",
        dec_pred_bbox_embed_share=True, dn_box_noise_scale=1.0, dn_label_noise_ratio=0.5, dn_labelbook_size=2000,
        embed_init_tgt=True, max_text_len=256, text_encoder_type="bert-base-uncased", use_text_enhancer=True,
        use_fusion_layer=True, use_transformer_ckpt=False, use_text_cross_attention=True, text_dropout=0.0,
        fusion_dropout=0.0, fusion_droppath=0.1, sub_sentence_present=True)


def prepared(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official weights without what is not used at inference."""
    return {key: value.float() if torch.is_floating_point(value) else value for key, value in weights.items()
            if not key.startswith("label_enc.")}
