"""Segment Anything 1 and 2: masks equal transformers' own way from a picture to a mask, and files are told apart."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from steadyedit.vision.segmentation import Prompt, names, segment_frame
from steadyedit.vision.segmentation import load as loading
from steadyedit.vision.segmentation.geometry import scaled_size, squares
from steadyedit.vision.segmentation.sam import Sam, TransformersEngine
from tiny_vision import FULL_SAM, SAM2_SIDE, TINY_SAM, clip, sam2_configs, shaken
from tolerances import FLOAT32, FLOAT32_STEP, NETWORK

BOXES = torch.tensor([[5.0, 6, 30, 40], [10, 10, 52, 70]])
POINTS = torch.tensor([[[20.0, 30]], [[40, 60]]])
LABELS = torch.tensor([[1.0], [1]])
PROMPTS = {
    "boxes": Prompt(boxes=BOXES), "points": Prompt(points=POINTS, labels=LABELS),
    "points of both kinds": Prompt(points=POINTS.expand(2, 2, 2) + torch.tensor([0.0, 3]),
                                   labels=torch.tensor([[1.0, 0], [0, 1]])),
    "boxes with points": Prompt(boxes=BOXES, points=POINTS, labels=LABELS),
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return shaken(lambda: loading.build_transformers(TINY_SAM))


@pytest.fixture(scope="module")
def sam2_folders(tmp_path_factory):
    from transformers import Sam2Model, Sam2VideoModel

    folder = tmp_path_factory.mktemp("sams")
    image, video = sam2_configs()
    shaken(lambda: Sam2Model(image)).save_pretrained(folder / "image")
    shaken(lambda: Sam2VideoModel(video)).save_pretrained(folder / "video")
    return folder


def theirs(processor, model, frame, prompt: Prompt, pixels, multimask: bool):
    """Masks and scores through transformers' processor and its one-call forward, on the same pixels."""
    rows = {f"input_{name}": [getattr(prompt, name).tolist()] for name in ("boxes", "points", "labels")
            if getattr(prompt, name) is not None}
    if "input_labels" in rows:
        rows["input_labels"] = [prompt.labels.int().tolist()]
    inputs = dict(processor(images=(frame * 255).round().byte().numpy(), return_tensors="pt", **rows))
    sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
    inputs["pixel_values"] = pixels
    with torch.no_grad():
        done = model(**inputs, multimask_output=multimask)
    return processor.post_process_masks(done.pred_masks, *sizes, binarize=False)[0], done.iou_scores[0]


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_masks_equal_transformers_own_way(network, prompt, multimask):
    from transformers import SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    frames, side = clip(), TINY_SAM.side
    images = SamImageProcessorPil(size={"longest_edge": side}, mask_size={"longest_edge": side // 4},
                                  pad_size={"height": side, "width": side},
                                  mask_pad_size={"height": side // 4, "width": side // 4})
    processor = SamProcessor(images)
    processor.target_size = side
    sam = Sam(TransformersEngine(network))
    own = images(images=(frames[1] * 255).round().byte().numpy(), return_tensors="pt").pixel_values
    torch.testing.assert_close(squares(frames[1:], side), own, atol=FLOAT32, rtol=0)
    masks, scores = theirs(processor, network, frames[1], PROMPTS[prompt], squares(frames[1:], side), multimask)
    got = sam.predict(sam.encode(frames)[1], PROMPTS[prompt], multimask)
    assert got.masks.shape == (2, 3 if multimask else 1, 75, 53)
    torch.testing.assert_close(got.masks, masks, atol=FLOAT32, rtol=FLOAT32)
    torch.testing.assert_close(got.scores, scores, atol=FLOAT32, rtol=FLOAT32)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_sam2_masks_equal_transformers_own_way(sam2_folders, prompt, multimask):
    pytest.importorskip("torchvision", reason="SAM 2's processor needs torchvision")
    from transformers import Sam2ImageProcessor, Sam2Processor

    sam = loading.load_segmenter(sam2_folders / "image")
    processor = Sam2Processor(Sam2ImageProcessor(size={"height": SAM2_SIDE, "width": SAM2_SIDE}),
                              target_size=SAM2_SIDE)
    frames = clip()
    from steadyedit.vision.segmentation.sam2 import stretched

    masks, scores = theirs(processor, sam.module, frames[1], PROMPTS[prompt], stretched(frames[1:], SAM2_SIDE),
                           multimask)
    got = sam.predict(sam.encode(frames)[1], PROMPTS[prompt], multimask)
    torch.testing.assert_close(got.masks, masks, atol=FLOAT32, rtol=FLOAT32)
    torch.testing.assert_close(got.scores, scores, atol=FLOAT32, rtol=FLOAT32)


@pytest.mark.parametrize("kind", ["sam", "image", "video"])
def test_frames_in_chunks_are_frames_one_by_one(network, sam2_folders, kind):
    sam = Sam(TransformersEngine(network)) if kind == "sam" else loading.load_segmenter(sam2_folders / kind)
    frames = clip(3)
    for together, alone in zip(sam.encode(frames), frames):
        prompt = Prompt(boxes=BOXES)
        one = segment_frame(sam, sam.encode(alone[None])[0], prompt)
        torch.testing.assert_close(segment_frame(sam, together, prompt).masks, one.masks, atol=NETWORK, rtol=NETWORK)


@pytest.mark.parametrize("kind", ["sam", "image", "video"])
def test_a_mask_refines_itself(network, sam2_folders, kind):
    """A prediction's logits go in again, alone or with a box, each object apart from the other."""
    sam = Sam(TransformersEngine(network)) if kind == "sam" else loading.load_segmenter(sam2_folders / kind)
    features = sam.encode(clip(1))[0]
    first = segment_frame(sam, features, Prompt(boxes=BOXES))
    for prompt in (Prompt(logits=first.logits), Prompt(boxes=BOXES, logits=first.logits)):
        both = segment_frame(sam, features, prompt)
        single = Prompt(*(None if part is None else part[1:] for part in (
            prompt.boxes, prompt.points, prompt.labels, prompt.logits)))
        alone = segment_frame(sam, features, single).masks
        torch.testing.assert_close(both.masks[1:], alone, atol=NETWORK, rtol=NETWORK)


def test_one_point_takes_the_best_of_three(network):
    sam = Sam(TransformersEngine(network))
    features, prompt = sam.encode(clip(1))[0], Prompt(points=POINTS, labels=LABELS)
    three, one = sam.predict(features, prompt, multimask=True), segment_frame(sam, features, prompt)
    for k, best in enumerate(three.scores.argmax(1)):
        assert torch.equal(one.masks[k, 0], three.masks[k, best])


def test_half_precision_leaves_the_prompts_alone(network):
    """The encoder is rounded, a few thousandths of its output; coordinates are not."""
    import copy

    features = clip(1)
    whole = Sam(TransformersEngine(network))
    half = Sam(TransformersEngine(copy.deepcopy(network)), torch.bfloat16)
    assert half.module.vision_encoder.patch_embed.projection.weight.dtype is torch.bfloat16
    assert half.module.mask_decoder.iou_token.weight.dtype is torch.float32
    a, b = (segment_frame(sam, sam.encode(features)[0], Prompt(boxes=BOXES)) for sam in (whole, half))
    scale = a.masks.std()
    assert ((a.masks - b.masks).abs().mean() / scale) < 0.05


@pytest.mark.parametrize("name", FULL_SAM)
def test_official_sizes_are_read_off_the_keys(name):
    """True sizes without their weights: every key has its place in transformers' network, and back."""
    with torch.device("meta"):
        module = loading.build_transformers(FULL_SAM[name])
    inside = module.state_dict()
    official = names.official_names(FULL_SAM[name])
    weights = names.to_official(inside, official)
    assert set(names.to_transformers(weights)) == set(inside)
    assert names.shape_of(weights) == FULL_SAM[name]


def test_a_file_with_official_names_is_the_network(network, tmp_path):
    official = names.to_official(network.state_dict(), names.official_names(TINY_SAM))
    wanted = segment_frame(sam := Sam(TransformersEngine(network)), sam.encode(clip(1))[0], Prompt(boxes=BOXES)).masks
    save_file({key: value.contiguous() for key, value in official.items()}, tmp_path / "sam.safetensors")
    torch.save(official, tmp_path / "sam.pth")
    for path in (tmp_path / "sam.safetensors", tmp_path / "sam.pth"):
        sam = loading.load_segmenter(path, engine="transformers")
        masks = segment_frame(sam, sam.encode(clip(1))[0], Prompt(boxes=BOXES)).masks
        torch.testing.assert_close(masks, wanted, atol=FLOAT32_STEP, rtol=0)


def test_a_transformers_folder_is_the_network(network, tmp_path):
    network.save_pretrained(tmp_path / "sam-tiny")
    sam, own = loading.load_segmenter(tmp_path / "sam-tiny"), Sam(TransformersEngine(network))
    masks = [segment_frame(s, s.encode(clip(1))[0], Prompt(boxes=BOXES)).masks for s in (sam, own)]
    torch.testing.assert_close(*masks, atol=FLOAT32_STEP, rtol=0)


def test_tracking_equals_transformers_own_session(sam2_folders):
    """Two given masks, forwards and backwards from the first; memory that is dropped is not missed."""
    from steadyedit.vision.segmentation.sam2 import stretched
    from transformers import Sam2VideoInferenceSession

    sam = loading.load_segmenter(sam2_folders / "video")
    frames = clip(5)
    mask = torch.zeros(75, 53)
    mask[20:40, 20:40] = 1
    seen = []
    masks, sure = sam.track(frames, {1: mask, 3: mask.flip(0)}, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5] and masks.shape == (5, 75, 53) and sure.shape == (5,)
    assert torch.equal(masks[1], mask) and torch.equal(masks[3], mask.flip(0))

    session = Sam2VideoInferenceSession(stretched(frames, SAM2_SIDE), 75, 53, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    with torch.no_grad():
        for number, given in ((1, mask), (3, mask.flip(0))):
            session.add_mask_inputs(index, number, sam._prepared(given))
            session.obj_with_new_inputs = [1]
            sam.module(session, frame_idx=number)
        for backwards in (False, True):
            for answer in sam.module.propagate_in_video_iterator(session, start_frame_idx=1, reverse=backwards):
                if answer.frame_idx not in (1, 3):
                    wanted = sam._at_size(answer.pred_masks, (75, 53))
                    assert torch.equal(masks[answer.frame_idx], wanted), answer.frame_idx


@pytest.mark.parametrize("size, wanted", [((75, 53), (128, 90)), ((53, 75), (90, 128)), ((128, 128), (128, 128)),
                                          ((1080, 1920), (72, 128)), ((1, 400), (0, 128))])
def test_the_scaled_size(size, wanted):
    assert scaled_size(*size, 128) == wanted


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def files(folder):
    """Files that are no checkpoint, each with what the error must say."""
    torch.save({"weights": Evil()}, folder / "code.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"conv.weight": torch.zeros(1)}, folder / "other.pth")
    (folder / "text.pth").write_text("no weights")
    (folder / "text.safetensors").write_text("no weights at all")
    official = names.to_official(loading.build_transformers(TINY_SAM).state_dict(), names.official_names(TINY_SAM))
    torch.save({k: v for k, v in official.items() if "iou_token" not in k}, folder / "short.pth")
    torch.save({k: v for k, v in official.items() if "pos_embed" not in k}, folder / "shorter.pth")
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text('{"model_type": "bert"}')


@pytest.mark.parametrize("name, message", [
    ("code.pth", "'code.pth' is damaged, or a pickle that holds more than weights"),
    ("list.pth", "'list.pth' is a pickle, but not of weights"),
    ("other.pth", "'other.pth' is no Segment Anything checkpoint .*expected sam_vit_b_01ec64.pth"),
    ("text.pth", "'text.pth' is damaged, or a pickle"),
    ("text.safetensors", "'text.safetensors' is damaged or no safetensors file"),
    ("short.pth", "'short.pth' does not fit its architecture: 1 keys .*iou_token"),
    ("shorter.pth", "'shorter.pth' lacks weights of Segment Anything"),
    ("bert", "the folder 'bert' is no SAM .*model_type 'bert'"),
])  # fmt: skip
def test_what_is_no_checkpoint_is_told(tmp_path, capsys, name, message):
    files(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        loading.load_segmenter(tmp_path / name, engine="transformers")
    assert "\n" not in str(caught.value) and "run" not in capsys.readouterr().out
