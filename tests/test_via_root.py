"""The root frame: what is scored, what is refused, one prompt a frame, and a right edit of the toy world."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from double import RecordedProgress
from steadyedit.backends.diffusers import DiffusersBackend
from steadyedit.methods.preview import numbered
from steadyedit.methods.via.candidates import chosen_frame, preservation, root_candidates, score, scored
from steadyedit.methods.via.per_frame import lines_of, one_condition, rows_for, rows_of
from steadyedit.methods.via.root import check_candidates, whole_cells
from tolerances import FLOAT32, FLOAT32_STEP, NETWORK, assert_close

SIZE = 16


def image(seed: int = 0, count: int = 1, size: int = SIZE):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


class Compass:
    """A backend whose texts are letters along axes, and whose pictures lie where their mean colour says."""

    def text_embedding(self, clip, text):
        axes = {"": (0, 0, 0), "red": (1, 0, 0), "green": (0, 1, 0), "make it green": (0, 2, 0)}
        return torch.tensor([axes[text][: clip.width]], dtype=torch.float32)

    def image_embeddings(self, clip_vision, images):
        return images.mean((1, 2))


CLIP, VISION = SimpleNamespace(width=3), object()


def flat(*colour):
    return torch.tensor(colour).expand(1, SIZE, SIZE, 3).clone()


def choose(candidates, captions=("red", "green"), instruction="", masks=None, frame=0, clip=CLIP, weight=0.5):
    return scored(Compass(), flat(0.5, 0.5, 0.5), candidates, clip, VISION, captions, instruction, masks, frame, weight)


def test_the_candidate_that_moves_with_the_text_is_best():
    """Red to green is less red and more green."""
    candidates = torch.cat([flat(0.9, 0.5, 0.5), flat(0.5, 0.5, 0.9), flat(0.2, 0.8, 0.5), flat(0.5, 0.5, 0.5)])
    found = choose(candidates)
    assert found.best == 2
    assert torch.allclose(found.direction, torch.tensor([-0.5**0.5, 0.0, 1.0, 0.0]), atol=FLOAT32)
    assert found.lines().splitlines()[2].startswith("3: ")


def test_without_captions_the_instruction_is_the_direction():
    candidates = torch.cat([flat(0.9, 0.5, 0.5), flat(0.5, 0.9, 0.5)])
    found = choose(candidates, captions=("", ""), instruction="make it green")
    assert found.best == 1 and found.direction[1] == pytest.approx(1)


def test_preservation_is_looked_for_outside_the_mask():
    source, mask = flat(0.5, 0.5, 0.5), torch.zeros(SIZE, SIZE)
    mask[:, :8] = 1
    inside, outside = source.clone(), source.clone()
    inside[:, :, :8], outside[:, :, 8:] = 0.9, 0.6
    kept = preservation(source, torch.cat([inside, outside, source]), mask)
    # 20 dB of 40 where all pixels are off by a tenth.
    assert torch.allclose(kept, torch.tensor([1.0, 0.5, 1.0]), atol=NETWORK)
    whole = preservation(source, torch.cat([inside, outside]), None)
    assert whole[0] < whole[1] < 1


def test_its_weight_decides_between_a_bold_and_a_careful_edit():
    source, mask = flat(0.5, 0.5, 0.5), torch.zeros(SIZE, SIZE)
    mask[4:8, 4:8] = 1
    careful, bold = source.clone(), flat(0.1, 0.9, 0.5)
    careful[:, 4:8, 4:8] = torch.tensor([0.5, 0.9, 0.5])
    embeddings = torch.cat([careful, bold]).mean((1, 2))
    for weight, best in ((0.0, 1), (1.0, 0)):
        assert score(source, torch.cat([careful, bold]), source.mean((1, 2)), embeddings,
                     torch.tensor([-1.0, 1.0, 0.0]), mask, weight).best == best  # fmt: skip


def test_the_mask_is_the_frames_own():
    masks = torch.zeros(3, SIZE, SIZE)
    masks[2, :, 8:] = 1
    edit = flat(0.5, 0.5, 0.5)
    edit[:, :, 8:] = torch.tensor([0.2, 0.8, 0.5])
    assert choose(edit, masks=masks, frame=2).kept[0] == 1 > choose(edit, masks=masks, frame=1).kept[0]


@pytest.mark.parametrize(("options", "message"), [
    ({"clip": None}, "index: 0 chooses automatically, which needs clip and clip_vision; .* 1 to 1"),
    ({"captions": ("", "")}, "instruction: nothing says what the edit should show"),
    ({"captions": ("red", "")}, "instruction: nothing says"),
    ({"clip": SimpleNamespace(width=2)}, "clip_vision: has 3 dimensions, but clip 2; load the two encoders of one"),
    ({"masks": torch.zeros(2, SIZE, SIZE), "frame": 2}, "frame: 2, but there are 2 masks"),
    ({"masks": torch.zeros(1, SIZE, SIZE + 1)}, "mask: is 17x16, but the frame 16x16"),
    ({"masks": torch.ones(1, SIZE, SIZE)}, "mask: covers the whole picture"),
])  # fmt: skip
def test_what_cannot_be_scored_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        choose(flat(0.2, 0.8, 0.5), **options)


@pytest.mark.parametrize(("candidates", "source", "index", "message"), [
    (image(count=3), image(), 4, "index: 4, but there are 3 candidates; use 1 to 3, or 0"),
    (image(count=3), image(count=2), 1, "source_frame: holds 2 images"),
    (image(size=24), image(), 1, "candidates: are 24x24, but source_frame is 16x16"),
])  # fmt: skip
def test_candidates_of_another_frame_are_refused(candidates, source, index, message):
    with pytest.raises(ValueError, match=message):
        check_candidates(candidates, source, index)


def test_a_frame_is_chosen_or_drawn():
    assert chosen_frame(3, 4, seed=0) == 3
    drawn = {chosen_frame(-1, 4, seed) for seed in range(40)}
    assert drawn == {0, 1, 2, 3} and chosen_frame(-1, 4, 7) == chosen_frame(-1, 4, 7)
    assert chosen_frame(-1, 1, seed=9) == 0
    with pytest.raises(ValueError, match="frame: 4, but the clip has 4 frames, counted from 0; use at most 3"):
        chosen_frame(4, 4, seed=0)


def test_odd_sizes_lose_their_rim_evenly():
    images = torch.arange(20 * 27).view(1, 20, 27, 1)
    assert whole_cells(images).equal(images[:, 2:18, 1:25])
    with pytest.raises(ValueError, match="images: are 9x7, smaller than one latent cell"):
        whole_cells(torch.zeros(1, 7, 9, 3))


def test_the_preview_bears_numbers_and_marks_the_choice():
    images = image(count=3, size=64)
    shown = numbered(images, ["1", "2", "3"], chosen=1)
    assert shown.shape == images.shape and not images.equal(shown)
    assert (shown[:, 32:] - images[:, 32:]).abs().max() <= 0.5 / 255 + FLOAT32_STEP
    corners = shown[:, :6, :6].mean((1, 2))
    assert corners[1].sum() < corners[0].sum() and len({c.numpy().tobytes() for c in shown[:, :20, :20]}) == 3


def test_lines_become_one_prompt_a_frame():
    assert lines_of("\n a \n\nb\n\n") == ["a", "", "b"] and lines_of(" \n") == []
    assert rows_for(2, 5, True) == [0, 0, 0, 1, 1] and rows_for(3, None, False) == [0, 1, 2]
    for frames, spread in ((3, False), (1, True), (1, False)):
        with pytest.raises(ValueError, match=f"text: holds 2 lines, but the clip has {frames} frames"):
            rows_for(2, frames, spread)
    with pytest.raises(ValueError, match="conditioning: holds 2 rows, but the clip has 3 frames"):
        rows_for(2, 3, False, "conditioning")
    with pytest.raises(ValueError, match="text: holds no prompt"):
        rows_for(0, 3, True)
    with pytest.raises(ValueError, match="spread: the length of the clip is not known; connect images"):
        rows_for(2, None, True)


def encoded(rows, tokens, **extra):
    return [torch.rand(rows, tokens, 5), extra]


def test_a_batch_of_prompts_is_its_own_rows():
    batch = [encoded(3, 4, pooled_output=torch.rand(3, 6), width=64)]
    ((text, extra),) = one_condition(rows_of(batch))
    assert text.equal(batch[0][0]) and extra["pooled_output"].equal(batch[0][1]["pooled_output"])
    assert extra["width"] == 64


def test_conditionings_that_were_put_together_are_rows_in_order():
    """As Conditioning (Combine) and a loop's list hand them over; one picture for all stays one."""
    picture = torch.rand(1, 4, 2, 2)
    parts = [encoded(1, 4, guidance=3.5), encoded(2, 4, guidance=3.5), encoded(1, 4, guidance=3.5)]
    ((text, extra),) = one_condition(rows_of(parts))
    assert text.equal(torch.cat([part[0] for part in parts])) and extra == {"guidance": 3.5}
    parts[1][1]["guidance"] = 2.0
    with pytest.raises(ValueError, match="^conditioning: guidance differs from frame to frame and has no row"):
        one_condition(rows_of(parts))
    shown = [encoded(1, 4, concat_latent_image=torch.rand(1, 4, 2, 2)) for _ in range(2)]
    assert one_condition(rows_of(shown))[0][1]["concat_latent_image"].shape == (2, 4, 2, 2)
    same = [encoded(1, 4, reference_latents=[picture]) for _ in range(2)]
    assert one_condition(rows_of(same))[0][1]["reference_latents"][0] is picture


