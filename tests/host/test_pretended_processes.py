"""The host on a device that only pretends, in a process of its own.

PyTorch's backward knows only devices that were there before its first run, which in other processes lies behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pretended
import pytest


@pytest.mark.once
@pytest.mark.parametrize("file", ["test_pretended_device.py"])
def test_in_a_process_of_its_own(file):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(file))]
    done = subprocess.run(command, env={**os.environ, pretended.ALONE: "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]
