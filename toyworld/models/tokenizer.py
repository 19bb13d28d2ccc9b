"""The toy world's tokenizer: CLIP's format, one token for every word of the grammar."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

TOKENIZER = Path(__file__).parents[1] / "tokenizer"
VOCAB_SIZE = 802
BOS, EOS = 800, 801


@lru_cache(maxsize=1)
def load_tokenizer():
    """transformers.CLIPTokenizer of the grammar, padded to 77 with <|endoftext|>."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(TOKENIZER)


def tokenize(captions: list[str]):
    """Captions -> int64 ids [B,77]."""
    return load_tokenizer()(
        captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