def test_tokens_of_a_multimodal_model_keep_what_attention_sees():
    """Unlike lengths and masks, as MGIE's tokens have them: attention over a row gives what it gave alone."""
    one, two = encoded(1, 2), encoded(1, 3, attention_mask=torch.tensor([[1, 1, 0]]))
    ((text, extra),) = one_condition(rows_of([one, two]))
    query = torch.rand(7, 5)

    def attention(keys, mask):
        logits = (query @ keys.T).masked_fill(mask == 0, -torch.inf)
        return logits.softmax(-1) @ keys

    for row, (alone, mask) in enumerate(((one[0][0], torch.ones(2)), (two[0][0], torch.tensor([1, 1, 0])))):
        assert_close(attention(text[row], extra["attention_mask"][row]), attention(alone, mask))


def test_prompts_of_any_length_become_the_rows_of_one_condition():
    short, long = (torch.rand(1, tokens, 5) for tokens in (2, 3))
    pooled = torch.rand(2, 1, 4)
    ((rows, extra),) = one_condition([[[short, {"pooled_output": pooled[0]}]], [[long, {"pooled_output": pooled[1]}]]])
    assert rows.shape == (2, 6, 5) and rows[0].equal(short[0].repeat(3, 1)) and rows[1].equal(long[0].repeat(2, 1))
    assert extra["pooled_output"].equal(pooled[:, 0])
    with pytest.raises(ValueError, match="clip: gives several conditions"):
        one_condition([[[short, {}], [long, {}]]])
    with pytest.raises(ValueError, match="conditioning: prompts of 4 and 5 channels do not fit together"):
        one_condition([[[short, {}]], [[short[..., :4], {}]]])


