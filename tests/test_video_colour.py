"""Colours: every matrix and range to the value that its standard defines, HDR to SDR, interlaced to whole."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from steadyedit.video.colour import yuv420
from steadyedit.video.hdr import HLG, PQ, linear, srgb
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip
from tolerances import FLOAT64_CHAIN, NETWORK
from video_files import make_video

LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
LIMITED, FULL = 1, 2
ROUNDS, DRIFT = 10, 2.5  # of 255


def patches(side: int = 64) -> np.ndarray:
    """RGB in 0..1, 4x4 flat squares: grays, primaries, skin, pastel."""
    colours = [[0, 0, 0], [1, 1, 1], [0.5] * 3, [0.1] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1],
               [1, 0, 1], [0.9, 0.7, 0.6], [0.2, 0.3, 0.5], [0.3, 0.6, 0.2], [0.8, 0.4, 0.1], [0.6, 0.5, 0.7],
               [0.95, 0.9, 0.8]]  # fmt: skip
    return np.kron(np.array(colours).reshape(4, 4, 3), np.ones((side // 4, side // 4, 1)))


def stored(image: np.ndarray, matrix: int, full: bool, bits: int = 8) -> np.ndarray:
    """Y'CbCr [3, H, W] by ITU-R BT.601, BT.709 and BT.2020, section by section of their text."""
    red, blue = LUMA[matrix]
    luma = red * image[..., 0] + (1 - red - blue) * image[..., 1] + blue * image[..., 2]
    chroma = (image[..., 2] - luma) / (2 - 2 * blue), (image[..., 0] - luma) / (2 - 2 * red)
    step, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        planes = [luma * top, *(part * top + 128 * step for part in chroma)]
    else:
        planes = [(luma * 219 + 16) * step, *((part * 224 + 128) * step for part in chroma)]
    return np.rint(np.stack(planes)).clip(0, top).astype(np.uint8 if bits == 8 else np.uint16)


