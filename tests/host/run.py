"""Run the tests of this folder inside a ComfyUI's own Python: ``make host-test``.

The host is found as the command line finds it (COMFYUI_PATH, COMFYUI_PYTHON). Exits with 3 where there is none. Files
of this folder, or tests in them, may be named, and whatever else pytest takes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from steadyedit.standalone.comfy_process import find_comfy, find_python

NO_HOST = 3
#: As `make test` runs; a host's Python need not have pytest-xdist.
WORKERS = ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile"]


def main() -> int:
    comfy = find_comfy()
    if comfy is None:
        print("No ComfyUI was found: name its folder by COMFYUI_PATH=/path/to/ComfyUI.", file=sys.stderr)
        return NO_HOST
    python = find_python(comfy)
    if subprocess.run([python, "-c", "import torch, pytest"], capture_output=True).returncode:
        print(
            f"{python} must have torch and pytest: name the host's Python by COMFYUI_PYTHON, or install them there.",
            file=sys.stderr,
        )
        return 1
    print(f"ComfyUI in {comfy}, run by {python}", flush=True)
    beside = subprocess.run([python, "-c", "import xdist"], capture_output=True).returncode == 0
    named = any(Path(given.split("::")[0]).exists() for given in sys.argv[1:])
    everything = () if named else (str(Path(__file__).parent),)
    command = [python, "-m", "pytest", "-q", *(WORKERS if beside else ()), *sys.argv[1:], *everything]
    return subprocess.run(command, env={**os.environ, "COMFYUI_PATH": str(comfy)}).returncode


if __name__ == "__main__":
    sys.exit(main())
