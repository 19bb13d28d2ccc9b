"""Grounding DINO: official names in transformers' network, the text it reads, and files that are none."""

from __future__ import annotations

import pytest
import torch
from steadyedit.vision.grounding import load as loading
from steadyedit.vision.grounding import names
from steadyedit.vision.grounding.detector import Tokens, draw_boxes, prepared_text, scaled_size
from tiny_vision import TINY_GROUNDING, clip, shaken, vocabulary
from tolerances import FLOAT32, NETWORK, RUN

#: The published sizes: groundingdino_swint_ogc and groundingdino_swinb_cogcoor.
BERT = tuple(dict(hidden_size=768, vocab_size=30522, max_position_embeddings=512, num_hidden_layers=12,
                  intermediate_size=3072, num_attention_heads=12).items())
COMMON = dict(width=256, queries=900, encoder_layers=6, decoder_layers=6, mlp=2048, levels=4, encoder_points=4,
              decoder_points=4, text=BERT)
FULL = {
    "swint_ogc": names.Shape(swin_width=96, swin_depths=(2, 2, 6, 2), swin_heads=(3, 6, 12, 24), swin_window=7,
                             **COMMON),
    "swinb_cogcoor": names.Shape(swin_width=128, swin_depths=(2, 2, 18, 2), swin_heads=(4, 8, 16, 32),
                                 swin_window=12, **COMMON),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny network in transformers' format."""
    from transformers import GroundingDinoForObjectDetection

    path = tmp_path_factory.mktemp("grounding-dino") / "tiny"
    module = shaken(lambda: GroundingDinoForObjectDetection(names.transformers_config(TINY_GROUNDING)), 0.01, seed=1)
    module.save_pretrained(path)
    loading.find_tokenizer([vocabulary(path)]).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def detector(folder):
    found = loading.load_detector(folder)
    found.shorter, found.longer = 96, 160
    return found


def test_boxes_equal_transformers_own_way(detector):
    """The same pixels through transformers' processor of results, at a threshold that some boxes do not pass."""
    from transformers import GroundingDinoProcessor
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    frames, network = clip(2), detector.network
    size = {"shortest_edge": 96, "longest_edge": 160}
    processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil(size=size), network.tokenizer)
    pictures = [(frame * 255).round().byte().numpy() for frame in frames]
    inputs = processor(images=pictures, text=["a dog . red ball ."] * 2, return_tensors="pt")
    torch.testing.assert_close(detector.pixels(frames), inputs["pixel_values"], atol=FLOAT32, rtol=0)
    with torch.no_grad():
        outputs = network.module(**inputs)
    threshold, sizes = 0.5, [(75, 53)] * 2
    assert (outputs.logits.sigmoid().max(-1).values < threshold).any()
    wanted = processor.post_process_grounded_object_detection(outputs, threshold=threshold, target_sizes=sizes)
    for ours, theirs in zip(detector.detect(frames, "A dog. red ball", threshold, 0.5), wanted):
        corners = theirs["boxes"].clamp(min=0).minimum(torch.tensor([53.0, 75, 53, 75]))
        assert len(ours) == len(corners) > 3
        assert [box["score"] for box in ours] == sorted((box["score"] for box in ours), reverse=True)
        rows = [[b["x"], b["y"], b["x"] + b["width"], b["y"] + b["height"], b["score"]] for b in ours]
        # Which of two that score alike comes first is open: each box has its like on the other side.
        apart = torch.cdist(torch.tensor(rows), torch.cat([corners, theirs["scores"][:, None]], 1))
        assert max(apart.min(0).values.max(), apart.min(1).values.max()) < RUN


def test_frames_in_chunks_are_frames_one_by_one(detector):
    frames = clip(3)
    together = detector.detect(frames, "dog", 0.0)
    for row, frame in zip(together, frames):
        (alone,) = detector.detect(frame[None], "dog", 0.0)
        assert [b["score"] for b in row] == pytest.approx([b["score"] for b in alone], abs=NETWORK)


@pytest.mark.parametrize("name", FULL)
def test_full_size_names_have_their_place(name):
    """Every official key of true size, without the weights, is a key of transformers' published file and back."""
    from transformers import GroundingDinoForObjectDetection

    keys = official_keys(FULL[name])
    assert names.shape_of(keys) == FULL[name]
    converted = names.to_transformers(keys)
    with torch.device("meta"):
        inside = GroundingDinoForObjectDetection(names.transformers_config(FULL[name]))
    expected = {key: value.shape for key, value in inside.state_dict().items() if "swin.layernorm" not in key}
    assert {in_module(key): value.shape for key, value in converted.items()} == expected


