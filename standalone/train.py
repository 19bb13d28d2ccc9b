"""``python -m steadyedit train lora_edit``: LoRA-Edit's training on a folder of weights, without ComfyUI."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .graph import GraphError
from .team import end_with_parent, processes

if TYPE_CHECKING:
    from ..methods.lora_edit.samples import Sample

WIDTHS = ("bfloat16", "float32")


def add_train(commands: Any) -> None:
    """The command and its options."""
    train = commands.add_parser("train", help="train a LoRA on a clip from a folder of weights, without ComfyUI")
    train.add_argument("method", choices=("lora_edit",))
    train.add_argument("weights", type=Path, metavar="FOLDER", help="Wan image-to-video weights in diffusers' layout")
    train.add_argument("--video", type=Path, required=True, metavar="FILE", help="the clip")
    train.add_argument("--mask", type=Path, required=True, metavar="FILE",
                       help="a video or picture that is white where the clip is to be edited")
    train.add_argument("--prompt", required=True, metavar="WORDS", help="what the clip shows")
    train.add_argument("--first-frame", type=Path, metavar="FILE",
                       help="the edited first frame, learned beside the clip; sampling needs it, training does not")
    train.add_argument("--output", type=Path, required=True, metavar="FILE", help="the LoRA, .safetensors")
    train.add_argument("--frames", type=int, default=49, help="4N+1 of the clip (default: %(default)s)")
    train.add_argument("--size", default="832x480", metavar="WxH", help="sides divide by 16 (default: %(default)s)")
    train.add_argument("--clip-length", type=int, default=0, metavar="FRAMES",
                       help="cut the clip into shorter ones, 13 in the paper (default: the clip in one)")
    train.add_argument("--shape", choices=("boxes", "as it is"), default="boxes",
                       help="boxes around the mask, as the authors', or the mask itself")
    train.add_argument("--steps", type=int, default=100, help="(default: %(default)s)")
    train.add_argument("--rank", type=int, default=16, help="(default: %(default)s)")
    train.add_argument("--learning-rate", type=float, default=1e-4, help="(default: %(default)s)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--batch", type=int, default=0, metavar="N",
                       help="samples in a step (default: one for each process)")
    train.add_argument("--width", choices=WIDTHS, default=WIDTHS[0], help="of the weights (default: %(default)s)")
    train.add_argument("--processes", type=int, metavar="N", help="that share out the samples of a step; torchrun "
                       "does the same")
    train.add_argument("--shard", action="store_true", help="every process holds its part of the weights only")


def train(options: argparse.Namespace) -> int:
    """Train, and print the LoRA's file."""
    check(options)
    alone = "WORLD_SIZE" not in os.environ
    if options.processes is not None and alone:
        from .processes import launch, without_option

        given = without_option(options.arguments, "--processes")
        # Said once, so that the run goes on by any number of processes.
        return launch(options.processes, given if options.batch else [*given, f"--batch={options.processes}"])
    if processes() == 1:
        if options.shard:
            raise GraphError("--shard: parts the weights among processes; add --processes N, or leave it out.")
        return _train(options, None)
    end_with_parent()
    from .parallel import Accelerated

    together = Accelerated(options.batch)
    try:
        return _train(options, together)
    finally:
        together.end()


