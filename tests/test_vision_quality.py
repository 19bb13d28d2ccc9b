"""Level words of a vision-language model as a score, on a tiny LLaVA of random weights, against a sum by hand."""

from __future__ import annotations

import pytest
import torch
from steadyedit import nodes
from steadyedit.standalone import host_api
from steadyedit.vision import quality
from steadyedit.vision.captions import Captioner, first_tokens, load_captioner
from tiny_vision import clip, shaken
from tolerances import NETWORK

TEMPLATE = ("{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}"
            "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:")  # fmt: skip
WORDS = f"{quality.QUESTION} {quality.BEGUN} USER : ASSISTANT".replace("?", " ?").split()
SIDE, PATCH = 32, 16


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = dict.fromkeys(["<unk>", "<pad>", "<s>", "</s>", "<image>", *WORDS, *quality.LEVELS])
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, "<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=plain, **special)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder, words = tmp_path_factory.mktemp("LLM") / "llava", tokenizer()
    small = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=SIDE, patch_size=PATCH, projection_dim=32),
        text_config=LlamaConfig(**small, vocab_size=len(words), num_key_value_heads=2, max_position_embeddings=128),
        image_token_index=words.convert_tokens_to_ids("<image>"), vision_feature_select_strategy="default",
        vision_feature_layer=-1)  # fmt: skip
    shaken(lambda: LlavaForConditionalGeneration(config)).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)
    LlavaProcessor(pictures, words, patch_size=PATCH, vision_feature_select_strategy="default", chat_template=TEMPLATE,
                   num_additional_image_tokens=1).save_pretrained(folder)  # fmt: skip
    return folder


def by_hand(folder, frame):
    """The prompt's numbers written down, the picture prepared apart, one forward pass, the expectation."""
    from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

    module, words = LlavaForConditionalGeneration.from_pretrained(folder).eval(), tokenizer()
    number = words.convert_tokens_to_ids
    prompt = ["USER", ":", *["<image>"] * (SIDE // PATCH) ** 2, *quality.QUESTION.replace("?", " ?").split(),
              "ASSISTANT", ":", *quality.BEGUN.split()]  # fmt: skip
    pixels = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})(
        images=(frame * 255).round().byte().numpy(), return_tensors="pt")["pixel_values"]  # fmt: skip
    ids = torch.tensor([[number(word) for word in prompt]])
    with torch.no_grad():
        logits = module(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0, -1].double()
    odds = torch.stack([logits[number(word)] for word in ("bad", "poor", "fair", "good", "excellent")]).exp()
    return float((odds * torch.arange(1, 6)).sum() / odds.sum())


def test_the_score_is_the_expected_level(llava):
    captioner, frames = load_captioner(llava), clip(2)
    assert captioner.chats
    scores = quality.qualities(captioner, frames)
    assert scores == pytest.approx([by_hand(llava, frame) for frame in frames], rel=NETWORK)
    # Of random weights, but neither the middle by chance nor one score for all pictures.
    assert abs(scores[0] - 3) > 1e-3 and scores[0] != scores[1]


def test_a_sure_model_gives_its_level():
    class Sure:
        def __init__(self, word):
            self.word = word

        def odds(self, frame, words, begun, choices):
            return torch.tensor([float(choice == self.word) for choice in choices], dtype=torch.float64)

    words = ("bad", "poor", "fair", "good", "excellent")
    assert [quality.quality(Sure(word), None) for word in words] == [1, 2, 3, 4, 5]


def test_words_that_begin_alike_are_refused():
    def letters(text, add_special_tokens):
        return {"input_ids": [ord(letter) for letter in text]}

    assert first_tokens(lambda text, add_special_tokens: {"input_ids": text.split()}, "it is", ["bad", "fair"]) == [
        "bad", "fair"]  # fmt: skip
    with pytest.raises(ValueError, match="begins two of the words bad, poor alike"):
        first_tokens(letters, "it is", ["bad", "poor"])  # both begin with a space


def test_a_captioner_that_answers_nothing_is_refused():
    class Mute(torch.nn.Module):
        config = type("", (), {"model_type": "blip"})

    with pytest.raises(ValueError, match="answers no questions"):
        quality.quality(Captioner(Mute(), object()), clip(1)[0])


def test_the_node_says_mean_and_worst(monkeypatch):
    with host_api.installed():
        node = next(n for n in nodes.node_list() if n.GET_SCHEMA().node_id == "SteadyEditQualityScore")
        from steadyedit.nodes import captions as module

        class Bright:
            chats = True

            def odds(self, frame, words, begun, choices):
                level = int(round(float(frame.mean()) * 10))
                return torch.tensor([float(5 - n == level) for n in range(5)], dtype=torch.float64)

        class Ready:
            model = Bright()

            def ready(self, frames):
                return self.model

        monkeypatch.setattr(module, "open_captioner", lambda model, precision: Ready())
        frames = torch.tensor([0.5, 0.0, 0.2, 0.0, 0.4])[:, None, None, None].expand(5, 8, 8, 3)
        score, report = node.execute(frames, "a model", 2).result
        assert score == pytest.approx(11 / 3) and "worst: 2.000, frame 2" in report and "by a model" in report
        Bright.chats = False
        with pytest.raises(ValueError, match="answers no questions"):
            node.execute(frames, "a model", 2)
