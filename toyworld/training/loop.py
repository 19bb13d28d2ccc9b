"""What every recipe shares: checkpoints that resume, running averages, the loss curve, and publishing of weights."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from pathlib import Path

import torch
from torch import nn

from .. import models
from .data import CACHE
from .muon import Muon

#: first and last layers and tables have few or sparse directions: AdamW's update suits them
PLAIN = (
    "conv_in.", "conv_out.", "token_embedding", "position_embedding", "patch_embedding", "class_embedding", "heads.")


class Stopped(RuntimeError):
    """Training met a loss that is not a number."""


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def quiet_residuals(module: nn.Module) -> None:
    """Zero the last layer of every residual branch: the network starts shallow and deepens as it learns.

    With Muon, this takes the autoencoder to a loss in 100 steps for which AdamW from the usual start needs 1,000.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            inner = "transformer_blocks" in name  # behind a proj_out that is zero already
            if not inner and any(part in name for part in ("conv2.", "to_out.0.", "proj_out.")):
                parameter.zero_()


class Ema:
    """average <- d average + (1 - d) parameters, with d growing to `decay` as (1 + n) / (10 + n)."""

    def __init__(self, modules: dict[str, nn.Module], decay: float):
        self.decay, self.count = decay, 0
        self.average = {name: {k: v.detach().clone() for k, v in m.state_dict().items()} for name, m in modules.items()}

    def update(self, modules: dict[str, nn.Module]) -> None:
        self.count += 1
        weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        for name, module in modules.items():
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    self.average[name][key].lerp_(value, weight)
                else:
                    self.average[name][key].copy_(value)

    def state(self) -> dict:
        return {"count": self.count, "average": self.average}

    def load(self, state: dict) -> None:
        self.count, self.average = state["count"], state["average"]


def save_atomically(state: dict, path: Path) -> None:
    """Write beside, then rename: an interrupted save leaves the old file whole."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    os.replace(beside, path)


class Run:
    """One training's modules, optimiser, average and records, saved together and resumed together.

    The random state is saved too, so that a resumed run continues as an uninterrupted one would.
    """

    def __init__(self, name: str, trained: dict[str, nn.Module], steps: int, peak: float, seed: int,
                 ema: float = 0.999, warmup: int = 100, weight_decay: float = 0.01, save_minutes: float = 3.0,
                 plain: tuple[str, ...] = PLAIN):
        self.name, self.modules, self.steps, self.peak, self.warmup, self.seed = (
            name, trained, steps, peak, warmup, seed)
        named = [(k, p) for m in trained.values() for k, p in m.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        apart = [p for k, p in named if any(part in k for part in plain)]
        self.optimiser = Muon(self.parameters, lr=peak, weight_decay=weight_decay, plain=apart)
        self.ema = Ema(trained, ema)
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.minutes = 0, 0.0
        self.curve: list[tuple[int, float]] = []
        self.path, self.save_seconds, self._saved = CACHE / f"{name}.pt", save_minutes * 60, time.time()
        self._since = time.time()
        self._window: list[float] = []
        if self.path.exists():
            self.resume()

    def resume(self) -> None:
        state = torch.load(self.path, weights_only=True)
        for key, module in self.modules.items():
            module.load_state_dict(state["modules"][key])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema.load(state["ema"])
        self.generator.set_state(state["generator"])
        self.step, self.minutes, self.curve = state["step"], state["minutes"], [tuple(r) for r in state["curve"]]

    def save(self) -> None:
        now = time.time()
        self.minutes += (now - self._since) / 60
        self._since = self._saved = now
        save_atomically({
            "modules": {k: m.state_dict() for k, m in self.modules.items()}, "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state(), "generator": self.generator.get_state(), "step": self.step,
            "minutes": self.minutes, "curve": self.curve}, self.path)

    def advance(self, loss: torch.Tensor, clip: float = 1.0) -> None:
        """Backward, clipped AdamW step, average, record; checkpoint when due."""
        if not torch.isfinite(loss):
            raise Stopped(f"The loss of {self.name} is {loss.item()} at step {self.step}: lower the learning rate "
                          f"and start again from the last checkpoint.")
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.peak, self.warmup)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, clip)
        self.optimiser.step()
        self.ema.update(self.modules)
        self._window.append(loss.item())
        self.step += 1
        if self.step % 25 == 0 or self.step == self.steps:
            self.curve.append((self.step, sum(self._window) / len(self._window)))
            self._window = []
        if time.time() - self._saved > self.save_seconds or self.step == self.steps:
            self.save()

    def write_curve(self) -> None:
        """weights/<name>_curve.csv and a small picture of it."""
        models.WEIGHTS.mkdir(exist_ok=True)
        with open(models.WEIGHTS / f"{self.name}_curve.csv", "w", newline="") as file:
            csv.writer(file).writerows([("step", "loss"), *((s, f"{v:.6f}") for s, v in self.curve)])
        draw_curve(self.curve, models.WEIGHTS / f"{self.name}_curve.png")


def draw_curve(curve: list[tuple[int, float]], path: Path, width: int = 480, height: int = 240) -> None:
    """Loss over steps, logarithmic upwards."""
    from PIL import Image, ImageDraw

    if len(curve) < 2:
        return
    logs = [math.log10(max(v, 1e-9)) for _, v in curve]
    low, high = min(logs), max(logs) + 1e-9
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    points = [(40 + (width - 50) * s / curve[-1][0], 15 + (height - 35) * (high - v) / (high - low))
              for (s, _), v in zip(curve, logs)]
    draw.line(points, fill=(40, 80, 200), width=2)
    draw.text((2, 8), f"{10**high:.3g}", fill="black")
    draw.text((2, height - 28), f"{10**low:.3g}", fill="black")
    draw.text((width // 2 - 40, height - 14), f"{curve[-1][0]} steps", fill="black")
    image.save(path, optimize=True)


def publish(name: str, state: dict, record: dict) -> None:
    """Write weights/<name>.safetensors (fp16, classic key names) and its sidecar with the file's hash."""
    from safetensors.torch import save_file

    models.WEIGHTS.mkdir(exist_ok=True)
    path = models.weights_path(name)
    beside = path.with_suffix(".part")
    state, record = models.without_base(name, state, record)
    save_file({k: v.half().contiguous() if v.is_floating_point() else v.contiguous()
               for k, v in models.to_file_keys(name, state).items() if not k.endswith("position_ids")}, beside,
              metadata={"format": "pt", "model": f"steadyedit toyworld {name}"})
    os.replace(beside, path)
    record = {**record, "bytes": path.stat().st_size, "sha256": models.sha256_of(path)}
    (models.WEIGHTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    models.check_hash.cache_clear()


def add_bars(name: str, bars: dict) -> None:
    """Add measured numbers to the sidecar of `name`."""
    record = models.config_of(name)
    record.setdefault("bars", {}).update(bars)
    (models.WEIGHTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