def check(options: argparse.Namespace) -> None:
    """Raise GraphError for what can be told before anything is loaded."""
    for name in ("video", "mask", "first_frame"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            raise GraphError(f"--{name.replace('_', '-')} {path}: there is no such file.")
    if options.output.suffix != ".safetensors":
        raise GraphError(f"--output {options.output}: LoRAs are saved as .safetensors; give it that ending.")
    if options.processes is not None and options.processes < 1:
        raise GraphError(f"--processes: at least 1 is needed, but got {options.processes}.")
    for name, least in (("steps", 1), ("rank", 1), ("batch", 0), ("frames", 5)):
        if getattr(options, name) < least:
            raise GraphError(f"--{name}: expected {least} or more, but got {getattr(options, name)}.")
    if not options.learning_rate > 0:
        raise GraphError(f"--learning-rate: expected a number above 0, but got {options.learning_rate}.")
    size_of(options.size)


def size_of(text: str) -> tuple[int, int]:
    """(width, height) of WxH. Raises GraphError."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()) or int(width) % 16 or int(height) % 16 or "0" in (width, height):
        raise GraphError(f"--size {text}: expected WIDTHxHEIGHT such as 832x480, both divisible by 16.")
    return int(width), int(height)


def _train(options: argparse.Namespace, together: Any) -> int:
    import torch
    from safetensors.torch import save

    from ..backends.diffusers.video import DiffusersVideoBackend
    from ..backends.diffusers.wan_folder import WanFolder
    from ..files.writing import write_bytes
    from ..methods.lora_edit.recipe import MaskLoRARecipe
    from ..methods.lora_edit.train import VideoSettings, train_mask_lora

    device = together.device if together else "cuda" if torch.cuda.is_available() else "cpu"
    batch = options.batch or (together.size if together else 1)
    if together and batch % together.size:
        raise GraphError(f"--batch: {batch} samples cannot be shared out evenly among {together.size} processes; give "
                         "a multiple.")
    weights, dtype = WanFolder(options.weights, device), getattr(torch, options.width)
    samples = samples_of(options, weights, dtype)
    model = weights.model(dtype)
    backend = DiffusersVideoBackend()
    if options.shard:
        from .parallel import ShardedVideoBackend

        backend = ShardedVideoBackend(model)
    default = MaskLoRARecipe()
    training = replace(default.training, steps=options.steps, learning_rate=options.learning_rate, seed=options.seed)
    recipe = replace(default, training=training, rank=options.rank, batch=batch)
    tuned = train_mask_lora(backend, model, samples, recipe, VideoSettings(preview_every=0.0), together=together,
                            cache=backend.weights_folder(), progress=_bar(options.steps, together))
    if together is None or together.rank == 0:
        lora = {key: value.detach().cpu().contiguous() for key, value in tuned.weights.tensors.items()}
        write_bytes(options.output, save(lora, {"format": "pt"}))
        print(options.output)
    return 0


def samples_of(options: argparse.Namespace, weights: Any, dtype: Any) -> tuple[Sample, ...]:
    """The clip as the nodes Box Mask, Mask Sample and Frame Sample make it; encoders are let go of one by one."""
    from ..methods.lora_edit.condition import check_video
    from ..methods.lora_edit.masks import boxes
    from ..methods.lora_edit.samples import frame_sample, mask_samples
    from ..video.read import read_clip

    size = size_of(options.size)
    video = read_clip(options.video, count=options.frames, size=size).frames
    if len(video) < options.frames:
        raise GraphError(f"--video {options.video}: has {len(video)} frames, but --frames asks for {options.frames}; "
                         f"set it to {(len(video) - 1) // 4 * 4 + 1}.")
    check_video("--video", video)
    mask = read_clip(options.mask, count=options.frames, size=size).frames[..., 0]
    if len(mask) not in (1, len(video)):
        raise GraphError(f"--mask {options.mask}: has {len(mask)} frames, but the clip has {len(video)}; give one "
                         "picture, or a video of its length.")
    mask = boxes(mask) if options.shape == "boxes" else (mask >= 0.5).float()
    text, look = weights.text(options.prompt, dtype), weights.look()
    vae = weights.vae()
    made = mask_samples(vae.encode, video, mask, text, keep="outside, first frame", clip_length=options.clip_length,
                        look=look)  # fmt: skip
    if options.first_frame is not None:
        edited = read_clip(options.first_frame, count=1, size=size).frames
        made = (*made, frame_sample(vae.encode, video[:1], edited, mask[:1], text, look=look, label="first frame"))
    return made


def _bar(steps: int, together: Any) -> Any:
    from ..backends.diffusers.local import TerminalProgress

    if together is None or together.rank == 0:
        return TerminalProgress(steps, "mask-aware LoRA")
    return _Quiet()


class _Quiet:
    """``Progress`` of a process that says nothing."""

    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        """Nothing is shown."""
