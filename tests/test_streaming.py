"""The engine of edits in windows: what is on disk, what is made anew, and the noise of every frame."""

from __future__ import annotations

import errno
import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from steadyedit.files import writing
from steadyedit.files.writing import NotSaved
from steadyedit.streaming.noise import OWN, SAME, FrameNoise
from steadyedit.streaming.per_frame import check_conditions
from steadyedit.streaming.run import edit_windows
from steadyedit.streaming.source import FileFrames, frames_from
from steadyedit.streaming.store import Window, WindowStore
from steadyedit.streaming.video import edited_video
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip
from video_files import make_video, numbered

TOTAL, SIDE = 7, 16


def truth(first, count):
    """Frames that say their numbers."""
    return torch.arange(first, first + count).view(-1, 1, 1, 1).expand(-1, SIDE, SIDE, 3).float() / 255


class Quiet:
    """Keeps what it is told; cancels at a value."""

    def __init__(self, stop=None):
        self.values, self.pictures, self.stop = [], [], stop

    def update(self, value, preview=None):
        self.values.append(value)
        self.pictures += [] if preview is None else [preview]
        if self.stop is not None and value >= self.stop:
            raise KeyboardInterrupt


def edited(store, size=3, report=None):
    """Run the engine; returns the windows that it made."""
    made = []

    def edit(window, part, room):
        part(0.5)
        made.append((window.first, window.count))
        return truth(window.first, window.count)

    edit_windows(store, size, edit, report or Quiet())
    return made


@pytest.fixture
def store(tmp_path):
    return WindowStore(tmp_path / "edit", "an edit", TOTAL)


def assert_whole(store):
    assert torch.equal(torch.stack(list(store.frames())), truth(0, TOTAL))


def test_windows_are_made_once_and_told_in_frames(store):
    report = Quiet()
    assert edited(store, report=report) == [(0, 3), (3, 3), (6, 1)]
    assert report.values == [0, 1, 3, 4, 6, 6, 7] and len(report.pictures) == 3
    assert_whole(store)
    again = Quiet()
    assert edited(store, report=again) == [] and again.values == [TOTAL]


def test_an_edit_that_is_cut_off_goes_on_with_windows_of_any_size(store):
    with pytest.raises(KeyboardInterrupt):
        edited(store, report=Quiet(stop=3))
    assert edited(store, size=2) == [(3, 2), (5, 2)]
    assert_whole(store)


def damaged(path, store):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut_short(path, store):
    path.write_bytes(path.read_bytes()[:-9])


def of_another(path, store):
    """Of another edit, or of the same one on another machine: that is in the identity."""
    other = WindowStore(path.parent.parent / "other", "another edit", TOTAL)
    other.keep(Window(3, 3), truth(0, 3))
    shutil.copy(other._path(Window(3, 3)), path)


@pytest.mark.parametrize("spoil", [damaged, cut_short, of_another])
def test_a_window_that_is_not_what_was_written_is_set_aside_and_made_again(store, spoil, caplog):
    edited(store)
    (path,) = store.folder.glob("0000003*")
    spoil(path, store)
    assert edited(store) == [(3, 3)]
    assert_whole(store)
    assert path.with_name(path.name + ".damaged").exists()
    (said,) = [record.getMessage() for record in caplog.records]
    assert str(path) in said and "\n" not in said


