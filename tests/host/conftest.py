"""A real ComfyUI in this process, on the CPU. Without one nothing here is collected, and that is said loudly.

Found by COMFYUI_PATH, else the ComfyUI that this pack sits in, else ~/comfy/ComfyUI.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def find_host() -> Path | None:
    inside = Path(__file__).resolve().parents[4]
    named = os.environ.get("COMFYUI_PATH")
    candidates = [Path(named)] if named else [inside, Path.home() / "comfy" / "ComfyUI"]
    return next((path.resolve() for path in candidates if (path / "comfy" / "model_patcher.py").is_file()), None)


HOST = find_host()

if HOST is None:
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(HOST))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    # The host imports sharing no more than this folder are found by their plain names.
    sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter) -> None:
    if HOST is None:
        terminalreporter.section("NO COMFYUI WAS FOUND: THE HOST TESTS DID NOT RUN", red=True)
        terminalreporter.line("Name its folder by COMFYUI_PATH=/path/to/ComfyUI.")


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "slow: a full-size model; minutes and gigabytes")


@pytest.fixture(scope="session")
def host() -> Path:
    """The host's folder."""
    return HOST


@pytest.fixture(autouse=True)
def weights_folder(tmp_path, monkeypatch):
    """Tuned weights go into a folder of the test's own."""
    import folder_paths

    entry = ([str(tmp_path / "steadyedit")], set(folder_paths.supported_pt_extensions))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "steadyedit", entry)
    return tmp_path / "steadyedit"
