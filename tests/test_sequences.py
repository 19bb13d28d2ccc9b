"""Numbered pictures in and out: exact numbers, names as artists type them, frame numbers, and one sentence each."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from steadyedit.video.hdr import linear, srgb
from steadyedit.video.sequences.names import Pattern, found, output_paths, ranges
from steadyedit.video.sequences.picture import read_picture
from steadyedit.video.sequences.read import ADD, LINEAR, REPEAT, SRGB, Range, read_sequence
from steadyedit.video.sequences.write import encoded, write_sequence
from tolerances import FLOAT32, FLOAT32_STEP, RUN


def floats(frames=3, height=21, width=33):
    """Values as renders have them: negative, far above white, tiny, and those where half rounds."""
    torch.manual_seed(0)
    values = torch.randn(frames, height, width, 3) * 3
    values[:, 0, 0] = torch.tensor([65504.0, 6e-8, 1e-40])
    values[:, 0, 1] = torch.tensor([-0.0, 1 + 2**-11, 1 + 3 * 2**-11])
    return values


def numbered(folder, numbers, size=(6, 4), name="shot_{:04d}.png"):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Image.new("RGB", size, (number % 256, 0, 0)).save(folder / name.format(number))
    return folder


def written(folder, frames, kind, alpha=None, **settings):
    paths = output_paths(folder, "shot_####", ".exr" if kind.startswith("EXR") else ".png", range(9, 9 + len(frames)))
    return paths, write_sequence(paths, frames, alpha, kind, **settings)


@pytest.mark.parametrize("alpha", [None, torch.linspace(0, 1, 21 * 33).reshape(1, 21, 33)])
@pytest.mark.parametrize("kind", ["EXR float", "EXR half", "PNG 16 bit", "PNG 8 bit"])
def test_what_is_written_comes_back_exactly(tmp_path, kind, alpha):
    frames = floats() if kind.startswith("EXR") else torch.rand(3, 21, 33, 3)
    stored = LINEAR if kind.startswith("EXR") else SRGB
    paths, notes = written(tmp_path, frames, kind, alpha, images=stored)
    assert [path.name for path in paths] == [f"shot_{n:04d}{path.suffix}" for n, path in zip((9, 10, 11), paths)]
    read = read_sequence(found("shot_####" + paths[0].suffix, [tmp_path]), images=stored)
    expected = {"EXR float": frames, "EXR half": frames.half().float(), "PNG 8 bit": (frames * 255).round() / 255,
                "PNG 16 bit": (frames.double() * 65535).round().float() / 65535}[kind]  # fmt: skip
    # The bits, so that -0 and 0 differ.
    assert torch.equal(read.frames.view(torch.int32), expected.view(torch.int32)), kind
    opaque = torch.ones(21, 33) if alpha is None else alpha[0]
    opaque = {"EXR half": opaque.half().float(), "PNG 8 bit": (opaque * 255).round() / 255}.get(kind, opaque)
    assert (read.alpha - opaque).abs().max() <= (0.5 / 65535 + FLOAT32_STEP if kind == "PNG 16 bit" else 0)
    assert read.numbers == [9, 10, 11] and f"{kind}, {stored}: as stored" in read.notes
    assert any("alpha" in note for note in notes) == (alpha is not None)
    assert ("no alpha: opaque" in read.notes) == (alpha is None)


@pytest.mark.parametrize("kind", ["EXR float", "EXR half"])
def test_openexrs_own_library_reads_the_same(tmp_path, kind):
    openexr = pytest.importorskip("OpenEXR")
    frames, alpha = floats(1), torch.rand(1, 21, 33)
    paths, _ = written(tmp_path, frames, kind, alpha, images=LINEAR)
    with openexr.File(str(paths[0])) as file:
        pixels = file.channels()["RGBA"].pixels
    expected = torch.cat([frames, alpha[..., None]], -1)[0].numpy()
    assert pixels.dtype == (np.float32 if kind == "EXR float" else np.float16)
    assert np.array_equal(pixels.view(f"u{pixels.itemsize}"), expected.astype(pixels.dtype).view(f"u{pixels.itemsize}"))


def exr(path, channels, **header):
    openexr = pytest.importorskip("OpenEXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage, **header}
    with openexr.File(header, dict(channels)) as file:
        file.write(str(path))
    return path


@pytest.mark.parametrize("compression", ["NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB"])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_exr_of_every_compression_is_read_as_openexr_reads_it(tmp_path, compression, kind):
    openexr = pytest.importorskip("OpenEXR")
    smooth = np.linspace(0, 4, 40 * 50 * 4).reshape(40, 50, 4).astype(kind)
    path = exr(tmp_path / "a_1.exr", {"RGBA": smooth}, compression=getattr(openexr, f"{compression}_COMPRESSION"))
    with openexr.File(str(path)) as file:
        expected = file.channels()["RGBA"].pixels.astype(np.float32)
    picture = read_picture(path)
    # DWA is a cosine transform, which libraries round in their own way: two steps of half at 4.
    near = 2**-7 if compression.startswith("DWA") else 0
    assert np.abs(picture.rgb.numpy() - expected[..., :3]).max() <= near
    assert np.abs(picture.alpha.numpy() - expected[..., 3]).max() <= near
    assert picture.kind == ("EXR half" if kind is np.float16 else "EXR float") and picture.premultiplied


def test_exr_layers_windows_and_odd_channels(tmp_path, monkeypatch):
    plane = {c: np.random.default_rng(i).random((8, 10)).astype(np.float32) for i, c in enumerate("RGBA")}
    both = exr(tmp_path / "both_1.exr", {**plane, **{f"glow.{c}": 2 * plane[c] for c in "RGB"}, "Z": plane["A"]})
    assert torch.equal(read_picture(both, "glow").rgb, 2 * read_picture(both).rgb)
    assert read_picture(both).notes == ("layer without a name is read; there are also glow",)
    with pytest.raises(ValueError, match="^both_1.exr: there is no layer 'x'; it has the unnamed one, glow.$"):
        read_picture(both, "x")
    only = exr(tmp_path / "only_1.exr", {f"beauty.{c}": plane[c] for c in "RGBA"})
    assert torch.equal(read_picture(only).rgb, read_picture(both).rgb) and "layer beauty" in read_picture(only).notes[0]
    with pytest.raises(ValueError, match="^z_1.exr: it has no red, green and blue, but Z.$"):
        read_picture(exr(tmp_path / "z_1.exr", {"Z": plane["A"]}))
    gray = read_picture(exr(tmp_path / "y_1.exr", {"Y": plane["R"]})).rgb
    assert np.array_equal(gray.numpy(), np.repeat(plane["R"][..., None], 3, -1))
    # A part of the screen, in float and, by OpenEXR, in mixed precision.
    window = {"dataWindow": ((2, -1), (11, 6)), "displayWindow": ((0, 0), (15, 11))}
    expected = np.zeros((12, 16))
    expected[:7, 2:12] = plane["R"][1:]
    assert np.array_equal(read_picture(exr(tmp_path / "w_1.exr", plane, **window)).rgb[..., 0].numpy(), expected)
    mixed = exr(tmp_path / "m_1.exr", {**plane, **{c: plane[c].astype(np.float16) for c in "RGB"}}, **window)
    assert np.abs(read_picture(mixed).rgb[..., 0].numpy() - expected).max() < RUN
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    with pytest.raises(ValueError, match="^m_1.exr: its colours and its alpha .* where OpenEXR is installed"):
        read_picture(mixed)


def test_tiff_as_it_says_itself(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).random((9, 7, 4))
    for name, kind, largest in (("TIFF 8 bit", "u1", 255), ("TIFF 16 bit", "u2", 65535), ("TIFF half", "f2", 1),
                                ("TIFF float", "f4", 1)):  # fmt: skip
        stored = (values * largest).round().astype(kind) if largest > 1 else values.astype(kind)
        tifffile.imwrite(tmp_path / "t_1.tif", stored, photometric="rgb", extrasamples=["assocalpha"],
                         compression="zlib")
        picture = read_picture(tmp_path / "t_1.tif")
        expected = stored.astype(np.float32) / np.float32(largest)
        assert np.array_equal(picture.rgb.numpy(), expected[..., :3]), name
        assert picture.kind == name and picture.premultiplied and picture.linear == (largest == 1)
        assert np.array_equal(picture.alpha.numpy(), expected[..., 3])
    Image.fromarray((values * 255).astype(np.uint8)).save(tmp_path / "l_1.tif", compression="tiff_lzw")
    lzw = read_picture(tmp_path / "l_1.tif")
    assert np.array_equal((lzw.rgb * 255).round().numpy(), (values * 255).astype(np.uint8)[..., :3])
    assert not lzw.premultiplied and lzw.alpha is not None


def test_8_bit_kinds_and_turned_pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "w_1.webp", lossless=True, exact=True)
    webp = read_picture(tmp_path / "w_1.webp")
    assert np.array_equal((webp.rgb * 255).round().numpy(), pixels[..., :3]) and webp.kind == "WEBP 8 bit"
    assert np.array_equal((webp.alpha * 255).round().numpy(), pixels[..., 3])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels[..., :3]).save(tmp_path / "j_1.jpg", exif=exif)
    assert read_picture(tmp_path / "j_1.jpg").rgb.shape == (8, 5, 3)
    Image.fromarray(pixels[..., :3]).quantize(4).save(tmp_path / "p_1.png", transparency=0)
    assert read_picture(tmp_path / "p_1.png").alpha is not None


def test_light_and_srgb_by_choice(tmp_path):
    frames = torch.rand(2, 8, 8, 3) * 2 - 0.2
    paths, notes = written(tmp_path, frames, "EXR float", images=SRGB)
    assert notes[0] == "EXR float, linear: brought to linear"
    pattern = found(str(paths[0]), [tmp_path])
    light = read_sequence(pattern, images=LINEAR).frames
    assert (light - linear(frames)).abs().max() < FLOAT32_STEP
    back = read_sequence(pattern)
    assert (back.frames - frames).abs().max() < FLOAT32 and "EXR float, linear: brought to sRGB" in back.notes
    assert torch.equal(read_sequence(pattern, files=SRGB).frames, light), "the user's word stands above the kind's"
    assert "kept" in back.notes[-1] and read_sequence(pattern, clip=True).frames.amax() == 1
    assert (srgb(linear(frames)) - frames).abs().max() < FLOAT32


def test_alpha_is_multiplied_and_divided_by_choice(tmp_path):
    frames, alpha = torch.rand(1, 8, 8, 3), torch.rand(1, 8, 8)
    alpha[:, 0] = 0
    paths, _ = written(tmp_path, frames, "EXR float", alpha, images=LINEAR, multiply=True)
    pattern = found(str(paths[0]), [tmp_path])
    stored = read_sequence(pattern, images=LINEAR).frames
    assert torch.equal(stored, frames * alpha[..., None])
    divided = read_sequence(pattern, images=LINEAR, unmultiply=True).frames
    assert (divided - frames)[:, 1:].abs().max() < FLOAT32_STEP and not divided[:, 0].any()


@pytest.mark.parametrize("name", ["shot_####.png", "shot_%04d.png", "shot_$F4.png", "", "shot_0010.png",
                                  '"shot_####.png"'])  # fmt: skip
def test_names_as_artists_type_them(tmp_path, name):
    folder = numbered(tmp_path / "plate", [8, 9, 10, 11])
    Image.new("RGB", (6, 4)).save(folder / "cover.png")
    (folder / "shot_12.png").touch()  # of another padding
    pattern = found("plate/" + name if not name.startswith('"') else '"plate/' + name[1:], [tmp_path / "no", tmp_path])
    assert pattern.numbers() == [8, 9, 10, 11] and str(pattern) == "shot_####.png"
    assert read_sequence(pattern).frames[:, 0, 0, 0].mul(255).round().tolist() == [8, 9, 10, 11]


def test_unpadded_numbers_grow(tmp_path):
    folder = numbered(tmp_path / "a", [8, 9, 10, 100], name="f{}.png")
    for name in ("a/f#.png", "a/f%d.png", "a", "a/f10.png"):
        assert found(name, [tmp_path]).numbers() == [8, 9, 10, 100]
    numbered(folder, [9999, 10000], name="g{:04d}.png")
    assert found("a/g####.png", [tmp_path]).numbers() == [9999, 10000]
    with pytest.raises(ValueError, match=r"^name: a holds several sequences, f#.png, g####.png; name one of them.$"):
        found("a", [tmp_path])


@pytest.mark.parametrize(("name", "sentence"), [
    ("", "name: names no sequence"), ("..", "name: '..' leaves the folder"), ("../x_#.png", "leaves the folder"),
    ("a\0", "names no sequence"), ("b_##.png", "there is no sequence 'b_##.png'"), ("/etc", "no sequence '/etc'"),
    ("a_#_#.png", "more than one place"), ("plain.png", "has no frame number"), ("clip_1.txt", "no picture of a kind"),
    ("empty", "holds no numbered pictures"),
])  # fmt: skip
def test_names_that_are_none(tmp_path, name, sentence):
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    (tmp_path / "clip_1.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=f"^name: .*{re.escape(sentence.removeprefix('name: '))}"):
        found(name, [tmp_path])


def test_frame_numbers_handles_and_gaps(tmp_path):
    pattern = found("p", [numbered(tmp_path / "p", [*range(1001, 1005), *range(1007, 1013)]).parent])
    read = read_sequence(pattern, Range(1007, 3))
    assert read.numbers == [1007, 1008, 1009] and read.notes[0] == "shot_####.png: 3 frames, 1007 to 1009"
    assert read_sequence(pattern, Range(1008, 2, handles=1, handling=ADD)).numbers == [1007, 1008, 1009, 1010]
    assert read_sequence(pattern, Range(1007, 0, handles=2)).numbers == [1009, 1010]
    assert read_sequence(pattern, Range(1008, 2, 2)).numbers == [1008, 1010]
    with pytest.raises(FileNotFoundError, match=r"^shot_####.png: frames 1005-1006 are missing in .*repeat the frame"):
        read_sequence(pattern)
    filled = read_sequence(pattern, Range(missing=REPEAT))
    assert len(filled.frames) == 12 and torch.equal(filled.frames[5], filled.frames[3])
    assert "missing, the frame before is repeated: 1005-1006" in filled.notes
    with pytest.raises(FileNotFoundError, match="begin at a frame that is there"):
        read_sequence(pattern, Range(1005, missing=REPEAT))
    for wanted in (Range(1008, 9), Range(1, 3), Range(1001, 4, handles=1, handling=ADD), Range(1001, 2, handles=1)):
        with pytest.raises(ValueError, match="^shot_####.png: has frames 1001 to 1012"):
            read_sequence(pattern, wanted)
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"


def test_bad_frames_are_named(tmp_path):
    folder = numbered(tmp_path / "p", [1, 2, 3])
    Image.new("RGB", (8, 8)).save(folder / "shot_0002.png")
    with pytest.raises(ValueError, match="^shot_0002.png: is 8x8, but the frames before it are 6x4"):
        read_sequence(found("p", [tmp_path]))
    (folder / "shot_0002.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    with pytest.raises(ValueError, match="^shot_0002.png: this is no readable picture"):
        read_sequence(found("p", [tmp_path]))


@pytest.mark.parametrize("kind", ["EXR float", "EXR half", "PNG 16 bit", "PNG 8 bit"])
def test_cut_files_are_no_black_frames(tmp_path, kind):
    """FFmpeg shows what is left of an EXR, black below, without a word."""
    data = encoded(torch.rand(40, 30, 4), kind)
    path = tmp_path / ("a_1" + (".exr" if kind.startswith("EXR") else ".png"))
    for part in (0.3, 0.6, 0.98):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ValueError, match=f"^{path.name}: this is no readable picture; it is cut short"):
            read_picture(path)


def test_values_that_a_kind_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="^images: shot_0009.exr would hold 70000, but half ends at 65504"):
        written(tmp_path, torch.full((1, 4, 4, 3), 7e4), "EXR half", images=LINEAR)
    with pytest.raises(ValueError, match="^images: shot_0010.exr would hold values that are not finite"):
        written(tmp_path, torch.tensor([1.0, torch.nan]).reshape(2, 1, 1, 1).expand(2, 4, 4, 3), "EXR float")
    assert not list(tmp_path.iterdir()), "the frame before it is taken back"
    _, notes = written(tmp_path, torch.full((1, 4, 4, 3), 1.5), "PNG 16 bit")
    assert notes[-1] == "values from 0 to 1.5 are cut to 0 and 1; EXR keeps them"
    assert read_picture(tmp_path / "shot_0009.png").rgb.max() == 1


def test_a_cancel_leaves_nothing(tmp_path):
    def cancel(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, torch.rand(4, 8, 8, 3), "PNG 16 bit", progress=cancel)
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, torch.rand(4, 8, 8, 3), "PNG 16 bit", progress=cancel, keep_finished=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shot_0009.png", "shot_0010.png"]
    # A cancelled read is the caller's alone.
    with pytest.raises(KeyboardInterrupt):
        read_sequence(Pattern(tmp_path, "shot_", 4, ".png"), progress=lambda done, total: cancel(2, total))


def test_output_names_stay_inside_and_never_hit_what_is_there(tmp_path):
    def names(name, **settings):
        return [str(path.relative_to(tmp_path)) for path in output_paths(tmp_path, name, ".exr", [7, 8], **settings)]

    assert names("a/shot_####") == names("a/shot_%04d.exr") == names("a/shot") == ["a/shot_0007.exr", "a/shot_0008.exr"]
    assert names("s.%width%.#", size=(64, 32)) == ["s.64.7.exr", "s.64.8.exr"]
    (tmp_path / "shot_0001.exr").touch()
    assert names("shot_####") == ["shot_v002_0007.exr", "shot_v002_0008.exr"]
    (tmp_path / "shot_v002_0001.exr").touch()
    assert names("shot_####")[0] == "shot_v003_0007.exr" and names("shot_####", overwrite=True)[0] == "shot_0007.exr"
    (tmp_path / "0001.exr").touch()
    assert names("####")[0] == "v002_0007.exr"
    for bad in ("../shot_####", "/tmp/shot_####", "a/../../b", "", "a/", ".", "x" * 300, "a\nb", "shot_##_##"):
        with pytest.raises(ValueError, match="^name: "):
            names(bad)
    with pytest.raises(ValueError, match="^name: 'a.png' ends in .png, but .exr files are to be written"):
        names("a.png")
