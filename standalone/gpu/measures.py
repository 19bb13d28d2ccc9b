"""What is measured against predictions and goals. Sizes of a rehearsal say nothing; that it runs is what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .pieces import Compared, Outcome, Run

PREDICTIONS = Path(__file__).parents[2] / "benchmarks" / "results" / "full_size.json"
#: Share of the device's rate in a plain product that a training is to reach.
SHARE = 0.45


@cache
def predictions() -> dict[tuple[str, str], Mapping[str, Any]]:
    """Rows of the fake run by method and dtype: see ``bench full_size``."""
    if not PREDICTIONS.is_file():
        return {}
    rows = json.loads(PREDICTIONS.read_text(encoding="utf-8"))["rows"]
    return {(row["method"], row["dtype"]): row for row in rows}


def _predicted(name: str, dtype: str, tiny: bool) -> Mapping[str, Any]:
    """Of the paper's size; a rehearsal's is another."""
    return {} if tiny else predictions().get((name, dtype), {})


def _added(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def kernels(where: Run, dtype: str) -> Outcome:
    """Every kernel against the best of SDPA's backends, and FlexAttention, at equal query-key pairs."""
    from ...benchmarks.kernels.run import main

    sizes = ["4x16"] if where.tiny else ["8x1024", "8x4096", "16x4096"]
    report = main(None, where.folder / f"kernels_{dtype}.json", sizes, dtype=dtype)
    compared = []
    for row in report["rows"]:
        for key, way in (("ratio", "forward"), ("train_ratio", "with backward")):
            if row["rival"] == "ours" and row[key] is not None:
                what = f"{row['operation']} {row['size']}, {way}"
                compared.append(Compared(f"{what}, over the baseline", "x", row[key], goal=1.1))
                if row["baseline"] == "sdpa":
                    # At equal query-key pairs the rates are as the times.
                    compared.append(Compared(f"{what}, share of SDPA's best rate", "", 1 / row[key], goal=0.9,
                                             higher=True))  # fmt: skip
    return Outcome({"rows": report["rows"]}, tuple(compared))


def ei2(where: Run) -> Outcome:
    """500 steps of tuning on 8 frames of 512x512, then 50 of inversion and of sampling, in two dtypes."""
    import torch

    from ...benchmarks.full_size.timed import timed_ei2
    from ...benchmarks.full_size.unet import SD15, TINY
    from ...benchmarks.lora_edit_size.run import matrix_rate

    shape, latent, tuning, steps = (TINY, (3, 4, 16, 16), 2, 2) if where.tiny else (SD15, (8, 4, 64, 64), 500, 50)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found, compared = {}, []
    for words, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        row = timed_ei2(shape, latent, dtype, tuning, steps)
        found[words] = row
        step, call = (_predicted(name, words, where.tiny) for name in ("ei2 tuning", "ei2 sampling"))
        work = step.get("work_tflop")
        seconds = work and tuning * work * 1e12 / (SHARE * matrix_rate(device, dtype, 128 if where.tiny else None))
        compared += [
            Compared(f"{tuning} steps of tuning, {words}", "s", row["tuning_seconds"], seconds,
                     60.0 if words == "bfloat16" and not where.tiny else None),
            # At most 60 % of what the paper reports for both.
            Compared(f"memory of tuning, {words}", "GiB", row["tuning_gib"],
                     _added(step.get("fake_gib"), step.get("weights_gib")), 0.6 * 11.0),
            Compared(f"memory of sampling, {words}", "GiB", row["sampling_gib"],
                     _added(call.get("fake_gib"), call.get("weights_gib")), 0.6 * 5.3),
        ]  # fmt: skip
    return Outcome(found, tuple(compared))


