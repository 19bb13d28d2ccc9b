"""Beside what ComfyUI's own nodes do, and a pack for it: only here does the bench name the host. In its Python."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from .clips import FRAMES, HEIGHT, READ_TOLERANCE, WIDTH, clip_file, frames_apart, moving
from .contest import Absent, Contest
from .networks import relative

#: x264's own setting, which core leaves as it is.
CRF = 23.0
RANK, LAYERS, WIDTH_OF_WAN, INNER, TEXT = 16, 12, 512, 2304, 512


def make_importable(folders: Mapping[str, Path]) -> None:
    """Make the host importable.

    Raises:
        Absent: there is none, or this Python cannot import it.
    """
    if "comfyui" not in folders:
        raise Absent("needs a ComfyUI (COMFYUI_PATH, or --peers comfyui=FOLDER)")
    if str(folders["comfyui"]) not in sys.path:
        sys.path.insert(0, str(folders["comfyui"]))
    try:
        from comfy.cli_args import args

        args.cpu = not torch.cuda.is_available()
        import comfy.model_patcher  # noqa: F401
    except ImportError as error:
        raise Absent(f"needs ComfyUI's Python ({error})") from error


def reading(folders: Mapping[str, Path], size: tuple[int, int, int] = (FRAMES, HEIGHT, WIDTH)) -> Contest:
    """60 frames of 1920x1080, beside core's Load Video with Get Video Components."""
    make_importable(folders)
    from comfy_api.latest import InputImpl

    from ...video.read import read_clip

    folder = tempfile.TemporaryDirectory(prefix="steadyedit-")
    path = clip_file(Path(folder.name), *size)
    return Contest(f"reading {size[0]} frames of {size[2]}x{size[1]}", "ComfyUI's core",
                   lambda: read_clip(path).frames, lambda: InputImpl.VideoFromFile(str(path)).get_components().images,
                   frames_apart, READ_TOLERANCE, weigh="resident", closing=folder.cleanup)  # fmt: skip


def writing(folders: Mapping[str, Path], size: tuple[int, int, int] = (30, HEIGHT, WIDTH)) -> Contest:
    """30 frames of 1920x1080 as mp4 of the same quality, beside core's Create Video with Save Video."""
    make_importable(folders)
    from fractions import Fraction

    from comfy_api.latest import InputImpl, Types

    from ...video.read import read_clip
    from ...video.write import write_clip

    folder, frames = tempfile.TemporaryDirectory(prefix="steadyedit-"), moving(*size)
    own, other = Path(folder.name) / "own.mp4", Path(folder.name) / "other.mp4"

    def theirs() -> Path:
        parts = Types.VideoComponents(images=frames, audio=None, frame_rate=Fraction(24))
        InputImpl.VideoFromComponents(parts).save_to(str(other))
        return other

    def apart(ours: Path, theirs: Path) -> tuple[float, str]:
        errors = [float((read_clip(path).frames - frames).square().mean()) for path in (ours, theirs)]
        behind = 10 * float(torch.tensor(errors[0] / errors[1]).log10())
        size = ours.stat().st_size / theirs.stat().st_size
        return max(behind, 10 * (size - 1)), f"the file is {size:.3f} of theirs in size and {-behind:+.2f} dB nearer"

    return Contest(f"writing {size[0]} frames of {size[2]}x{size[1]}", "ComfyUI's core",
                   lambda: write_clip(own, frames, 24, crf=CRF), theirs, apart, 0.5, rounds=2, weigh="resident",
                   closing=folder.cleanup)  # fmt: skip


def wan(layers: int = LAYERS, width: int = WIDTH_OF_WAN, inner: int = INNER, text: int = TEXT) -> Any:
    """A MODEL in Wan's form that reads masks, of random weights; its own maker serves the host, which wants copies."""
    import comfy.model_patcher
    import comfy.supported_models

    config = {"image_model": "wan2.1", "model_type": "t2v", "in_dim": 36, "dim": width, "ffn_dim": inner,
              "num_heads": width // 128, "num_layers": layers, "text_dim": text, "freq_dim": 256, "out_dim": 16,
              "patch_size": (1, 2, 2), "qk_norm": True, "cross_attn_norm": True, "window_size": (-1, -1),
              "eps": 1e-6}  # fmt: skip
    settings = comfy.supported_models.WAN21_I2V(config)
    settings.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    base, generator = settings.get_model({}, "", device=cpu), torch.Generator().manual_seed(0)
    state = {}
    for key, value in base.diffusion_model.state_dict().items():
        near = 1.0 if "norm" in key and key.endswith(".weight") else 0.0
        state[key] = near + torch.randn(value.shape, generator=generator) * (0.02 if value.ndim > 1 else 0.01)
    base.diffusion_model.load_state_dict(state)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = comfy.model_patcher.ModelPatcher(base, device, cpu)
    sizes = layers, width, inner, text
    model.cached_patcher_init = (lambda *given, disable_dynamic=False: wan(*given), sizes)
    return model


