"""Captioners from folders in transformers' format: BLIP, Florence-2, one that chats, and folders that are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from steadyedit.vision.captions import DESCRIBE, Captioner, load_captioner
from tiny_vision import clip, shaken, vocabulary


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A tiny BLIP with random weights: it writes nonsense, always the same."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("LLM") / "blip"
    small = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = BlipConfig(
        text_config={**small, "vocab_size": 1034, "encoder_hidden_size": 32, "max_position_embeddings": 64,
                     "bos_token_id": 101, "sep_token_id": 102, "eos_token_id": 102, "pad_token_id": 0},
        vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16)
    shaken(lambda: BlipForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer = BertTokenizerFast.from_pretrained(vocabulary(folder))
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_a_captioner_writes_what_transformers_own_way_writes(blip):
    from transformers import AutoProcessor, BlipForConditionalGeneration

    captioner, frame = load_captioner(blip), clip(1)[0]
    written = captioner.caption(frame, tokens=6)
    processor, module = AutoProcessor.from_pretrained(blip), BlipForConditionalGeneration.from_pretrained(blip).eval()
    pixels = processor(images=(frame * 255).round().byte().numpy(), return_tensors="pt")
    with torch.no_grad():
        wanted = module.generate(**pixels, max_new_tokens=6, do_sample=False)
    assert written == " ".join(processor.decode(wanted[0], skip_special_tokens=True).split())
    assert not captioner.chats


class Talker:
    """The processor of a model that chats: it notes what it is asked."""

    chat_template = "a template"

    def __init__(self):
        self.asked = None

    def apply_chat_template(self, talk, **settings):
        assert settings["add_generation_prompt"] and settings["return_tensors"] == "pt"
        self.asked = talk
        return {"input_ids": torch.tensor([[5, 6, 7]]), "pixel_values": torch.zeros(1, 3, 4, 4), "note": "no tensor"}

    def decode(self, ids, skip_special_tokens):
        return " ".join(str(int(i)) for i in ids) + "\n"


class Echo(torch.nn.Module):
    """Writes the question again, and two words."""

    class config:  # noqa: N801
        model_type = "echo"

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def generate(self, input_ids, pixel_values, max_new_tokens, do_sample):
        assert not do_sample
        return torch.cat([input_ids, torch.tensor([[8, 9]])], 1)


def test_a_model_that_chats_sees_the_picture_and_its_answer_is_cut_off():
    talker = Talker()
    captioner = Captioner(Echo(), talker)
    assert captioner.chats and captioner.ask(clip(1)[0], "What is it?") == "8 9"
    (turn,) = talker.asked
    assert turn["content"][0]["image"].size == (53, 75) and turn["content"][1]["text"] == "What is it?"
    captioner.caption(clip(1)[0], "short")
    assert talker.asked[0]["content"][1]["text"] == DESCRIBE["short"]


def test_several_frames_are_seen_in_their_order():
    talker, frames = Talker(), clip(3)
    assert Captioner(Echo(), talker).ask(frames, "What happens?") == "8 9"
    *pictures, words = talker.asked[0]["content"]
    assert words["text"] == "What happens?" and len(pictures) == 3
    for picture, frame in zip(pictures, frames, strict=True):
        assert (torch.from_numpy(np.array(picture["image"])) - (255 * frame).round()).abs().max() <= 1


def test_florence_is_asked_by_its_task():
    class Florence(Echo):
        class config:  # noqa: N801
            model_type = "florence2"

    class Processor:
        chat_template = None
        tokenizer = Talker()

        def __call__(self, images, text, return_tensors):
            self.text = text
            return {"input_ids": torch.tensor([[1, 2]]), "pixel_values": torch.zeros(1, 3, 4, 4)}

    processor = Processor()
    assert Captioner(Florence(), processor).caption(clip(1)[0]) == "8 9"
    assert processor.text == "<DETAILED_CAPTION>"


def test_folders_that_are_no_captioner_are_told(tmp_path, blip):
    with pytest.raises(ValueError, match="has no readable config.json; expected a folder"):
        load_captioner(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(ValueError, match="needs code of its own, which is not run"):
        load_captioner(tmp_path)
    (tmp_path / "config.json").write_text((blip / "config.json").read_text())
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_captioner(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loader", ["captions.load_captioner", "segmentation.load.load_segmenter",
                                    "grounding.load.load_detector"])
@pytest.mark.parametrize("kind", ["pickle", "code", "damaged"])
def test_folders_are_never_opened_by_advice_to_trust_them(tmp_path, blip, loader, kind):
    """torch and transformers say how to load a pickle, or code, anyway; a user reads that it is not done."""
    import importlib

    module, _, name = loader.rpartition(".")
    load = getattr(importlib.import_module(f"steadyedit.vision.{module}"), name)
    config = {"captions": json.loads((blip / "config.json").read_text()), "segmentation": {"model_type": "sam"},
              "grounding": {"model_type": "grounding-dino"}}[module.split(".")[0]]
    (tmp_path / "config.json").write_text(json.dumps(config))
    sentence = "cannot be loaded"
    if kind == "pickle":
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
        sentence = "holds its weights as a pickle .'pytorch_model.bin'., which is not opened; put model.safetensors"
    elif kind == "damaged":
        (tmp_path / "model.safetensors").write_bytes(b"\x10" * 99)
    else:
        (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
        (tmp_path / "model.safetensors").write_bytes(b"\x10" * 99)
        sentence = "needs code of its own, which is not run"
    arguments = ([tmp_path],) if module.startswith("grounding") else ()
    with pytest.raises(ValueError, match=sentence) as caught:
        load(tmp_path, *arguments)
    said = str(caught.value)
    assert "\n" not in said and "trust_remote_code" not in said and "weights_only" not in said and len(said) < 500


def test_a_folder_that_lacks_weights_is_told(tmp_path, blip):
    """transformers would fill them in with random ones."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(blip, tmp_path / "short")
    path = tmp_path / "short" / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if "patch_embedding" not in k}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks .* weights, such as .*patch_embedding"):
        load_captioner(tmp_path / "short")