def via(where: Run) -> Outcome:
    """Gather-swap on clips of 512x512 under InstructPix2Pix's three branches, 10 steps."""
    import torch

    from ...benchmarks.full_size.timed import timed_via
    from ...benchmarks.full_size.unet import PIX2PIX, TINY_PIX2PIX
    from ...benchmarks.lora_edit_size.run import matrix_rate
    from ...methods.via.pipeline import ViaRecipe

    shape, side, lengths = (TINY_PIX2PIX, 16, (4, 6)) if where.tiny else (PIX2PIX, 64, (64, 256))
    recipe = ViaRecipe(adaptation=None, blend=None, steps=2 if where.tiny else 10)
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    rate = matrix_rate(device, dtype, 128 if where.tiny else None)
    found, compared = {}, []
    for frames in lengths:
        row = timed_via(shape, (frames, 4, side, side), dtype, recipe)
        found[str(frames)] = row
        group = recipe.swap.group if recipe.swap else 0
        compared.append(Compared(f"{frames} frames, over plain sampling", "x", row["over_plain"],
                                 goal=1 + 0.8 * group / frames))  # fmt: skip
        # The fake run's bfloat16 is as large; its work is of one step.
        fake = _predicted(f"via {frames} frames", "bfloat16", where.tiny)
        work = fake.get("work_tflop")
        compared.append(Compared(f"{frames} frames", "frames/s", row["frames_per_second"],
                                 work and frames * SHARE * rate / (recipe.steps * work * 1e12), higher=True))
        compared.append(Compared(f"memory of {frames} frames", "GiB", row["peak_gib"],
                                 _added(fake.get("fake_gib"), fake.get("weights_gib"))))
    first, last = (found[str(frames)]["peak_gib"] for frames in lengths)
    compared.append(Compared(f"memory of {lengths[1]} frames over that of {lengths[0]}", "x", last / first, goal=1.1))
    return Outcome(found, tuple(compared))


def lora_edit(where: Run, model: str) -> Outcome:
    """Steps of training a LoRA on diffusers' Wan at the paper's size."""
    from ...benchmarks.lora_edit_size.run import PAPER, main

    size, dtype = ("5x32x32", "float32") if where.tiny else (PAPER, "bfloat16")
    report = main(["tiny" if where.tiny else model], where.folder / f"lora_edit_{model}.json", [size],
                  timed=1 if where.tiny else 3)  # fmt: skip
    (row,) = report["rows"]
    fake = _predicted(model, dtype, where.tiny)
    beside = fake.get("fake_gib", row["predicted_gib"])
    work = fake.get("work_tflop", row["work_tflop"])
    return Outcome(row, (
        Compared("a step", "s", row["step_seconds"], work / (SHARE * row["matrix_tflops"])),
        Compared("memory beside the weights", "GiB", row["beside_weights_gib"], beside),
        Compared("told before the training", "GiB", row["predicted_gib"], beside),
        Compared("share of the matrix rate", "", row["share"], goal=None if where.tiny else SHARE, higher=True),
    ))  # fmt: skip


def toy_table(where: Run, name: str) -> Outcome:
    """A benchmark on the toy world with the papers' full steps, on 24 held-out clips; goes on where it was."""
    import importlib

    module = importlib.import_module(f"...benchmarks.{name}.run", __package__)
    path = where.folder / f"toy_{name}.json"
    report = module.main(**_small(name) if where.tiny else _whole(name), json_path=path)
    return Outcome({"meta": report["meta"], "rows": report["rows"]})


def _whole(name: str) -> dict[str, Any]:
    """The whole table of a benchmark, by the steps that the papers publish: a scale of 1 where one is asked."""
    return {"clips": 24, **({"steps": 1.0} if name in ("ei2", "dape") else {})}


def _small(name: str) -> dict[str, Any]:
    """One edit, one method, as few steps as there are."""
    from ...benchmarks.common.edited import Settings
    from ...methods.tune_recipe import TuneRecipe

    one = {"clips": 1, "methods": ["per-frame"]}
    common = Settings(TuneRecipe(steps=1), 1, 3.0)
    if name == "ei2":
        return {**one, "settings": common}
    if name == "dape":
        from ...benchmarks.dape.methods import Settings as DAPESettings

        return {**one, "methods": ["base"], "bases": ["per-frame"], "settings": DAPESettings(common, 0.001)}
    if name == "via":
        from ...benchmarks.via.methods import Settings as VIASettings
        from ...benchmarks.via.report import FRAMES
        from ...methods.via.adapt import AdaptRecipe
        from ...methods.via.pipeline import ViaRecipe

        adaptation = AdaptRecipe(TuneRecipe(steps=1, queries=False), rank=2, batch=1, variants=1)
        return {**one, "sizes": [str(FRAMES)], "settings": VIASettings(ViaRecipe(adaptation, seeds=(0,), steps=1))}
    from ...benchmarks.lora_edit.methods import METHODS
    from ...benchmarks.lora_edit.methods import Settings as VideoSettings

    quick = VideoSettings(steps=1, rank=2, second=1, sampling=1)
    return {"clips": 1, "methods": list(METHODS)[:1], "settings": quick}
