"""The bench of lengths and processes: what is put on paper, what is found again, what is refused."""

from __future__ import annotations

import json

import pytest
from steadyedit.benchmarks.scale import run


def rows():
    """One process: 10 s to start and 0.5 s a frame."""
    return [{"frames": frames, "processes": 1, "seconds": 1.0, "processor_seconds": 10 + 0.5 * frames, "peak_mib": 1.0}
            for frames in (60, 240, 1440)]  # fmt: skip


def test_what_more_cards_would_give_is_amdahls_law():
    """730 s alone; the start and a tenth of each frame are not shared out: 154 s."""
    paper = run._paper(rows(), write=0.1)
    assert paper["start_seconds"] == pytest.approx(10) and paper["serial_share"] == pytest.approx(154 / 730)
    assert paper["speedup"]["4"] == pytest.approx(730 / (154 + 576 / 4))
    assert paper["speedup"]["8"] == pytest.approx(730 / (154 + 576 / 8))


def test_finished_rows_are_found_and_those_of_other_settings_are_not(tmp_path):
    path = tmp_path / "scale.json"
    path.write_text(json.dumps({"meta": {"settings": {"side": 64}}, "rows": rows()}))
    assert run._held(path, {"side": 64}) == rows()
    assert run._held(path, {"side": 32}) == [] and run._held(tmp_path / "none.json", {}) == []


@pytest.mark.parametrize("size", ["3", "a", "60x60", "-60"])
def test_a_length_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="sizes: expected lengths in frames"):
        run.main(sizes=[size])
