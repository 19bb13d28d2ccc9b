"""Odd input for any node, by its schema: what the fuzz tests of both hosts share.

Every type of socket of the pack has a maker here. A new one fails loudly (``KeyError``), so that no node goes without.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch

CASES = int(os.environ.get("STEADYEDIT_FUZZ", "0"))
#: Dear settings are held small; what a picker offers depends on the machine.
SMALL = {"steps": 1, "count": 1, "variants": 1, "rank": 1, "refinement": 0, "batch": 1, "bottleneck": 4, "kernel": 1,
         "multiple": 8, "padding": 0.2, "size": 32, "frames": 2, "reuse": False, "slower": 1}  # fmt: skip
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
TOY = "toy world (shipped)"
ODD = (float("nan"), float("inf"), -float("inf"))


def kind_of(part: Any) -> str:
    return part.get_io_type() if hasattr(part, "get_io_type") else part.io_type


def setting(part: Any, name: str, otherwise: Any = None) -> Any:
    found = getattr(part, name, None)
    found = part.settings.get(name) if found is None and hasattr(part, "settings") else found
    return otherwise if found is None else found


@dataclass
class Values:
    """Values of a host, odd and good.

    Args:
        nodes: by id.
        video: VIDEO of an IMAGE batch.
        guider: GUIDER of MODEL and CONDITIONING.
        sampler: SAMPLER of a plain Euler.
    """

    nodes: dict[str, Any]
    video: Callable[[torch.Tensor, Fraction], Any]
    guider: Callable[[Any, Any], Any]
    sampler: Any
    kept: dict[str, tuple] = field(default_factory=dict)

    def made(self, node: str, **inputs: Any) -> tuple:
        """Outputs of a node of this pack, computed once."""
        if node not in self.kept:
            self.kept[node] = self.nodes[f"SteadyEdit{node}"].execute(**inputs).args
        return self.kept[node]

    def text(self, clip: Any = None) -> list:
        clip = clip or self.made("ToyModel")[1]
        return clip.encode_from_tokens_scheduled(clip.tokenize("a ball"))

    def model(self, draw: random.Random) -> Any:
        """Mostly the toy U-Net; else another family, or one that has a method on it."""
        others = {"ToyEditor": {}, "ToyWan": {}, "STAM": {"model": self.made("ToyModel")[0]},
                  "SparseCausal": {"model": self.made("ToyModel")[0]}}  # fmt: skip
        name = draw.choice(["ToyModel"] * 6 + list(others))
        return self.made(name, **others.get(name, {}))[0]

    def weights(self, draw: random.Random) -> Any:
        from steadyedit.methods.tuned_weights import TunedWeights

        tuned = self.made("OneShotTune", model=self.made("STAM", model=self.made("ToyModel")[0])[0],
                          latent={"samples": torch.rand(2, 4, 4, 4)}, conditioning=self.text(), steps=1,
                          learning_rate=1e-5, seed=0, tune_queries=True, reuse=False)[1]  # fmt: skip
        broken = {key: value * float("nan") for key, value in tuned.tensors.items()}
        fewer = dict(list(tuned.tensors.items())[1:])
        return draw.choice([tuned, tuned, TunedWeights({}, {}), TunedWeights({"x": torch.ones(2)}, {"methods": [1]}),
                            TunedWeights(broken, tuned.metadata), TunedWeights(fewer, tuned.metadata),
                            TunedWeights(tuned.tensors, {}), {"a": 1}])  # fmt: skip

    def lora(self, draw: random.Random) -> Any:
        from steadyedit import backends
        from steadyedit.methods.lora import new_lora

        model = self.made("ToyModel")[0]
        good = new_lora(backends.of(model).projections(model), 1, seed=0)
        one = next(iter(good))
        return draw.choice([good, {}, {"weight": torch.ones(2, 2)}, {one: good[one]},
                            {key: value * float("nan") for key, value in good.items()}])  # fmt: skip

    def samples(self, draw: random.Random) -> Any:
        clip, box = torch.rand(5, 32, 32, 3), torch.zeros(5, 32, 32)
        box[:, 8:24, 8:24] = 1
        _, text, vae = self.made("ToyWan")
        good = self.made("MaskSample", positive=self.text(text), vae=vae, video=clip, keep="outside, first frame",
                         clip_length=0, repeats=1, family="Wan 2.1 I2V", pooling="any", soft=False, mask=box)[0]
        return draw.choice([good, good, (), good * 2])

    def of(self, draw: random.Random, kind: str) -> Any:
        """A value of a type of sockets."""
        frames, side = draw.choice([0, 1, 2, 2, 3]), draw.choice([0, 1, 8, 16, 32, 32, 32])
        good = draw.random() < 0.4
        frames, side = (2, 32) if good else (frames, side)
        toy: dict[str, Callable[[], Any]] = {
            "IMAGE": lambda: tensor(draw, (frames, side, side, 3 if good else draw.choice([1, 2, 3, 3, 4]))),
            "MASK": lambda: tensor(draw, draw.choice([(frames, side, side), (side, side), (1, side, side)])),
            "LATENT": lambda: latent(draw, good, frames, side // 4),
            "CONDITIONING": lambda: self.conditioning(draw, good),
            "MODEL": lambda: self.model(draw),
            "CLIP": lambda: self.made("ToyModel")[1],
            "VAE": lambda: self.made(draw.choice(["ToyModel", "ToyModel", "ToyWan"]))[2],
            "CLIP_VISION": lambda: self.made("ToyCLIPVision")[1],
            "CONTROL_NET": lambda: self.made("ToyControlNet")[0],
            "SAMPLER": lambda: self.sampler,
            "SIGMAS": lambda: torch.tensor(draw.choice([[9.0, 0.0], [9.0, 0.0], [], [1.0], [0.0, 9.0], [9.0, ODD[0]]])),
            "GUIDER": lambda: self.guider(self.model(draw), self.conditioning(draw, good)),
            "VIDEO": lambda: self.video(tensor(draw, (frames, side, side, 3)), draw.choice([Fraction(8), Fraction(1)])),
            "AUDIO": lambda: {"waveform": torch.rand(1, 2, 800), "sample_rate": 8000},
            "OPTICAL_FLOW": lambda: None,
            "INTERP_MODEL": lambda: None,
            "BOUNDING_BOX": lambda: draw.choice([
                [], [[]], [[{"x": 2, "y": 2, "width": 9, "height": 9}]], [{"x": 0, "y": 0, "width": 0, "height": -1}],
                [[{"x": float("nan"), "y": 0, "width": 9, "height": 9}]], [[{"left": 1}]], "boxes"]),
            "STEADYEDIT_GROUNDING": lambda: self.made("GroundingModel", model=TOY, precision="auto")[0],
            "STEADYEDIT_SAM": lambda: self.made("SAMModel", model=TOY, precision="auto")[0],
            "STEADYEDIT_WEIGHTS": lambda: self.weights(draw),
            "LORA_MODEL": lambda: self.lora(draw),
            "STEADYEDIT_SAMPLES": lambda: self.samples(draw),
            # Mask-Aware LoRA's further samples
            "COMFY_AUTOGROW_V3": lambda: draw.choice([{}, {"samples_0": self.samples(draw)}]),
            "STEADYEDIT_CROP": lambda: crop(draw),
            "STEADYEDIT_STREAMED_INVERSION": lambda: self.made(
                "StreamedInversion", model=self.made("ToyModel")[0], conditioning=self.text(), steps=1, refinement=0,
                blend=draw.choice(["none", "ramp"]))[0],
        }  # fmt: skip
        return toy[kind]()

    def conditioning(self, draw: random.Random, good: bool) -> list:
        width = self.text()[0][0].shape[-1]
        if not good and draw.random() < 0.15:
            return []
        shape = (1, 77, width) if good else (draw.choice([0, 1, 1, 2]), draw.choice([0, 1, 77]),
                                             draw.choice([width, width, 7, 768]))  # fmt: skip
        return [[tensor(draw, shape), {}]]

    def inputs(self, draw: random.Random, node: Any) -> dict[str, Any]:
        """Odd input for one call."""
        given = {}
        for part in node.GET_SCHEMA().inputs:
            optional = bool(getattr(part, "optional", False))
            if optional and draw.random() < 0.5 or kind_of(part) in ("OPTICAL_FLOW", "INTERP_MODEL"):
                continue
            given[part.id] = widget(draw, part) if kind_of(part) in WIDGETS else self.of(draw, kind_of(part))
        return given


def tensor(draw: random.Random, shape: tuple[int, ...]) -> torch.Tensor:
    value = torch.rand(shape, generator=torch.Generator().manual_seed(draw.randrange(2**31)))
    if value.numel() and draw.random() < 0.25:
        value.view(-1)[draw.randrange(value.numel())] = draw.choice(ODD)
    return value


def latent(draw: random.Random, good: bool, frames: int, side: int) -> dict[str, Any]:
    channels = 4 if good else draw.choice([1, 3, 4, 4, 8, 16])
    shape = (frames, channels, side, side)
    return {"samples": tensor(draw, shape if good or draw.random() < 0.8 else (1, channels, frames, 4, 4))}


def crop(draw: random.Random) -> Any:
    from steadyedit.methods.plate.boxes import Crop

    return draw.choice([Crop((4, 6), (4, 4), 16, 16, 32, 32, 32, 32), Crop((0,), (0,), 8, 8, 8, 8, 32, 32),
                        Crop((), (), 8, 8, 8, 8, 8, 8), "crop"])  # fmt: skip


def widget(draw: random.Random, part: Any) -> Any:
    kind, name = kind_of(part), part.id
    if name in SMALL and kind != "STRING":
        return SMALL[name]
    if name in ("width", "height") and kind == "INT":
        return draw.choice([32, 32, 48, 8, 0, 20])
    low, high = setting(part, "min", 0), setting(part, "max", 1)
    if kind == "INT":
        return draw.choice([setting(part, "default", low), low, min(high, low + 3), min(high, 64)])
    if kind == "FLOAT":
        return draw.choice([setting(part, "default", low), low, high, draw.uniform(low, min(high, low + 1))])
    if kind == "STRING":
        return draw.choice(["", "0", "a ball", "-1", "0, 1", "999", "\n", "é{", "1-2", "../x", "a_####.png"])
    if kind == "BOOLEAN":
        return draw.choice([True, False])
    options = list(setting(part, "options", ()))
    return draw.choice(options or ["missing"]) if name not in ("model", "name") or TOY in options else (
        "none" if "none" in options else "missing")  # fmt: skip


def finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return finite(value.get("samples", 0))
    return all(map(finite, value)) if isinstance(value, (list, tuple)) else True


def fuzz(values: Values, cases: int) -> tuple[list[str], dict[str, list[int]]]:
    """Call every node ``cases`` times: what ended raw or not finite, and [results, refusals] by node."""
    from steadyedit.nodes.checked import is_sentence

    raw: list[str] = []
    counts: dict[str, list[int]] = {}
    for name, node in values.nodes.items():
        counts[name] = [0, 0]
        for case in range(cases if node.GET_SCHEMA().inputs else 1):
            draw = random.Random(f"{name} {case}")
            inputs = values.inputs(draw, node)
            told = f"{name} {case}"
            try:
                with torch.no_grad():
                    out = node.execute(**inputs)
            except Exception as error:
                counts[name][1] += 1
                if not is_sentence(error) and not isinstance(error, (OSError, MemoryError)):
                    raw.append(f"{told}: {type(error).__name__}: {str(error)[:150]}")
            else:
                counts[name][0] += 1
                if not all(finite(value) for value in out.args):
                    raw.append(f"{told}: a result that is not finite")
    return raw, counts
