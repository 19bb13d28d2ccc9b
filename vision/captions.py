"""Pictures -> words, by a captioner or a vision-language model from a local folder in transformers' format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import opening_folder
from .segmentation.geometry import as_pixels

#: What Florence-2 is asked by; other captioners need no words.
TASKS = {"detailed": "<DETAILED_CAPTION>", "short": "<CAPTION>", "paragraph": "<MORE_DETAILED_CAPTION>"}
FLORENCE = "florence2"
EXPECTED = ("a folder in transformers' format such as Florence-2-base (of florence-community), "
            "blip-image-captioning-base or Qwen2.5-VL-3B-Instruct")
#: What models that chat are asked for where only a caption is wanted.
DESCRIBE = {"detailed": "Describe this picture in one detailed sentence.", "short": "Describe this picture briefly.",
            "paragraph": "Describe this picture in a paragraph."}


class Captioner:
    """A network that writes about pictures.

    Args:
        module, processor: transformers'.
        dtype: of the calculation, by autocast.
    """

    def __init__(self, module: nn.Module, processor: Any, dtype: torch.dtype = torch.float32):
        self.module, self.processor, self.dtype = module.eval().requires_grad_(False), processor, dtype
        self.kind = module.config.model_type
        # Keys and values of a thousand image tokens in every layer, and the picture's own encoder.
        self.frame_bytes = 2**30

    @property
    def chats(self) -> bool:
        """Whether it answers questions in a conversation."""
        return bool(getattr(self.processor, "chat_template", None))

    def caption(self, frame: Tensor, style: str = "detailed", tokens: int = 256) -> str:
        """Words for a frame [height, width, 3]; ``style`` is one of ``TASKS``."""
        if self.kind == FLORENCE:
            return self.ask(frame, TASKS[style], tokens)
        return self.ask(frame, DESCRIBE[style] if self.chats else "", tokens)

    @torch.no_grad()
    def ask(self, frames: Tensor, words: str, tokens: int = 64) -> str:
        """What the network writes for a frame and words, without sampling.

        Args:
            frames: [height, width, 3], or several [F, height, width, 3] where it ``chats``.
        """
        pictures = [as_pixels(frame) for frame in (frames if frames.ndim == 4 else frames[None])]
        picture = pictures[0]
        if self.chats:
            content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": words}]
            talk = [{"role": "user", "content": content}]
            inputs = self.processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=True,
                                                        return_dict=True, return_tensors="pt")
        else:
            inputs = self.processor(images=picture, return_tensors="pt", **({"text": words} if words else {}))
        device = next(self.module.parameters()).device
        inputs = {name: value.to(device) for name, value in inputs.items() if isinstance(value, Tensor)}
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            written = self.module.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return self._read(written[0], inputs.get("input_ids"))

    @torch.no_grad()
    def odds(self, frame: Tensor, words: str, begun: str, choices: Sequence[str]) -> Tensor:
        """How likely each choice is to go on from the beginning of an answer, among these choices.

        softmax over the choices of the logits of each one's first token behind ``begun``.

        Args:
            frame: [height, width, 3]. words: the question.

        Returns:
            float64 [choices] on the CPU, of sum 1.

        Raises:
            ValueError: the network does not chat, or two choices begin with one token.
        """
        if not self.chats:
            raise ValueError("model: describes pictures but answers no questions; choose a vision-language model such "
                             "as Qwen2.5-VL-3B-Instruct.")
        ids = first_tokens(getattr(self.processor, "tokenizer", self.processor), begun, choices)
        picture = as_pixels(frame)
        talk = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": words}]}]
        prompt = self.processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        prompt += begun if prompt[-1:].isspace() else f" {begun}"
        # A template that writes the token of the beginning must not get another.
        bos = getattr(getattr(self.processor, "tokenizer", None), "bos_token", None)
        inputs = self.processor(text=[prompt], images=[picture], return_tensors="pt",
                                add_special_tokens=not (bos and prompt.startswith(bos)))
        device = next(self.module.parameters()).device
        inputs = {name: value.to(device) for name, value in inputs.items() if isinstance(value, Tensor)}
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.module(**inputs).logits[0, -1]
        return logits[ids].double().softmax(-1).cpu()

    def _read(self, written: Tensor, asked: Tensor | None) -> str:
        """The text of what was written, without the question that some networks repeat."""
        if asked is not None and len(written) > asked.shape[1] and torch.equal(written[: asked.shape[1]], asked[0]):
            written = written[asked.shape[1] :]
        decode = getattr(self.processor, "tokenizer", self.processor).decode
        return " ".join(decode(written, skip_special_tokens=True).split())


def first_tokens(tokenizer: Any, begun: str, choices: Sequence[str]) -> list[int]:
    """The token that each choice begins with, behind the words ``begun`` and a space.

    Raises:
        ValueError: two choices share it.
    """
    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    before = tokens(begun)
    found = [next(new for new, old in zip_longest(tokens(f"{begun} {choice}"), before) if new != old)
             for choice in choices]  # fmt: skip
    if len(set(found)) < len(choices):
        raise ValueError(f"model: its tokenizer begins two of the words {', '.join(choices)} alike, so that they "
                         "cannot be told apart; choose another model.")
    return found


def load_captioner(path: Path, dtype: torch.dtype = torch.float32) -> Captioner:
    """Open a folder in transformers' format. Code in it is not run.

    Raises:
        ValueError: transformers has no such network, or the folder is damaged.
    """
    import transformers

    path = Path(path)
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model: '{path.name}' has no readable config.json; expected {EXPECTED}.") from error
    with opening_folder(path, EXPECTED):
        module, report = transformers.AutoModelForImageTextToText.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True)
        processor = transformers.AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if missing := sorted(map(str, report["missing_keys"])):
        raise ValueError(f"model: the folder '{path.name}' lacks {len(missing)} weights, such as {missing[0]}; it is "
                         f"damaged, or not in transformers' own format; expected {EXPECTED}.")
    return Captioner(module.float(), processor, dtype)
