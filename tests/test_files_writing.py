"""Files are there as a whole or not at all, and what cannot be written is told in one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from steadyedit.files.writing import NotSaved, sweep, whole, write_bytes


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "b.bin"
    write_bytes(path, b"first")
    with pytest.raises(KeyboardInterrupt), whole(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 300, "file/b.bin", "n" * 5000])
def test_a_name_that_cannot_be_is_one_sentence(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(NotSaved) as caught:
        write_bytes(tmp_path / "new" / "folder" / name if name[0] == "x" else tmp_path / name, b"x")
    said = str(caught.value)
    assert "could not be saved in" in said and said.endswith("nothing was left behind.") and "\n" not in said
    assert ".part" not in said and "Errno" not in said and caught.value.errno
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(NotSaved, match="Permission denied"):
        write_bytes(tmp_path / "a.bin", b"x")


def test_an_error_over_another_file_speaks_for_itself(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, whole(tmp_path / "a.bin"):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other") and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    code = f"""
import time
from steadyedit.files.writing import whole
with whole({str(tmp_path / "a.bin")!r}) as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    assert sweep(tmp_path) == 0 and len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.iterdir())) == 1
    write_bytes(tmp_path / "b.bin", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin"]


def test_many_writers_and_sweepers_at_once(tmp_path):
    def write(number):
        for i in range(20):
            write_bytes(tmp_path / f"{number}_{i}", bytes([number]) * 100)
            sweep(tmp_path)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 80
    assert all(path.read_bytes() == bytes([int(path.name[0])]) * 100 for path in tmp_path.iterdir())