def lora_step(folders: Mapping[str, Path], latent: tuple[int, int, int] = (4, 16, 24), **sizes: int) -> Contest:
    """A step of Mask-Aware LoRA on a Wan of 60 million numbers, beside one of core's Train LoRA; rank 16, float32.

    Core trains norms and biases as well and keeps a second copy of the model. Both have blocks computed again.
    """
    make_importable(folders)
    from comfy_extras.nodes_train import TrainLoraNode

    from ...backends.comfy_native import ComfyBackend
    from ...methods.lora_edit.choices import WAN
    from ...methods.lora_edit.recipe import MaskLoRARecipe
    from ...methods.lora_edit.samples import Sample
    from ...methods.lora_edit.train import VideoSettings, train_mask_lora
    from ...methods.tune_recipe import TuneRecipe

    model, backend, generator = wan(**sizes), ComfyBackend(), torch.Generator().manual_seed(1)
    clean, seen = (torch.randn(1, 16, *latent, generator=generator) for _ in range(2))
    mask = (torch.randn(1, 4, *latent, generator=generator) > 0).float()
    words = torch.randn(1, 32, sizes.get("text", TEXT), generator=generator)
    conditioning = [[words, {"concat_latent_image": seen, "concat_mask": mask}]]
    sample = Sample(clean, conditioning, 1, "clip", WAN)

    def ours(steps: int) -> Any:
        recipe = MaskLoRARecipe(TuneRecipe(steps=steps, learning_rate=1e-4, queries=False), rank=RANK)
        return train_mask_lora(backend, model, [sample], recipe, VideoSettings(preview_every=0), progress=_Quiet())

    def theirs(steps: int) -> Any:
        single = dict(
            batch_size=1, steps=steps, grad_accumulation_steps=1, learning_rate=1e-4, rank=RANK, optimizer="AdamW",
            loss_function="MSE", seed=0, training_dtype="fp32", lora_dtype="fp32", quantized_backward=False,
            algorithm="LoRA", gradient_checkpointing=True, checkpoint_depth=1, offloading=False,
            existing_lora="[None]", bucket_mode=False, bypass_mode=False,
        )  # fmt: skip
        return TrainLoraNode.execute(model=[model], latents=[{"samples": clean}], positive=[conditioning],
                                     **{name: [value] for name, value in single.items()})  # fmt: skip

    def apart(own: Any, other: Any) -> tuple[float, str]:
        return gradient_error(backend, model, sample, own.weights.tensors)

    return Contest("a step of Mask-Aware LoRA", "core's Train LoRA", lambda: ours(3), lambda: theirs(3), apart, 0.02,
                   unmeasured=(lambda: ours(1), lambda: theirs(1)), share=2, rounds=2)  # fmt: skip


def gradient_error(backend: Any, model: Any, sample: Any, lora: Mapping[str, Tensor]) -> tuple[float, str]:
    """A training's gradient against the difference of its loss along one direction, in shares of it."""
    from ...methods.lora_edit.memory import plan

    generator = torch.Generator().manual_seed(2)
    start = {key: value + torch.randn(value.shape, generator=generator) * 0.02 for key, value in lora.items()}
    size = backend.video_size(model, sample, "float32", start)
    planned = plan(size, sample.latent.shape, RANK, sum(value.numel() for value in start.values()))
    noise = torch.randn(sample.latent.shape, generator=generator)
    with backend.video_training(model, [sample], start, planned, "float32") as view:

        def loss() -> Tensor:
            return (view.predict_velocity(0.5 * (sample.latent + noise), torch.tensor(0.5), 0) - noise).square().mean()

        loss().backward()
        along = {key: value.grad / value.grad.norm() for key, value in view.parameters.items()}
        own_slope = sum(float((value.grad * along[key]).sum()) for key, value in view.parameters.items())
        ends = []
        with torch.no_grad():
            for sign in (1, -2):
                for key, value in view.parameters.items():
                    value.add_(along[key], alpha=sign * 0.02)
                ends.append(float(loss()))
    slope = (ends[0] - ends[1]) / 0.04
    error = abs(own_slope / slope - 1)
    return error, f"our gradient is {error:.1%} from the loss's difference"


def rave(folders: Mapping[str, Path], frames: int = 18, side: int = 16, steps: int = 4) -> Contest:
    """RAVE on the toy world's model, beside the pack's sampler with the same orders of frames."""
    make_importable(folders)
    if "rave" not in folders:
        raise Absent("needs the RAVE pack (--peers rave=FOLDER)")
    spec = importlib.util.spec_from_file_location("rave_pack", folders["rave"] / "nodes.py")
    if spec is None or spec.loader is None:
        raise Absent("the RAVE pack's folder has no nodes.py")
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    import comfy.samplers

    from ...backends.comfy_native import ComfyBackend, toy
    from ...methods.rave import Rave, build_rave

    backend, grid = ComfyBackend(), 3
    model, clip, _ = toy.load()
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in ("a red ball", ""))
    samples = torch.randn(frames, 4, side, side, generator=torch.Generator().manual_seed(0))
    attached = backend.attach(model, build_rave(backend.sites(model), grid=grid))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)

    def order(settings: Rave, count: int, step: int) -> tuple[int, ...]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            return tuple(torch.randperm(-(-count // grid**2) * grid**2).clamp(max=count - 1).tolist())

    def ours() -> Tensor:
        with torch.inference_mode(), patch.object(Rave, "order", order):
            return backend.sample(attached, positive, negative, 3.0, samples, sigmas, _Quiet(), sampler="euler")

    def theirs() -> Tensor:
        with torch.inference_mode(), patch("builtins.print"):
            return pack.KSamplerRAVE().sample(model, grid, False, 0, False, steps, 3.0, "euler", "normal", positive,
                                              negative, {"samples": samples}, 0, steps)[0]["samples"]

    grids = torch.randn(-(-frames // grid**2), 4, grid * side, grid * side, generator=torch.Generator().manual_seed(1))

    def network() -> Tensor:
        """The same U-Net on as many grids, without RAVE."""
        with torch.inference_mode():
            return backend.sample(model, positive, negative, 3.0, grids, sigmas, _Quiet(), sampler="euler")

    return Contest(f"RAVE on {frames} frames of {8 * side}x{8 * side}", "the RAVE pack", ours, theirs, relative, 1e-3,
                   floor=network)  # fmt: skip


class _Quiet:
    def update(self, *values: Any, **numbers: Any) -> None:
        """Nothing is shown."""