def test_a_full_disk_keeps_what_is_finished(store, monkeypatch):
    real, left = writing.os.replace, [2]

    def replace(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        real(source, target)

    monkeypatch.setattr(writing.os, "replace", replace)
    with pytest.raises(OSError, match="No space left on device.* The 6 frames that are finished are kept") as caught:
        edited(store)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert edited(store) == [(6, 1)]


def test_a_disk_that_is_full_while_a_window_is_at_work_says_what_is_kept(store):
    """Its inversion lies on the disk, too."""
    with pytest.raises(KeyboardInterrupt):
        edited(store, report=Quiet(stop=3))

    def full(window, part, room):
        raise NotSaved(errno.ENOSPC, "step_0002.npy: could not be saved.")

    with pytest.raises(OSError, match="could not be saved. The 3 frames that are finished are kept: make room"):
        edit_windows(store, 3, full, Quiet())


def test_a_window_with_other_frames_is_refused(store):
    with pytest.raises(ValueError, match="video: 3 frames went in and 2 came out"):
        edit_windows(store, 3, lambda window, part, room: truth(0, 2), Quiet())


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    frames = torch.rand(TOTAL, 32, 48, 3, generator=torch.Generator().manual_seed(1))
    return write_clip(path, frames, Fraction(8), {"waveform": torch.rand(1, 1, 7000) - 0.5, "sample_rate": 8000})


@pytest.mark.parametrize("settings", [{}, {"start": 2}, {"count": 4, "stride": 2}, {"start": 1, "stride": 3},
                                      {"window": (0.25, 0.5)}, {"window": (0.25, 0.0), "start": 1}])
def test_frames_of_a_file_by_their_numbers(video, settings):
    clip, whole = FileFrames(video, **settings), read_clip(video, **settings)
    assert clip.total == len(whole.frames) and clip.fps == whole.fps
    parts = [frame for first in range(0, clip.total, 2) for frame in clip.read(first, 2)]
    assert torch.equal(torch.stack(parts), whole.frames)
    assert torch.equal(clip.sound()["waveform"], whole.audio["waveform"])


def test_a_video_of_tensors_gives_the_same(video):
    whole = read_clip(video)
    parts = SimpleNamespace(images=whole.frames, frame_rate=whole.fps, audio=whole.audio)
    clip = frames_from(SimpleNamespace(get_components=lambda: parts), start=1, stride=2, size=0)
    assert torch.equal(torch.stack(list(clip.read(1, 2))), whole.frames[[3, 5]]) and clip.total == 3


@pytest.mark.parametrize("settings", [{}, {"start": 3}, {"start": 1, "count": 6}, {"count": 4, "stride": 2}])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_variable_rate_is_told_with_its_counts_as_reading_it_whole_tells_it(tmp_path, caplog, settings, ending):
    times = [0, 100, 200, 300, 1000, 1050, 1100, 1150, 1200, 1300]
    path = make_video(tmp_path / f"phone.{ending}", [numbered(i) for i in range(10)], 10, times=times)
    clip, whole = FileFrames(path, **settings), read_clip(path, **settings)
    said = [note.partition(";")[0] for note in whole.notes]
    assert list(clip.notes) == said and (said or settings)
    assert all(note in caplog.text for note in said)


def test_a_constant_rate_has_nothing_to_tell(video):
    assert FileFrames(video, start=1, stride=2).notes == read_clip(video).notes == ()


def test_a_file_that_changes_meanwhile_is_told(video, tmp_path):
    path = Path(shutil.copy(video, tmp_path / "clip.mp4"))
    clip = FileFrames(path)
    assert len(list(clip.read(0, 2))) == 2
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ValueError, match="video: clip.mp4 was changed while it was being edited"):
        clip.read(2, 2)


def test_a_finished_video_is_found_again_and_another_file_of_the_name_is_told(video, tmp_path, caplog):
    path, made = Path(shutil.copy(video, tmp_path / "clip.mp4")), []

    def go(stop=None):
        clip = FileFrames(path)

        def edit(window, part, room):
            made.append(window.first)
            if window.first == stop:
                raise KeyboardInterrupt
            return truth(window.first, window.count)

        return edited_video(edit, clip, f"an edit of {clip.identity()[0]}"[-20:], tmp_path / "cache", 3, Quiet())

    saved, frames = go()
    assert frames == TOTAL and len(read_clip(saved).frames) == TOTAL and made == [0, 3, 6]
    assert go() == (saved, 0) and made == [0, 3, 6]
    saved.write_bytes(saved.read_bytes()[:-1])
    assert go()[1] == TOTAL and "changed or damaged" in caplog.text
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(KeyboardInterrupt):
        go(stop=6)
    path.write_bytes(path.read_bytes() + b"0")
    caplog.clear()
    assert go()[1] == TOTAL
    assert "another file than when an earlier edit of it was interrupted" in caplog.text and "2 finished" in caplog.text


def test_the_noise_of_a_frame_hangs_on_its_number_alone():
    """Drawn as the host draws for a batch."""
    expected = torch.randn(9, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    noise = FrameNoise(5, OWN, held=(0, 4, 8))
    for ids in ((0, 4, 8, 0, 1), (0, 4, 8, 2, 3), (8, 5), (2, 1)):
        assert torch.equal(noise.of(ids, (4, 8, 8)), expected[list(ids)])
    assert torch.equal(FrameNoise(5, SAME).of((6, 3), (4, 8, 8)), expected[[0, 0]])


def test_conditions_for_single_frames_are_refused_by_what_they_hold():
    one, many = torch.zeros(1, 4, 8), torch.zeros(3, 4, 8)
    check_conditions({"positive": [{"cross_attn": one, "reference_latents": [one], "strength": 1.0}]})
    hints = SimpleNamespace(cond_hint_original=None, previous_controlnet=SimpleNamespace(cond_hint_original=many))
    for key, value, what in (("cross_attn", many, "prompts"), ("reference_latents", [one, many], "reference latents"),
                             ("control", hints, "hints"), ("of_others", {"deep": [many]}, "of_others")):
        with pytest.raises(ValueError, match=f"guider: its condition 'negative' holds {what} for 3 frames"):
            check_conditions({"negative": [{key: value}]})


def test_what_is_done_to_a_streamed_clip_is_told(tmp_path, caplog):
    from video_files import make_video, numbered

    path = make_video(tmp_path / "untagged.mp4", [numbered(i) for i in range(3)])
    FileFrames(path)
    assert "untagged.mp4: the file names no colour matrix: read as BT.601, by its size" in caplog.text
