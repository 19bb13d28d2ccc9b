"""A streamed edit in several processes: the frames of one, and what is said where one of them dies."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading

import killed_processes
import pytest
import torch
from steadyedit.standalone import processes, stream, team
from steadyedit.standalone.cli import main
from steadyedit.standalone.graph import GraphError, read_graph
from steadyedit.streaming.run import edit_windows
from steadyedit.streaming.shared import lock_of, taken
from steadyedit.streaming.store import Window, WindowStore

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")


class Quiet:
    def update(self, value, preview=None):
        pass


@pytest.fixture
def store(tmp_path):
    (tmp_path / "windows").mkdir()
    return WindowStore(tmp_path / "windows", "an edit", 9)


def edit(window, part, room):
    return torch.full((window.count, 4, 4, 3), window.first / 16)


def forked(rank: int, size: int, port: int, graph, output) -> None:
    """One of several processes, begun from here, so that libraries need not be loaded again."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    write = stream.write_clip

    def told(path, frames, *rest, **named):
        held = list(frames)
        torch.save(torch.stack(held), output / f"by_{rank}.pt")
        return write(path, iter(held), *rest, **named)

    stream.write_clip = told
    stream.stream(read_graph(str(graph)), output, killed_processes.WINDOW)


def test_two_processes_give_the_frames_of_one(tmp_path):
    """The same windows on the same threads: bit for bit, before the codec; the first process writes."""
    graph = killed_processes.graph_of(tmp_path, steps=2)
    stream.known_nodes()  # loads what the children need
    from steadyedit.backends.diffusers import toy

    toy.load_toy_editor()
    given, context = {}, multiprocessing.get_context("fork")
    for size in (1, 2):
        output = tmp_path / f"{size}"
        output.mkdir()
        port = processes.free_port()
        running = [context.Process(target=forked, args=(rank, size, port, graph, output)) for rank in range(size)]
        for process in running:
            process.start()
        for process in running:
            process.join(120)
        assert [process.exitcode for process in running] == [0] * size
        assert not (output / "by_1.pt").exists() and not list(output.glob(".*"))
        given[size] = torch.load(output / "by_0.pt", weights_only=True)
    assert len(given[1]) == killed_processes.FRAMES and torch.equal(given[1], given[2])


def test_windows_are_made_once_by_whoever_takes_them(store):
    windows, made = store.missing(2), {0: [], 1: []}

    def work(number):
        def noted(window, part, room):
            made[number].append(window)
            return edit(window, part, room)

        edit_windows(store, 2, noted, Quiet(), windows)

    threads = [threading.Thread(target=work, args=(number,)) for number in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made[0] + made[1], key=lambda window: window.first) == windows
    assert store.finished() == windows


def test_what_a_dead_process_held_is_taken_by_another(store):
    windows = store.missing(4)
    held = lock_of(store, windows[0])
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time, filelock\nlock = filelock.FileLock(sys.argv[1])\nlock.acquire()\n"
         "print(1, flush=True)\ntime.sleep(60)", str(held)], stdout=subprocess.PIPE)  # fmt: skip
    holder.stdout.readline()
    waits = []

    def wait():
        waits.append(1)
        if len(waits) == 2:
            holder.kill()
            holder.wait()

    taking = []
    for window in taken(store, windows, wait):
        store.keep(window, edit(window, None, None))
        taking.append(window)
    holder.kill()
    # The one that was held comes last, after it was let go.
    assert taking == [*windows[1:], windows[0]] and len(waits) == 2


def test_nothing_is_made_where_the_video_is_written_already(store):
    windows = [Window(0, 4)]
    store.folder.rmdir()
    assert list(taken(store, windows, lambda: None)) == [] and not store.folder.exists()


@pytest.mark.parametrize("first, second, code, words, again", [
    ("pass", "pass", 0, [], 0),
    ("early(); kill()", "early(); time.sleep(60)", 1, ["process 1 of 2 was ended by SIGKILL", "goes on where it"], 0),
    ("early(); time.sleep(60)", "early(); kill()", 1, ["process 2 of 2 was ended by SIGKILL", "goes on where it"], 0),
    ("pass", "kill()", 0, ["process 2 of 2 was ended by SIGKILL", "the others went on"], 0),
    ("pass", "say('steadyedit: memory ran out.')", 0, ["process 2 of 2 stopped (memory ran out)"], 0),
    ("kill()", "pass", 0, ["process 1 of 2 was ended by SIGKILL", "the video is written now"], 1),
    ("kill()", "say('steadyedit: another ended.')", 1, ["process 1 of 2 was ended", "the same command goes on"], 0),
    ("say('steadyedit: no such file.')", "say('steadyedit: no such file.')", 1, ["no such file"], 0),
])  # fmt: skip
def test_a_process_that_dies_is_told_of_once(tmp_path, monkeypatch, capfd, first, second, code, words, again):
    """Each process is a line of Python in the place of an edit; it has met the others, unless it ends early; alone, it
    leaves a sign that it ran."""
    program = (
        "import os, signal, sys, pathlib, time\n"
        "met = 'RANK' in os.environ and pathlib.Path(os.environ['STEADYEDIT_MET'], os.environ['RANK'])\n"
        "if met: met.touch()\n"
        "def early(): met.unlink()\n"
        "def kill(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def say(words): print(words, file=sys.stderr); sys.exit(1)\n"
        f"if 'RANK' not in os.environ: pathlib.Path({str(tmp_path / 'alone')!r}).touch()\n"
        f"elif os.environ['RANK'] == '0': {first}\n"
        f"else: {second}\n")
    monkeypatch.setattr(processes, "_command", lambda arguments: [sys.executable, "-S", "-c", program])
    assert processes.launch(2, []) == code
    said = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(said) == bool(words)
    for word in words:
        assert word.lower() in said[0].lower()
    assert (tmp_path / "alone").exists() == bool(again)


def test_torchruns_end_is_one_sentence(monkeypatch):
    """torchrun ends all processes where one dies; the first that is told speaks, for all."""
    monkeypatch.setattr(team, "first_to_speak", lambda: True)
    with pytest.raises(KeyboardInterrupt, match="another process of this run ended.*the same command goes on"):
        team._ended()
    monkeypatch.setattr(team, "first_to_speak", lambda: False)
    with pytest.raises(KeyboardInterrupt, match="^$"):
        team._ended()


def test_processes_are_for_streaming(tmp_path, capsys):
    assert main(["run", "toy_ei2", "--processes", "2"]) == 1
    assert "add --stream" in capsys.readouterr().err
    with pytest.raises(GraphError, match="--processes: at least 1"):
        processes.launch(0, [])
