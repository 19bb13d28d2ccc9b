"""A ComfyUI process of our own: found, started in a folder of its own, asked over HTTP, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from .graph import GraphError
from .processes import free_port

PACK = Path(__file__).absolute().parents[1]
START_SECONDS = 300


def find_comfy() -> Path | None:
    """COMFYUI_PATH, else the ComfyUI that this pack sits in, else ``~/comfy/ComfyUI``, else None.

    Raises:
        GraphError: COMFYUI_PATH names a folder without a ComfyUI.
    """
    if named := os.environ.get("COMFYUI_PATH"):
        if not (Path(named) / "main.py").is_file():
            raise GraphError(f"COMFYUI_PATH: {named} holds no ComfyUI (no main.py).")
        return Path(named).absolute()
    around = [PACK.parents[1]] if PACK.parent.name == "custom_nodes" else []
    places = [*around, Path.home() / "comfy" / "ComfyUI"]
    return next((place for place in places if (place / "main.py").is_file()), None)


def find_python(comfy: Path) -> str:
    """COMFYUI_PYTHON, else the python of a venv beside or inside the host, else this one."""
    if named := os.environ.get("COMFYUI_PYTHON"):
        return named
    inner = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    places = [comfy.parent / "venv", comfy / "venv", comfy / ".venv"]
    return next((str(place / inner) for place in places if (place / inner).exists()), sys.executable)


def outer_environment(python: str) -> dict[str, str]:
    """This process's environment for the host's Python; what is on this one's path serves no other."""
    own = () if python == sys.executable else ("PYTHONPATH", "PYTHONHOME")
    return {name: value for name, value in os.environ.items() if name not in own}


#: Runs the host's main.py, and ends it once this process is gone, however it went: then nobody holds the other end
#: of its standard input any more. What it was given for itself goes with it.
WATCHED = """
import os, runpy, shutil, sys, threading
base, main = sys.argv[1:3]
def end():
    sys.stdin.buffer.read()
    shutil.rmtree(base, ignore_errors=True)
    os._exit(1)
threading.Thread(target=end, daemon=True).start()
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(main))
runpy.run_path(main, run_name="__main__")
"""


class Host:
    """A running ComfyUI on a port of this machine."""

    def __init__(self, port: int, process: subprocess.Popen, log: Path, input_folder: Path, comfy: Path):
        self.port, self.process, self.log, self.input, self.comfy = port, process, log, input_folder, comfy

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET, or POST of JSON; the answer's JSON, that of a refusal (400) included."""
        data = None if body is None else json.dumps(body).encode()
        address = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            text = error.read()
        return json.loads(text) if text else None

    def tail(self) -> str:
        """The last lines of the host's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def wait_until_ready(self) -> None:
        """Raise GraphError where the host ends or stays silent instead of answering."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise GraphError(f"ComfyUI ended while it started; its last words were:\n{self.tail()}")
            try:
                self.ask("/system_stats")
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.3)
        raise GraphError(f"ComfyUI did not answer within {START_SECONDS} s; its last words were:\n{self.tail()}")


@cache
def _has_gpu(python: str) -> bool:
    """Whether the host's torch sees an accelerator; without one the host needs to be told."""
    code = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


@contextmanager
def running(comfy: Path, output: Path, editor: bool = False, models: Path | None = None,
            packs: Sequence[Path] = ()) -> Iterator[Host]:
    """A ComfyUI with this pack, in a base folder of its own, ended when the ``with`` ends.

    The user's models are seen through a link; nothing else of the installation is touched,
    no other pack is loaded, and the host writes into ``output`` itself.

    Args:
        editor: serve the host's own frontend, which must be installed then.
        models: a folder in the place of the user's models.
        packs: folders of more nodes.
    """
    models = models or comfy / "models"
    python = find_python(comfy)
    with tempfile.TemporaryDirectory(prefix="steadyedit-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        for name in ("custom_nodes", "input", "temp", "user", "web"):
            (base / name).mkdir()
        for name, pack in {"steadyedit": PACK, **{f"steadyedit_{pack.name}": pack for pack in packs}}.items():
            (base / "custom_nodes" / name).symlink_to(pack.absolute(), target_is_directory=True)
        if models.is_dir():
            (base / "models").symlink_to(models.absolute(), target_is_directory=True)
        (base / "web" / "index.html").write_text("<title>SteadyEdit</title>")
        port = free_port()
        command = [
            python, "-c", WATCHED, str(base), str(comfy.absolute() / "main.py"), "--port", str(port),
            "--disable-auto-launch", "--disable-api-nodes",
            "--base-directory", str(base), "--output-directory", str(output.absolute()),
            "--database-url", "sqlite:///:memory:",
        ]  # fmt: skip
        if not editor:
            # A page of its own: headless, the host need not have its frontend installed.
            command += ["--front-end-root", str(base / "web")]
        if not _has_gpu(python):
            command.append("--cpu")
        log = base / "host.log"
        with open(log, "w", encoding="utf-8") as sink:
            process = subprocess.Popen(command, cwd=comfy, env=outer_environment(python), stdin=subprocess.PIPE,
                                       stdout=sink, stderr=subprocess.STDOUT)  # fmt: skip
            try:
                host = Host(port, process, log, base / "input", comfy)
                host.wait_until_ready()
                yield host
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                if process.stdin is not None:
                    process.stdin.close()
