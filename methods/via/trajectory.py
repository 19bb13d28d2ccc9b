"""A clip's inverted latents at every noise level: in memory, or step by step on disk and memory-mapped.

On disk a trajectory is a folder: ``trajectory.json`` with the noise levels and the shape, and one
``.npy`` file a step. Each is written as a whole or not at all, so that an inversion that was cut
off goes on after its last step (``inverted``), from a float32 copy of it. Reading a step maps its
file and loads the frames asked for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...files.writing import write_bytes

#: Noise levels nearer than this, relatively, are one: schedules are computed in float32 by some hosts.
SAME = 1e-4
HEADER = "trajectory.json"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """x of every frame at ascending noise levels, in the scale of a LATENT.

    ``trajectory[step, ids]`` is [len(ids), channels, height, width]; step 0 is the clip itself.

    Args:
        steps: one tensor [frames, channels, height, width] a noise level; float32 for the
            first, whose values come out of the blend unchanged, float16 is enough for the rest.
        sigmas: [steps + 1], ascending from 0.

    Raises:
        ValueError: their numbers differ, or the noise levels do not ascend from 0.
    """

    steps: Sequence[Tensor]
    sigmas: Tensor

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.sigmas):
            raise ValueError(f"trajectory: {len(self.steps)} latents for {len(self.sigmas)} noise levels.")
        if self.sigmas[0] != 0 or (self.sigmas[1:] <= self.sigmas[:-1]).any():
            raise ValueError("trajectory: its noise levels do not ascend from 0.")

    @classmethod
    def of_latent(cls, latent: dict) -> Trajectory:
        """The trajectory that rides in a LATENT of DDIM Inversion.

        Raises:
            ValueError: there is none inside.
        """
        if "steadyedit_trajectory" not in latent:
            raise ValueError("inverted: holds no trajectory; connect the latent of SteadyEditDDIMInversion.")
        first, *rest = latent["steadyedit_trajectory"]
        return cls([latent.get("steadyedit_source", first).float(), *rest], latent["steadyedit_sigmas"])

    @property
    def shape(self) -> torch.Size:
        """[frames, channels, height, width]."""
        return self.steps[0].shape

    @property
    def source(self) -> Tensor:
        """The clip itself."""
        return self.steps[0]

    def __getitem__(self, key: tuple[int, Sequence[int] | slice]) -> Tensor:
        step, ids = key
        return self.steps[step][ids if isinstance(ids, slice) else list(ids)]

    def step_of(self, sigma: float) -> int:
        """The step whose noise level is ``sigma``.

        Raises:
            ValueError: there is none. Between two levels nothing is known that the inversion
                has computed, so nothing is made up.
        """
        distance = (self.sigmas.double().cpu() - sigma).abs()
        nearest = int(distance.argmin())
        if distance[nearest] > SAME * max(sigma, float(self.sigmas[1])):
            raise ValueError(
                f"sigmas: sampling passes noise level {sigma:.4g}, but the inversion has {len(self.sigmas) - 1} steps "
                f"and stopped nearest to it at {float(self.sigmas[nearest]):.4g}; sample with the sigmas of "
                "SteadyEditDDIMInversion.")
        return nearest


def create(folder: Path, shape: Sequence[int], sigmas: Tensor) -> int:
    """Begin a trajectory on disk, or find the one that was begun.

    Args:
        folder: made if it does not exist.
        shape: [frames, channels, height, width].
        sigmas: [steps + 1], ascending from 0.

    Returns:
        How many steps are complete; the next ``write_step`` has this number.

    Raises:
        ValueError: the folder holds the trajectory of another clip or schedule.
        OSError: it can not be written.
    """
    header = {"shape": list(shape), "sigmas": sigmas.double().tolist()}
    path = Path(folder) / HEADER
    if not path.exists():
        write_bytes(path, json.dumps(header).encode())
    elif json.loads(path.read_text()) != header:
        raise ValueError(f"{path.parent.name}: holds the trajectory of another clip or schedule; use another folder.")
    return next((i for i in range(len(sigmas)) if not _file(folder, i).exists()), len(sigmas))


def write_step(folder: Path, step: int, x: Tensor) -> None:
    """Add x at noise level number ``step``, in the scale of a LATENT: float16, and the clip itself in float32.

    Raises:
        ValueError: another shape than the folder's, or a value too large for float16.
        OSError: it can not be written; no half a step stays behind.
    """
    shape = json.loads((Path(folder) / HEADER).read_text())["shape"]
    if list(x.shape) != shape:
        raise ValueError(f"trajectory: a step {tuple(x.shape)} in a folder of {tuple(shape)}.")
    values = x.detach().cpu().to(torch.float16 if step else torch.float32)
    if not torch.isfinite(values).all():
        raise ValueError(f"trajectory: step {step} holds values that are not finite or too large for float16.")
    _save(_file(folder, step), values)


def write(folder: Path, steps: Iterable[Tensor], sigmas: Tensor) -> Trajectory:
    """All steps at once; returns them memory-mapped. Raises as ``create`` and ``write_step``."""
    for step, x in enumerate(steps):
        if step == 0:
            create(folder, x.shape, sigmas)
        write_step(folder, step, x)
    return read(folder)


def inverted(
    folder: Path, samples: Tensor, sigmas: Tensor, advance: Callable[[int, Tensor, Tensor], Tensor]
) -> tuple[Trajectory, Tensor]:
    """Invert a clip step by step on disk, or go on where it was cut off.

    Args:
        samples: the clip, in the scale of a LATENT [frames, channels, height, width].
        sigmas: [steps + 1], ascending from 0.
        advance: (i, x, sigmas[i : i + 2]) -> x at the second of the two noise levels.

    Returns:
        the trajectory, mapped, and its last x in float32. Cut off anywhere or never, the result is
        the same to the last bit.

    Raises:
        ValueError, OSError: as ``create`` and ``write_step``.
    """
    done = create(folder, samples.shape, sigmas)
    if not done:
        write_step(folder, 0, samples)
    x = samples if done < 2 else torch.from_numpy(np.load(_last(folder, done - 1)))
    for step in range(max(done, 1), len(sigmas)):
        x = advance(step - 1, x, sigmas[step - 1 : step + 1])
        # Before its step: what is counted as done can be gone on from.
        _save(_last(folder, step), x.detach().float().cpu())
        write_step(folder, step, x)
        _last(folder, step - 1).unlink(missing_ok=True)
    return read(folder), x


def read(folder: Path) -> Trajectory:
    """A trajectory whose steps are mapped from disk, not loaded.

    Raises:
        FileNotFoundError: there is none.
        ValueError: steps are missing.
    """
    sigmas = torch.tensor(json.loads((Path(folder) / HEADER).read_text())["sigmas"], dtype=torch.float64)
    missing = [i for i in range(len(sigmas)) if not _file(folder, i).exists()]
    if missing:
        raise ValueError(f"{Path(folder).name}: the inversion ended before step {missing[0]} of {len(sigmas) - 1}; "
                         "let it finish.")
    # Copy on write: torch wants memory that it may write to, and nothing here does.
    steps = [torch.from_numpy(np.load(_file(folder, i), mmap_mode="c")) for i in range(len(sigmas))]
    return Trajectory(steps, sigmas)


def _file(folder: Path, step: int) -> Path:
    return Path(folder) / f"step_{step:04}.npy"


def _last(folder: Path, step: int) -> Path:
    return Path(folder) / f"last_{step:04}.npy"


def _save(path: Path, values: Tensor) -> None:
    data = io.BytesIO()
    np.save(data, values.numpy())
    write_bytes(path, data.getvalue())
