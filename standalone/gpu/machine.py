"""What the machine is, and the tests that need it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from .pieces import NotRun, Outcome, Run

ROOT = Path(__file__).parents[2]
#: What is named with its version.
PACKAGES = ("torch", "torchvision", "triton", "diffusers", "transformers", "accelerate", "kornia", "av", "einops",
            "segment-anything", "bitsandbytes")  # fmt: skip


def machine(where: Run) -> Outcome:
    """Card, memory, versions, and the rate of a plain product of matrices by dtype."""
    from importlib import metadata

    import torch

    from ...benchmarks.lora_edit_size.run import matrix_rate

    cuda = torch.cuda.is_available()
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    numbers = {
        "python": platform.python_version(), "versions": versions, "cores": os.cpu_count(), "cuda": torch.version.cuda,
        "card": torch.cuda.get_device_name() if cuda else None,
        "capability": list(torch.cuda.get_device_capability()) if cuda else None,
        "memory_gib": torch.cuda.mem_get_info()[1] / 2**30 if cuda else None,
        "matrix_tflops": {str(dtype).removeprefix("torch."):
                          matrix_rate("cuda" if cuda else "cpu", dtype, 128 if where.tiny else None) / 1e12
                          for dtype in (torch.float32, torch.float16, torch.bfloat16)},
    }  # fmt: skip
    return Outcome(numbers)


def cuda_tests(where: Run) -> Outcome:
    """``pytest -m cuda``; without a GPU, as in a rehearsal, on a device that only pretends to be one.

    Raises:
        RuntimeError: some fail; the last lines say which.
    """
    if not (ROOT / "tests").is_dir():
        raise NotRun("an installed SteadyEdit has no tests; run it in a clone of the repository")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "--color=no",
               str(ROOT / "tests" / "test_device.py")]  # fmt: skip
    # One of them tells that they run.
    command += ["-k", "every_kernel and float32"] if where.tiny else []
    # Without a GPU the tests take a device that only pretends, in this process of theirs.
    env = {**os.environ, "STEADYEDIT_PRETENDED_DEVICE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", lines[-1])}
    if done.returncode:
        raise RuntimeError("\n".join(lines[-25:] or done.stderr.splitlines()[-10:]))
    return Outcome(counts)
