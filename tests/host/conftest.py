"""A real ComfyUI in this process, on the CPU. Without one nothing here is collected, and that is said loudly.

Found by COMFYUI_PATH, else the ComfyUI that this pack sits in, else ~/comfy/ComfyUI.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from importlib.util import find_spec
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
    config.addinivalue_line("markers", "once: seen in the recent host alone")


@pytest.fixture(scope="session")
def host() -> Path:
    """The host's folder."""
    return HOST


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """A ComfyUI process with this pack, its frontend where that is installed, and no models but the toy ones."""
    from steadyedit.standalone import comfy_process

    output = tmp_path_factory.mktemp("output")
    # A machine that is busy with something else takes its time.
    comfy_process.START_SECONDS = 1200
    editor = find_spec("comfyui_frontend_package") is not None
    with comfy_process.running(HOST, output, editor) as process:
        process.output, process.models = output, process.input.parent / "models"
        # Folders of the same names, empty: the installation behind the link is left alone, and its models unseen.
        if process.models.is_symlink():
            process.models.unlink()
            for folder in (HOST / "models").iterdir():
                (process.models / folder.name).mkdir(parents=True)
        yield process


class Browser:
    """One browser with the editor for the files that drive it, one after the other.

    Playwright holds an event loop while it is open, and no other runs beside it: it is closed ahead of other files.
    """

    def __init__(self) -> None:
        self.stack, self.page, self.file = ExitStack(), None, None

    def opened(self, address: str, file: str):
        import frontend

        if self.page is None:
            self.page = self.stack.enter_context(frontend.page(address, 1600, 1000))
            # A first visit opens the template browser.
            self.page.keyboard.press("Escape")
        self.file = file
        return self.page

    def close(self) -> None:
        self.page = self.file = None
        self.stack.close()


@pytest.fixture(scope="session")
def browser():
    yield BROWSER
    BROWSER.close()


BROWSER = Browser()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item) -> None:
    if "opened" not in item.fixturenames and str(item.path) != BROWSER.file:
        BROWSER.close()


@pytest.fixture(scope="module")
def opened(started, browser, request):
    """The editor in headless Chromium, as whoever had it before left it."""
    import frontend

    pytest.importorskip("playwright", reason="the editor's tests need: pip install playwright")
    if frontend.chromium() is None:
        pytest.skip("the editor's tests need a Chromium (apt install chromium)")
    return browser.opened(f"http://127.0.0.1:{started.port}", str(request.path))


@pytest.fixture(scope="module")
def editor(opened):
    """The editor, nodes drawn on the canvas."""
    import frontend

    frontend.choose_renderer(opened, False)
    return opened


@pytest.fixture(autouse=True)
def weights_folder(tmp_path, monkeypatch):
    """Tuned weights go into a folder of the test's own."""
    import folder_paths

    entry = ([str(tmp_path / "steadyedit")], set(folder_paths.supported_pt_extensions))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "steadyedit", entry)
    return tmp_path / "steadyedit"
