"""Tokenizers of a few words, with the special words of the published ones."""

from __future__ import annotations

from typing import Any

WORDS = ("a", "man", "woman", "car", "road", "robot", "fish", "green", "red", "square", "on", "the")
#: Numbers that Grounding DINO knows of BERT's vocabulary.
BERT = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
#: Qwen's, in the order of its vocabulary.
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
        "<|video_pad|>")  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def bert() -> Any:
    """BERT's, whose unknown words have one number."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    table = {f"[unused{number}]": number for number in range(1030) if number not in BERT.values()} | BERT
    table |= {word: 1030 + number for number, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordPiece(table, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
                                   pad_token="[PAD]", mask_token="[MASK]",
                                   model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def _bytes(special: tuple[str, ...]) -> Any:
    """A tokenizer of bytes that merges the words above."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.train_from_iterator([" ".join(WORDS)] * 3, trainers.BpeTrainer(
        vocab_size=400, special_tokens=[AddedToken(word, special=True) for word in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return raw


def florence() -> Any:
    """BART's, with the words of Florence-2's places and tasks."""
    from transformers import PreTrainedTokenizerFast

    places = tuple(f"<loc_{number}>" for number in range(1000))
    return PreTrainedTokenizerFast(
        tokenizer_object=_bytes(("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>", *places)), bos_token="<s>",
        eos_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
        extra_special_tokens={"image_token": "<image>"})


def chat() -> Any:
    """Qwen's, with a short form of its chat template."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=_bytes(QWEN), eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE,
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"})
