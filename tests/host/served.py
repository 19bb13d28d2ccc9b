"""Graphs queued in a ComfyUI process, without its editor."""

from __future__ import annotations

import time


def run(server, graph, seconds=1800):
    """Queue a graph in API form and wait for it; its entry in the host's history."""
    answer = server.ask("/prompt", {"prompt": graph})
    assert "prompt_id" in answer, answer
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        history = server.ask(f"/history/{answer['prompt_id']}")
        if history:
            return history[answer["prompt_id"]]
        time.sleep(0.2)
    raise AssertionError(server.tail())


def written(server, history, kind):
    """The one file of that kind that this run wrote; other tests may have run the same graph in this host."""
    files = [file for shown in history["outputs"].values() for file in shown.get("images", ())]
    (file,) = [file for file in files if file["filename"].endswith(f".{kind}") and file["type"] == "output"]
    return server.output / file["subfolder"] / file["filename"]
