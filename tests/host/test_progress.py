"""Progress in words in the node at work: rare, and only where the work takes its time."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from comfy_execution.utils import CurrentNodeContext
from steadyedit.backends.comfy_native import progress


@pytest.fixture
def told(monkeypatch):
    """What the server sent, as (text, node id), on a clock of the test's own."""
    sent, clock = [], SimpleNamespace(now=100.0)
    instance = SimpleNamespace(send_progress_text=lambda text, node_id: sent.append((text, node_id)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    monkeypatch.setattr(progress, "monotonic", lambda: clock.now)
    return SimpleNamespace(sent=sent, clock=clock)


def run(told, first, total, seconds):
    with CurrentNodeContext("prompt", "7"):
        bar = progress.ComfyProgress(total, "tuning")
        for value in range(first, total + 1):
            bar.update(value, loss=0.08333)
            told.clock.now += seconds


def test_a_slow_training_tells_where_it_is(told):
    run(told, 0, 100, 1.25)
    assert {node for _, node in told.sent} == {"7"}
    assert told.sent[0][0] == "tuning: 2 of 100, loss 0.0833, 2:02 left"
    assert told.sent[-1][0] == "tuning: 100 of 100, loss 0.0833, took 2:05"


def test_it_is_told_once_a_second(told):
    run(told, 0, 100, 0.1)
    assert 8 <= len(told.sent) <= 10


def test_a_training_that_goes_on_counts_its_own_steps(told):
    run(told, 90, 100, 3.0)
    assert told.sent[0][0] == "tuning: 91 of 100, loss 0.0833, 0:27 left"


def test_quick_work_and_no_server_say_nothing(told, monkeypatch):
    run(told, 0, 10, 0.1)
    assert told.sent == []
    monkeypatch.delitem(sys.modules, "server")
    run(told, 0, 10, 5.0)
    assert told.sent == []
