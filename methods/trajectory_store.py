"""Trajectories inside a LATENT, and on disk: step by step, checked, and memory-mapped.

On disk a trajectory is a folder: ``trajectory.json`` says what it is and has the digest of every other file, one
``.npy`` file a step has the latents. Each is written as a whole or not at all, so that an inversion that was cut off
goes on after its last step (``inverted``), from a float32 copy of it. Reading a step maps its file and loads the frames
asked for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.trajectory import FlowPath, Trajectory
from ..files.writing import write_bytes
from .content_hash import content_hash
from .inverted_latent import InvertedLatent, root_mean_square
from .stored import digest_of, set_aside

HEADER = "trajectory.json"
KIND = {"kind": "trajectory of an inversion", "version": 1}
#: Keys of a LATENT: x at every noise level, these, the clip itself, and a hash of the noise that goes with them.
STEPS, SIGMAS, SOURCE, MARK = (f"steadyedit_{name}" for name in ("trajectory", "sigmas", "source", "inverted"))
#: A flow's clip that needs no inversion carries its own hash.
FLOW = "steadyedit_flow"


def with_trajectory(latent: dict, noise: Tensor, steps: Sequence[Tensor], sigmas: Tensor) -> dict:
    """The LATENT of an inversion: its noise, with the whole trajectory inside.

    Args:
        latent: of the clip.
        noise: x at the highest noise level.
        steps: x at every one of the ascending ``sigmas``.
    """
    clip = latent["samples"]
    # What a blend keeps, it keeps to the last bit: the clip itself is there in full width.
    values = {**latent, "samples": noise, STEPS: steps, SIGMAS: sigmas, SOURCE: clip, MARK: content_hash(noise)}
    if noise is clip:
        # A flow's: its noise goes beside the LATENT, which keeps the clip under a mask.
        return values
    return InvertedLatent(values, (root_mean_square(noise) * root_mean_square(clip)) ** 0.5)


def with_flow_path(latent: dict) -> dict:
    """The LATENT of a clip as a ``FlowPath``."""
    return {**latent, FLOW: content_hash(latent["samples"])}


def path_of_latent(latent: dict) -> Trajectory | FlowPath:
    """The source's path that rides in a LATENT of DDIM Inversion or Source Path. Raises as ``of_latent``."""
    if FLOW not in latent or STEPS in latent:
        return of_latent(latent)
    if latent[FLOW] != content_hash(latent["samples"]):
        raise ValueError("inverted: was changed after Source Path (flipped, cut, selected, repeated ...); change the "
                         "clip before it instead.")
    return FlowPath(latent["samples"].float())


def of_latent(latent: dict) -> Trajectory:
    """The trajectory that rides in a LATENT of DDIM Inversion.

    Raises:
        ValueError: there is none inside, or the LATENT was changed after its inversion.
    """
    if STEPS not in latent:
        raise ValueError("inverted: holds no trajectory; connect the latent of SteadyEditDDIMInversion.")
    if latent.get(MARK, changed := content_hash(latent.get("samples"))) != changed:
        raise ValueError("inverted: was changed after its inversion (flipped, cut, selected, repeated ...), and the "
                         "trajectory inside does not follow; change the clip before DDIM Inversion instead.")
    first, *rest = latent[STEPS]
    return Trajectory([latent.get(SOURCE, first).float(), *rest], latent[SIGMAS])