def in_module(key: str) -> str:
    """Names inside transformers 5's Swin, which its loading renames published files to."""
    from transformers import __version__

    if int(__version__.split(".")[0]) < 5:
        return key
    stem = "model.backbone.conv_encoder.model."
    for old, new in ((stem + "encoder.", stem + "swin.encoder."), (stem + "embeddings.", stem + "swin.embeddings.")):
        key = key.replace(old, new)
    if stem in key:
        for old, new in (("attention.self.query", "attention.q_proj"), ("attention.self.key", "attention.k_proj"),
                         ("attention.self.value", "attention.v_proj"), ("attention.output.dense", "attention.o_proj"),
                         ("attention.self.relative", "attention.relative_position_bias.relative"),
                         ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2")):
            key = key.replace(old, new)
    return key


def official_keys(shape: names.Shape) -> dict[str, torch.Tensor]:
    """Official names and shapes, written down from the published checkpoints."""
    out, d, text = {}, shape.width, dict(shape.text)

    def add(name, *size, bias=True):
        out[f"{name}.weight"] = torch.empty(size, device="meta")
        if bias:
            out[f"{name}.bias"] = torch.empty(size[0], device="meta")

    def joint(name, width=d):
        out[f"{name}.in_proj_weight"] = torch.empty(3 * width, width, device="meta")
        out[f"{name}.in_proj_bias"] = torch.empty(3 * width, device="meta")
        add(f"{name}.out_proj", width, width)

    def deformable(name, points):
        heads = shape.heads * shape.levels * points
        add(f"{name}.sampling_offsets", 2 * heads, d)
        add(f"{name}.attention_weights", heads, d)
        add(f"{name}.value_proj", d, d)
        add(f"{name}.output_proj", d, d)

    def head(name):
        for i, size in enumerate(((d, d), (d, d), (4, d))):
            add(f"{name}.layers.{i}", *size)

    add("backbone.0.patch_embed.proj", shape.swin_width, 3, 4, 4)
    add("backbone.0.patch_embed.norm", shape.swin_width)
    for i, (depth, heads) in enumerate(zip(shape.swin_depths, shape.swin_heads)):
        c, span = shape.swin_width << i, (2 * shape.swin_window - 1) ** 2
        for j in range(depth):
            block = f"backbone.0.layers.{i}.blocks.{j}"
            add(f"{block}.norm1", c), add(f"{block}.norm2", c)
            out[f"{block}.attn.relative_position_bias_table"] = torch.empty(span, heads, device="meta")
            out[f"{block}.attn.relative_position_index"] = torch.empty(shape.swin_window**2, shape.swin_window**2,
                                                                       device="meta")
            add(f"{block}.attn.qkv", 3 * c, c), add(f"{block}.attn.proj", c, c)
            add(f"{block}.mlp.fc1", 4 * c, c), add(f"{block}.mlp.fc2", c, 4 * c)
        if i < 3:
            add(f"backbone.0.layers.{i}.downsample.reduction", 2 * c, 4 * c, bias=False)
            add(f"backbone.0.layers.{i}.downsample.norm", 4 * c)
        if i:
            add(f"backbone.0.norm{i}", c)
            add(f"input_proj.{i - 1}.0", d, c, 1, 1), add(f"input_proj.{i - 1}.1", d)
    add("input_proj.3.0", d, shape.swin_width << 3, 3, 3), add("input_proj.3.1", d)
    h, m = text["hidden_size"], text["intermediate_size"]
    for name, rows in (("word", text["vocab_size"]), ("position", text["max_position_embeddings"]), ("token_type", 2)):
        add(f"bert.embeddings.{name}_embeddings", rows, h, bias=False)
    add("bert.embeddings.LayerNorm", h), add("bert.pooler.dense", h, h), add("feat_map", d, h)
    for i in range(text["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            add(f"{layer}.attention.self.{name}", h, h)
        add(f"{layer}.attention.output.dense", h, h), add(f"{layer}.attention.output.LayerNorm", h)
        add(f"{layer}.intermediate.dense", m, h), add(f"{layer}.output.dense", h, m)
        add(f"{layer}.output.LayerNorm", h)
    base = "transformer.encoder"
    for i in range(shape.encoder_layers):
        deformable(f"{base}.layers.{i}.self_attn", shape.encoder_points)
        joint(f"{base}.text_layers.{i}.self_attn")
        for kind, mlp in (("layers", shape.mlp), ("text_layers", shape.mlp // 2)):
            add(f"{base}.{kind}.{i}.norm1", d), add(f"{base}.{kind}.{i}.norm2", d)
            add(f"{base}.{kind}.{i}.linear1", mlp, d), add(f"{base}.{kind}.{i}.linear2", d, mlp)
        fusion, wide = f"{base}.fusion_layers.{i}", shape.mlp // 2
        for side in "vl":
            out[f"{fusion}.gamma_{side}"] = torch.empty(d, device="meta")
            add(f"{fusion}.layer_norm_{side}", d), add(f"{fusion}.attn.{side}_proj", wide, d)
            add(f"{fusion}.attn.values_{side}_proj", wide, d), add(f"{fusion}.attn.out_{side}_proj", d, wide)
    for i in range(shape.decoder_layers):
        layer = f"transformer.decoder.layers.{i}"
        deformable(f"{layer}.cross_attn", shape.decoder_points)
        joint(f"{layer}.ca_text"), joint(f"{layer}.self_attn")
        for name in ("norm1", "catext_norm", "norm2", "norm3"):
            add(f"{layer}.{name}", d)
        add(f"{layer}.linear1", shape.mlp, d), add(f"{layer}.linear2", d, shape.mlp)
        head(f"transformer.decoder.bbox_embed.{i}"), head(f"bbox_embed.{i}")
    add("transformer.decoder.norm", d), add("transformer.tgt_embed", shape.queries, d, bias=False)
    add("transformer.decoder.ref_point_head.layers.0", d, 2 * d)
    add("transformer.decoder.ref_point_head.layers.1", d, d)
    out["transformer.level_embed"] = torch.empty(shape.levels, d, device="meta")
    add("transformer.enc_output", d, d), add("transformer.enc_output_norm", d)
    head("transformer.enc_out_bbox_embed")
    add("label_enc", 2001, d, bias=False)
    return out


@pytest.mark.parametrize("text, wanted", [
    ("Dog", "dog ."), ("dog . red ball", "dog . red ball ."), ("a Dog.\n red  ball. ", "a dog . red ball .")])
def test_text_as_the_network_reads_it(text, wanted):
    assert prepared_text(text) == wanted


def test_labels_are_the_words_of_a_box(detector):
    tokens = detector.tokens("a dog . red ball .")
    chosen = torch.zeros(256, dtype=torch.bool)
    chosen[[0, 4, 5, 6]] = True  # the start, "red", "ball" and the full stop
    assert isinstance(tokens, Tokens) and detector.words(chosen, tokens.ids[0]) == "red ball"


@pytest.mark.parametrize("text, message", [("  . ", "text: is empty"), ("dog " * 300, "text: has 303 tokens")])
def test_bad_text_is_told(detector, text, message):
    with pytest.raises(ValueError, match=message):
        detector.detect(clip(1), text)


@pytest.mark.parametrize("size, wanted", [((75, 53), (1132, 800)), ((512, 512), (800, 800)), ((800, 900), (800, 900)),
                                          ((1080, 1920), (750, 1333)), ((400, 100), (1332, 333))])
def test_the_scaled_size(size, wanted):
    assert scaled_size(*size) == wanted


def test_what_is_no_checkpoint_is_told(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="'other.pth' is no Grounding DINO checkpoint .*groundingdino_swint_ogc.pth"):
        loading.load_detector(tmp_path / "other.pth")
    torch.save({"model": {names.MARK: torch.zeros(2, 2)}}, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="'short.pth' lacks weights"):
        loading.load_detector(tmp_path / "short.pth")
    with pytest.raises(ValueError, match="the folder .* is no Grounding DINO"):
        loading.load_detector(tmp_path)


def test_the_tokenizer_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="put vocab.txt of bert-base-uncased there"):
        loading.find_tokenizer([tmp_path])


def test_boxes_are_drawn_on_a_copy():
    frames = clip(1)
    shown = draw_boxes(frames, [[{"x": 5, "y": 30, "width": 20, "height": 20, "label": "dog", "score": 0.5}]])
    assert shown.shape == frames.shape and not torch.equal(shown, frames)
    assert torch.equal(shown[:, 60:], frames[:, 60:])