def clip_of(path, planes, pixels="yuv420p", matrix=2, range_=0, transfer=2, primaries=2, frames=2):
    """A lossless clip of one picture [3, H, W] in 8 or 16 bits with these tags."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.height, stream.width = planes.shape[1:]
        stream.pix_fmt = pixels
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, range_
        context.color_trc, context.color_primaries = transfer, primaries
        for _ in range(frames):
            if planes.dtype == np.uint8:
                frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            else:
                shifted = (planes << 6).astype(np.uint16)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shifted.transpose(1, 2, 0)), "yuv444p16le")
            frame = frame.reformat(format=pixels, interpolation=4 | 0x40000, src_color_range=range_ or 1,
                                   dst_color_range=range_ or 1, src_colorspace=5, dst_colorspace=5)
            frame.colorspace, frame.color_range = matrix, range_
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def middles(image) -> np.ndarray:
    """The 16 patches' middles, as far from chroma edges as can be."""
    step = image.shape[0] // 4
    return np.asarray(image)[step // 2 :: step, step // 2 :: step]


@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_every_matrix_and_range_is_read_by_its_standard(tmp_path, matrix, full, pixels):
    bits = 10 if "10" in pixels else 8
    planes = stored(patches(), matrix, full, bits)
    path = clip_of(tmp_path / "c.mkv", planes, pixels, matrix, FULL if full else LIMITED)
    # one step of luma and half a step of each chroma, which the file itself has rounded
    step = 255 / (2**bits - 1) * 1.6
    error = np.abs(middles(read_clip(path).frames[0]) - middles(patches())) * 255
    assert error.max() <= step, error.max()


@pytest.mark.parametrize(("size", "matrix"), [((576, 720), 6), ((720, 1280), 1), ((1080, 608), 1), ((240, 320), 6)])
def test_untagged_is_what_players_take_it_for(tmp_path, size, matrix):
    image = np.broadcast_to([0.8, 0.3, 0.2], (*size, 3))
    path = clip_of(tmp_path / "c.mp4", stored(image, matrix, False))
    clip = read_clip(path)
    assert np.abs(clip.frames[0].numpy() - image).max() * 255 < 1.6
    assert f"read as BT.{'709' if matrix == 1 else '601'}" in clip.notes[0]


def lossless(path, image, matrix, full):
    """One picture in 4:2:0, as the codec gets it, without loss behind that."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, FULL if full else LIMITED
        for _ in range(2):
            frame = yuv420(image, matrix, full)
            frame.colorspace, frame.color_range = matrix, FULL if full else LIMITED
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("full", [False, True])
def test_ten_rounds_do_not_drift(tmp_path, matrix, full):
    """Waves to 4:2:0 and back, ten times: each level stays where it is, and at the rim, where half of the chroma is
    made up, where the first round has put it."""
    axis = torch.linspace(0, 2 * torch.pi, 96)
    wave = torch.sin(axis)[:, None] * torch.cos(1.5 * axis)
    begin = image = torch.stack([0.5 + 0.4 * wave, 0.4 + 0.3 * wave.T, 0.5 - 0.3 * wave], -1)
    rounds = []
    for _ in range(ROUNDS):
        image = read_clip(lossless(tmp_path / "round.mkv", image, matrix, full)).frames[0]
        rounds.append(image)
    assert (image - begin).abs().mean() * 255 < 1
    assert (image - begin)[2:-2, 2:-2].abs().max() * 255 <= DRIFT
    # What was read is written as what was stored: nothing at all adds up.
    assert (image - rounds[0]).abs().max() * 255 < 0.5


@pytest.mark.parametrize(("crf", "most"), [(4.0, DRIFT), (16.0, None)])
def test_ten_generations_of_files(tmp_path, crf, most):
    """Where the codec nearly keeps all, nothing creeps; at the usual quality it takes up to three levels of single
    patches itself, and less than one on average."""
    image = torch.tensor(patches(128), dtype=torch.float32).expand(3, -1, -1, -1)
    frames = image
    for index in range(ROUNDS):
        frames = read_clip(write_clip(tmp_path / f"{index}.mp4", frames, 10, crf=crf)).frames
    error = np.abs(middles(frames[1]) - middles(image[1])) * 255
    assert error.mean() < 1 and (most is None or error.max() <= most), error.max()


@pytest.mark.parametrize(("transfer", "white"), [(HLG, 0.75), (PQ, 0.5806)])
def test_hdr_white_is_white_and_told(tmp_path, transfer, white):
    """Reference white of ITU-R BT.2408, 203 cd/m2, comes near 1; black stays, grays stay gray and in order."""
    levels = np.repeat(np.array([0, 0.25 * white, 0.5 * white, 0.8 * white, white, 1.0]), 16)
    image = np.broadcast_to(levels[None, :, None], (32, 96, 3))
    path = clip_of(tmp_path / "hdr.mkv", stored(image, 9, False, 10), "yuv420p10le", 9, LIMITED, transfer, 9)
    clip = read_clip(path)
    seen = clip.frames[0, 16, 8::16].numpy()
    assert np.ptp(seen, axis=1).max() < 0.01
    gray = seen.mean(1)
    assert gray[0] < 0.01 and (np.diff(gray) > 0).all() and 0.94 < gray[4] < 0.97 and gray[5] > 0.99
    assert any("HDR" in note for note in clip.notes)


def test_linear_light_and_back():
    values = torch.linspace(-0.2, 1.5, 100, dtype=torch.float64)
    assert (srgb(linear(values)) - values).abs().max() < FLOAT64_CHAIN
    assert abs(float(linear(torch.tensor(0.5))) - 0.21404) < NETWORK


def test_interlaced_comes_whole_and_told(tmp_path):
    """A bar that moves between the fields leaves no comb: what its two fields show differs by more than any row."""
    path = tmp_path / "fields.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"qp": "0", "x264-params": "tff=1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(8):
            image = np.full((64, 96, 3), 30, np.uint8)
            for row in range(64):
                place = 8 * index + 4 * (row % 2)
                image[row, place : place + 16] = 220
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", interpolation=0x10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    clip = read_clip(path)
    assert len(clip.frames) == 8 and any("interlaced" in note for note in clip.notes)
    combed = (clip.frames[1:7, 8:56:2] - clip.frames[1:7, 9:57:2]).abs().mean() * 255
    assert combed < 5  # 15.8 as stored
    for start in (1, 4):
        assert (read_clip(path, start, 1).frames[0] - clip.frames[start]).abs().max() * 255 < 1


def test_a_variable_rate_offers_every_picture(tmp_path):
    from video_files import number_of, numbered

    times = [0, 100, 200, 300, 1000, 1050, 1100, 1150, 1200, 1300]
    path = make_video(tmp_path / "phone.mkv", [numbered(i) for i in range(10)], 10, times=times)
    mean, finest, every = (read_clip(path, timing=timing) for timing in ("mean rate", "finest rate", "every picture"))
    seen = [{number_of(frame) for frame in clip.frames} for clip in (mean, finest, every)]
    assert len(seen[0]) < 10 and "left out" in mean.notes[-1] and "'every picture'" in mean.notes[-1]
    assert seen[1] == seen[2] == set(range(10)) and len(every.frames) == 10
    assert finest.fps == 20 and 26 <= len(finest.frames) <= 28
    assert [number_of(frame) for frame in read_clip(path, 3, 3, 2, timing="every picture").frames] == [3, 5, 7]


@pytest.mark.parametrize("kind", ["avif", "png"])
def test_animated_pictures(tmp_path, kind):
    from PIL import Image, features
    from video_files import number_of, numbered

    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    images = [Image.fromarray(numbered(index)) for index in range(0, 40, 4)]
    lossless = {"avif": {"quality": 100}}.get(kind, {})
    images[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=images[1:], duration=100, **lossless)
    clip = read_clip(tmp_path / f"a.{kind}")
    assert [number_of(frame) for frame in clip.frames] == list(range(0, 40, 4))
    assert clip.fps == 10



def test_pixels_that_are_not_square_are_told(tmp_path):
    with av.open(str(tmp_path / "dvd.mkv"), "w") as output:
        stream = output.add_stream("libx264", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        output.mux(stream.encode(None))
    clip = read_clip(tmp_path / "dvd.mkv")
    assert clip.frames.shape[1:3] == (48, 96) and any("3:2" in note for note in clip.notes)
    assert clip.fps == Fraction(30000, 1001)