@dataclass
class TrajectoryStore:
    """A trajectory that is being written.

    Args:
        folder: made if it does not exist.
        clip: LATENT samples [frames, channels, height, width].
        sigmas: [steps + 1], ascending from 0.
        about: what else decides the steps, such as a hash of model and prompt; JSON-able.
    """

    folder: Path
    clip: Tensor
    sigmas: Tensor
    about: Any = None
    _digests: dict[str, str] = field(default_factory=dict, init=False)

    def begin(self) -> int:
        """How many steps are complete. What is damaged or belongs to something else is set aside.

        Raises:
            OSError: the folder can not be written.
        """
        path = Path(self.folder) / HEADER
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            self._digests = dict(held.pop("digests"))
            if held != self._description():
                set_aside(path.parent, f"{path.parent.name}: holds the trajectory of another clip, model or schedule.")
                self._digests = {}
        except FileNotFoundError:
            self._digests = {}
        except (ValueError, TypeError, KeyError, AttributeError):
            set_aside(path, f"{path}: is damaged.")
            self._digests = {}
        done = next((i for i in range(len(self.sigmas)) if not self._whole(_step(i))), len(self.sigmas))
        if done > 1 and not self._whole(_last(done - 1)):
            # Half the bits are not enough to go on from.
            done = 1
        self._save_header()
        return done

    def write(self, step: int, x: Tensor) -> None:
        """Add x at noise level number ``step``, in the scale of a LATENT: float16, and the clip itself in float32.

        Raises:
            ValueError: another shape than the clip's, or a value too large for float16.
            OSError: it can not be written; no half a step stays behind.
        """
        if x.shape != self.clip.shape:
            raise ValueError(f"trajectory: a step {tuple(x.shape)} in a folder of {tuple(self.clip.shape)}.")
        values = x.detach().cpu().to(torch.float16 if step else torch.float32)
        if not torch.isfinite(values).all():
            raise ValueError(f"trajectory: step {step} holds values that are not finite or too large for float16.")
        if step:
            # Before its step: what is counted as done can be gone on from.
            self._save(_last(step), x.detach().float().cpu())
        self._save(_step(step), values)
        self._save_header()
        if step:
            (Path(self.folder) / _last(step - 1)).unlink(missing_ok=True)

    def last(self, step: int) -> Tensor:
        """x at a step in float32."""
        return torch.from_numpy(np.load(Path(self.folder) / _last(step))) if step else self.clip.float().cpu()

    def _description(self) -> dict[str, Any]:
        levels, about = self.sigmas.double().tolist(), json.loads(json.dumps(self.about))
        clip = content_hash(self.clip.float())
        return {**KIND, "shape": list(self.clip.shape), "sigmas": levels, "clip": clip, "about": about}

    def _whole(self, name: str) -> bool:
        """Whether a file is there as it was written; another one is set aside."""
        path = Path(self.folder) / name
        if not path.exists():
            return False
        if self._digests.get(name) == digest_of(path):
            return True
        set_aside(path, f"{path}: is damaged or of another inversion.")
        return False

    def _save(self, name: str, values: Tensor) -> None:
        data = io.BytesIO()
        np.save(data, values.numpy())
        write_bytes(Path(self.folder) / name, data.getvalue())
        self._digests[name] = digest_of(Path(self.folder) / name)

    def _save_header(self) -> None:
        held = {**self._description(), "digests": self._digests}
        write_bytes(Path(self.folder) / HEADER, json.dumps(held).encode())


def write(folder: Path, steps: Iterable[Tensor], sigmas: Tensor) -> Trajectory:
    """All steps at once; returns them memory-mapped. Raises as ``TrajectoryStore``."""
    steps = list(steps)
    store = TrajectoryStore(folder, steps[0], sigmas)
    store.begin()
    for step, x in enumerate(steps):
        store.write(step, x)
    return read(folder)


def inverted(
    folder: Path, samples: Tensor, sigmas: Tensor, advance: Callable[[int, Tensor, Tensor], Tensor], about: Any = None
) -> tuple[Trajectory, Tensor]:
    """Invert a clip step by step on disk, or go on where it was cut off.

    Args:
        samples, sigmas, about: see ``TrajectoryStore``.
        advance: (i, x, sigmas[i : i + 2]) -> x at the second of the two noise levels.

    Returns:
        the trajectory, mapped, and its last x in float32. Cut off anywhere or never, the result is
        the same to the last bit.

    Raises:
        ValueError, OSError: as ``TrajectoryStore``.
    """
    store = TrajectoryStore(folder, samples, sigmas, about)
    done = store.begin()
    if not done:
        store.write(0, samples)
    x = samples if done < 2 else store.last(done - 1)
    for step in range(max(done, 1), len(sigmas)):
        x = advance(step - 1, x, sigmas[step - 1 : step + 1])
        store.write(step, x)
    return read(folder), x


def read(folder: Path) -> Trajectory:
    """A trajectory whose steps are mapped from disk, not loaded.

    Raises:
        FileNotFoundError: there is none.
        ValueError: steps are missing.
    """
    sigmas = torch.tensor(json.loads((Path(folder) / HEADER).read_text())["sigmas"], dtype=torch.float64)
    missing = [i for i in range(len(sigmas)) if not (Path(folder) / _step(i)).exists()]
    if missing:
        raise ValueError(f"{Path(folder).name}: the inversion ended before step {missing[0]} of {len(sigmas) - 1}; "
                         "let it finish.")
    # Copy on write: torch wants memory that it may write to, and nothing here does.
    steps = [torch.from_numpy(np.load(Path(folder) / _step(i), mmap_mode="c")) for i in range(len(sigmas))]
    return Trajectory(steps, sigmas)


def _step(step: int) -> str:
    return f"step_{step:04}.npy"


def _last(step: int) -> str:
    return f"last_{step:04}.npy"
