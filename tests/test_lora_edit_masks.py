"""Boxes, packing and condition of LoRA-Edit against constructions written frame by frame and pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steadyedit.methods.lora_edit import condition as c
from steadyedit.methods.lora_edit.clips import clip_ranges
from steadyedit.methods.lora_edit.masks import boxes, hard, silhouettes
from steadyedit.methods.lora_edit.packing import latent_frames, packed, packed_single, pooled
from steadyedit.methods.lora_edit.samples import frame_sample, mask_samples

LENGTHS = (1, 5, 13, 49, 81)
SIZES = {"landscape": (32, 48), "portrait": (48, 32)}
TEXT = [[torch.zeros(1, 2, 3), {}]]


def video_of(frames, height, width, seed=0):
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed))


def mask_of(frames, height, width, soft, seed=1):
    """A spot that wanders, its edge soft or hard; one frame has a single pixel."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((frames, height, width), np.float32)
    for number in range(frames):
        top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
        mask[number, top : top + 11, left : left + 9] = 1
        if soft:
            mask[number, top + 2 : top + 5, left] = 0.3
            mask[number, top, left : left + 4] = 0.7
    mask[-1] = 0
    mask[-1, height - 9, 17] = 1
    return torch.from_numpy(mask)


class CountingVAE:
    """Mean over cells and frames in the causal VAE's pattern; counts its calls."""

    def __init__(self):
        self.seen = []

    def encode(self, images):
        self.seen.append(images.clone())
        cells = images.reshape(len(images), images.shape[1] // 8, 8, images.shape[2] // 8, 8, 3).mean((2, 4))
        frames = [cells[:1].mean(0)] + [cells[i : i + 4].mean(0) for i in range(1, len(cells), 4)]
        latent = torch.stack(frames).permute(3, 0, 1, 2)[None]
        return latent.repeat(1, 6, 1, 1, 1)[:, :16]


def cell_by_hand(mask, row, column, pooling):
    if pooling == "official":
        return mask[row * 8, column * 8]
    return max(mask[row * 8 + i, column * 8 + j] for i in range(8) for j in range(8))


def network_mask_by_hand(keep_pixels, pooling):
    """The paper's M of the network, 1 keeps: [4, T', h, w], frame 0 four times, then four frames a latent frame."""
    frames = [keep_pixels[0]] * 4 + list(keep_pixels[1:])
    height, width = keep_pixels.shape[1] // 8, keep_pixels.shape[2] // 8
    out = np.empty((4, len(frames) // 4, height, width), np.float32)
    for number, frame in enumerate(frames):
        generate = 1 - frame
        for row in range(height):
            for column in range(width):
                out[number % 4, number // 4, row, column] = 1 - cell_by_hand(generate, row, column, pooling)
    return out


@pytest.mark.parametrize("orientation", SIZES)
@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("pooling", ["any", "official"])
def test_the_condition_is_the_papers_to_the_bit(frames, orientation, soft, pooling):
    height, width = SIZES[orientation]
    video, mask = video_of(frames, height, width), mask_of(frames, height, width, soft)
    keep = "outside, first frame" if frames > 1 else "outside"
    vae, edited = CountingVAE(), video_of(1, height, width, seed=7)
    generate = c.generated(video, mask, keep, soft)
    found = c.condition(vae.encode, video, generate, pooling=pooling, first=edited)

    generate_by_hand = mask.numpy() if soft else (mask.numpy() >= 0.5).astype(np.float32)
    generate_by_hand = generate_by_hand.copy()
    pixels = video.numpy().copy()
    pixels[0] = edited[0].numpy()
    if frames > 1:
        generate_by_hand[0] = 0
    for frame, region in zip(pixels, generate_by_hand, strict=True):
        for row in range(height):
            for column in range(width):
                g = region[row, column]
                frame[row, column] = frame[row, column] * (np.float32(1) - g) + np.float32(0.5) * g
    expected_keep = network_mask_by_hand(1 - generate_by_hand, pooling)
    assert np.array_equal(1 - found.concat_mask[0].numpy(), expected_keep)
    assert found.concat_mask.shape == (1, 4, (frames - 1) // 4 + 1, height // 8, width // 8)
    assert len(vae.seen) == 1, "one encode of the whole pseudo-video"
    assert np.array_equal(vae.seen[0].numpy(), pixels)
    assert torch.equal(found.concat_latent_image, CountingVAE().encode(torch.from_numpy(pixels)))


@pytest.mark.parametrize(("gray", "level"), [("mid-gray", 0.5), ("official", 128 / 255)])
def test_the_gray_is_the_networks_zero_or_the_authors(gray, level):
    """In clip and frame samples and in use alike; pictures of 8 bits hold the authors' exactly."""
    video, mask = video_of(5, 32, 48), mask_of(5, 32, 48, False)
    hidden, expected = mask > 0, torch.tensor(level)
    clip, frame, used = CountingVAE(), CountingVAE(), CountingVAE()
    mask_samples(clip.encode, video, mask, TEXT, keep="outside", gray=gray)
    frame_sample(frame.encode, video[1:2], video[1:2], mask[1:2], TEXT, gray=gray)
    c.condition(used.encode, video, c.generated(video, mask, "outside"), gray=gray)
    for seen, region in ((clip.seen[0], hidden), (frame.seen[0], hidden[1:2]), (used.seen[0], hidden)):
        assert (seen[region] == expected).all()
    assert torch.equal(used.seen[0][~hidden], video[~hidden])
    assert (expected * 255 == 128) == (gray == "official") and (expected * 2 - 1 == 0) == (gray == "mid-gray")


def test_an_unknown_gray_is_refused():
    video = video_of(5, 32, 48)
    with pytest.raises(ValueError, match="gray: 'grey' is none of mid-gray, official"):
        c.condition(CountingVAE().encode, video, c.generated(video, None, "nothing"), gray="grey")


@pytest.mark.parametrize("frames", LENGTHS)
def test_hunyuan_has_one_channel_and_no_lost_frame(frames):
    height, width = SIZES["landscape"]
    video, mask = video_of(frames, height, width), mask_of(frames, height, width, soft=True)
    keep = "outside, first frame" if frames > 1 else "outside"
    found = c.condition(CountingVAE().encode, video, c.generated(video, mask, keep, True), family=c.HUNYUAN)
    by_hand = (mask.numpy() >= 0.5).astype(np.float32)
    if frames > 1:
        by_hand[0] = 0
    four = 1 - network_mask_by_hand(1 - by_hand, "any")
    assert np.array_equal(found.concat_mask[0, 0].numpy(), four.max(0))
    assert torch.equal(found.concat_mask, found.concat_mask.round()), "the host rounds it"


@pytest.mark.parametrize("row, column", [(0, 0), (7, 7), (8, 15), (31, 47), (20, 33)])
@pytest.mark.parametrize("frame", range(5))
def test_one_pixel_keeps_its_cell(frame, row, column):
    mask = torch.zeros(5, 32, 48)
    mask[frame, row, column] = 1
    cells = packed(pooled(mask))[0]
    latent, channel = (0, [0, 1, 2, 3]) if frame == 0 else ((frame - 1) // 4 + 1, [(frame - 1) % 4])
    expected = torch.zeros(4, 2, 4, 6)
    expected[channel, latent, row // 8, column // 8] = 1
    assert torch.equal(cells, expected)
    assert packed_single(pooled(mask))[0, 0, latent, row // 8, column // 8] == 1


def test_the_four_configurations_of_the_papers_figure_2():
    video, mask = video_of(5, 32, 48), mask_of(5, 32, 48, False)
    first = torch.zeros(5, 32, 48)
    first[1:] = 1
    assert torch.equal(c.generated(video, None, "first frame"), first)
    assert torch.equal(c.generated(video, None, "nothing"), torch.ones(5, 32, 48))
    assert torch.equal(c.generated(video, None, "everything"), torch.zeros(5, 32, 48))
    third = mask.clone()
    third[0] = 0
    assert torch.equal(c.generated(video, mask, "outside, first frame"), third)
    assert torch.equal(c.generated(video, mask, "outside"), mask)


def test_hunyuan_with_the_first_frame_alone_is_its_own_default():
    video = video_of(5, 32, 48)
    vae = CountingVAE()
    found = c.condition(vae.encode, video, c.generated(video, None, "first frame"), family=c.HUNYUAN)
    assert found.concat_latent_image.shape[2] == 1 and torch.equal(vae.seen[0], video[:1])
    assert found.concat_mask.shape == (1, 1, 2, 4, 6)
    assert found.concat_mask[:, :, 0].sum() == 0 and found.concat_mask[:, :, 1].min() == 1


def test_boxes_one_per_contour_grown_and_small_ones_dropped():
    mask = torch.zeros(2, 64, 96)
    mask[0, 10:30, 20:60] = 1  # 20 x 40: grown by 1 and 2
    mask[0, 50:57, 2:9] = 1  # a box of 49 pixels: dropped
    mask[1, 40:64, 70:96] = 1  # at the border: grown by 1 inwards only
    ring = torch.zeros(64, 96)
    ring[2:32, 2:32] = 1
    ring[8:26, 8:26] = 0
    ring[12:22, 12:22] = 1  # inside a hole: no contour of its own
    expected = torch.zeros(2, 64, 96)
    expected[0, 9:31, 18:62] = 1
    expected[1, 39:64, 69:96] = 1
    assert torch.equal(boxes(mask), expected)
    grown = torch.zeros(1, 64, 96)
    grown[0, 1:33, 1:33] = 1
    assert torch.equal(boxes(ring[None]), grown)


def test_boxes_join_diagonal_neighbours_and_count_from_50():
    mask = torch.zeros(1, 64, 64)
    mask[0, 10:15, 10:15] = 1  # a box of 25 pixels alone
    assert boxes(mask, growth=0).sum() == 0
    mask[0, 15:20, 15:20] = 1  # touches by a corner: a box of 100
    assert boxes(mask, growth=0)[0].sum() == 100
    mask[:] = 0
    mask[0, 30, 4:54] = 1  # a line of 50 pixels
    assert boxes(mask, growth=0).sum() == 50
    mask[:] = 0
    mask[0].fill_diagonal_(1)  # few pixels, a large box
    mask[0, 8:] = 0
    assert boxes(mask, growth=0).sum() == 64


def test_boxes_grow_as_the_authors_grow_them():
    """int(0.1 x side) in all, half on each side: 300x200 becomes 330x220; so at every size."""
    mask = torch.zeros(1, 400, 500)
    mask[0, 100:300, 100:400] = 1
    (rows, columns) = (boxes(mask)[0].any(axis).sum().item() for axis in (1, 0))
    assert (columns, rows) == (330, 220)
    for side in range(8, 300, 7):
        mask[:] = 0
        mask[0, 50:60, 100 : 100 + side] = 1
        assert boxes(mask)[0].any(0).sum() == side + 2 * (int(0.1 * side) // 2)


def test_silhouettes_grow_by_pixels():
    mask = torch.zeros(1, 16, 16)
    mask[0, 8, 8] = 0.6
    mask[0, 2, 2] = 0.4
    grown = silhouettes(mask, 2)
    assert grown.sum() == 25 and grown[0, 6:11, 6:11].min() == 1
    assert torch.equal(silhouettes(mask, 0), hard(mask))


@pytest.mark.parametrize("frames, length, expected", [
    (49, 13, [(0, 13), (12, 25), (24, 37), (36, 49)]),
    (49, 0, [(0, 49)]),
    (13, 13, [(0, 13)]),
    (13, 49, [(0, 13)]),
    (81, 13, [(0, 13), (12, 25), (24, 37), (36, 49), (48, 61), (60, 73), (68, 81)]),
    (9, 5, [(0, 5), (4, 9)]),
])  # fmt: skip
def test_low_cost_clips_overlap_by_a_frame(frames, length, expected):
    assert [(r.start, r.stop) for r in clip_ranges(frames, length)] == expected


@pytest.mark.parametrize("call, words", [
    (lambda v, m: c.check_video("video", v[:4]), ("video", "4 frames", "1 or 5")),
    (lambda v, m: c.check_video("video", video_of(5, 40, 48)), ("video", "48x40", "divide by 16", "32 or 48")),
    (lambda v, m: c.check_mask("mask", m * 0, v), ("mask", "selects nothing")),
    (lambda v, m: c.check_mask("mask", m * 0 + 1, v), ("mask", "every pixel")),
    (lambda v, m: c.check_mask("mask", None, v), ("mask", "missing")),
    (lambda v, m: c.check_mask("mask", m[:, :16], v), ("mask", "48x32")),
    (lambda v, m: c.condition(CountingVAE().encode, v, m, first=video_of(1, 64, 48)), ("edited_first_frame", "48x64")),
    (lambda v, m: frame_sample(CountingVAE().encode, v[:1], video_of(1, 64, 48), m[:1], TEXT),
     ("edited_frame", "1 of 48x64", "48x32")),
    (lambda v, m: frame_sample(CountingVAE().encode, v[:1], video_of(1, 16, 48), m[:1], TEXT),
     ("edited_frame", "1 of 48x16", "48x32")),
    (lambda v, m: frame_sample(CountingVAE().encode, v, v, m, TEXT), ("original_frame", "5 frames")),
    (lambda v, m: c.condition(CountingVAE().encode, v, m, family=c.HUNYUAN_2), ("family", "no mask channel")),
    (lambda v, m: c.condition(lambda i: i[None], v, m), ("vae", "video VAE")),
    (lambda v, m: clip_ranges(48, 13), ("video", "48 frames", "45 or 49")),
    (lambda v, m: clip_ranges(49, 12), ("clip_length", "9 or 13")),
])  # fmt: skip
def test_bad_input_is_one_sentence_that_names_the_input(call, words):
    with pytest.raises(ValueError) as told:
        call(video_of(5, 32, 48), mask_of(5, 32, 48, False))
    message = str(told.value)
    assert message.startswith(words[0] + ":") and all(word in message for word in words)


def test_a_frame_is_picked_by_its_number_and_never_another_one():
    from steadyedit.methods.lora_edit.samples import picked

    clip, masks = torch.rand(5, 8, 8, 3), torch.rand(5, 8, 8)
    frame, mask = picked(3, clip, masks)
    assert torch.equal(frame, clip[3:4]) and torch.equal(mask, masks[3:4])
    assert torch.equal(picked(3, clip, masks[0])[1], masks[:1]) and picked(0, clip, None)[1] is None
    assert picked(-1, clip, masks) == (clip, masks)
    with pytest.raises(ValueError, match="^frame: 24, but original_frame holds 5 frames"):
        picked(24, clip, masks)
    with pytest.raises(ValueError, match="^mask: 4 masks, but original_frame holds 5 frames"):
        picked(2, clip, masks[:4])


def test_a_sample_s_prompt_is_at_work_at_every_noise_level():
    from steadyedit.methods.lora_edit.samples import one_entry

    text = torch.zeros(1, 3, 4)
    assert one_entry("positive", [[text, {"start_percent": 0.0, "end_percent": 1.0}]])
    with pytest.raises(ValueError, match="^positive: no prompt is at work from 50% of the steps on"):
        one_entry("positive", [[text, {"start_percent": 0.0, "end_percent": 0.5}]])


def test_the_first_frame_is_encoded_alone_then_four_at_a_time():
    assert [latent_frames(frames) for frames in (1, 2, 4, 5, 6, 8, 9, 81)] == [1, 1, 1, 2, 2, 2, 3, 21]