def test_candidates_of_the_toy_editor_are_right():
    """A still of the test split, edited by the trained editor; the classifier names what it shows, CLIP what fits."""
    from steadyedit.toyworld import apply_edit, edits_of, render, sample_scene
    from steadyedit.toyworld.models.classifier import boxes_of
    from steadyedit.toyworld.models.judge import classify

    scene = sample_scene(3, "test", frames=1, size=128)
    edit = next(e for e in edits_of(scene) if e.kind == "colour")
    clip, answer = render(scene), render(apply_edit(scene, edit))
    backend = DiffusersBackend()
    model, encoder, vae = backend.load_toy_editor()
    told, silent = (encoder.encode_from_tokens_scheduled(encoder.tokenize(said)) for said in (edit.instruction, ""))
    bar = RecordedProgress()
    found = root_candidates(backend, model, vae, clip.frames, told, silent, [0, 1], steps=6, text_guidance=3.0,
                            image_guidance=1.2, progress=bar)  # fmt: skip
    assert found.shape == (2, 128, 128, 3) and bar.values == list(range(1, 13))
    assert classify(found, boxes_of(clip.masks[0].expand(2, -1, -1)))["colour"] == [edit.target] * 2
    # The seed alone gives a candidate again, and an unedited frame is never the best.
    again = root_candidates(backend, model, vae, clip.frames, told, silent, [1], steps=6, text_guidance=3.0,
                            image_guidance=1.2, progress=RecordedProgress())  # fmt: skip
    assert again[0].equal(found[1])
    scores = scored(backend, clip.frames, torch.cat([clip.frames, found]), *backend.load_toy_clip(),
                    (clip.caption, answer.caption), "", clip.masks[0], 0, 0.5)  # fmt: skip
    assert scores.best > 0 and scores.direction[1:].min() > 0.5
