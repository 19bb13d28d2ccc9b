"""ComfyUI's own Generate Text in the place of a captioner: a text encoder that sees pictures, asked in a host."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from .comfy_host import send
from .comfy_process import Host, running
from .graph import Graph, GraphError

if TYPE_CHECKING:
    from torch import Tensor

#: Where ComfyUI looks for text encoders, in its folder of models.
FOLDERS = ("text_encoders", "clip")
SEEING = "such as qwen3vl_4b_bf16.safetensors, qwen3.5_4b_bf16.safetensors or gemma4_e4b_it_fp8_scaled.safetensors"
LOADER, ASKED, SHOWN = "1", "2", "3"


class TextGenerator:
    """Asks a text encoder in a host about pictures, as a ``vision.captions.Captioner`` that chats.

    Args:
        host: a ComfyUI that runs.
        name: a file of its text encoders.
    """

    chats = True

    def __init__(self, host: Host, name: str):
        self.host, self.name = host, name

    def caption(self, frame: Tensor, style: str = "detailed", tokens: int = 256) -> str:
        """Words for a frame [height, width, 3]; ``style`` is one of ``vision.captions.DESCRIBE``."""
        from ..vision.captions import DESCRIBE

        return self.ask(frame, DESCRIBE[style], tokens)

    def ask(self, frames: Tensor, words: str, tokens: int = 64) -> str:
        """What the network writes for frames and words, without sampling.

        Args:
            frames: [height, width, 3] or [F, height, width, 3] in 0..1.

        Raises:
            GraphError: Generate Text failed, or is not there.
        """
        from ..vision.segmentation.geometry import as_pixels

        # One history for the run: two clips' frames are never under one name.
        names = []
        for frame in frames if frames.ndim == 4 else frames[None]:
            names.append(f"{uuid.uuid4().hex}.png")
            as_pixels(frame).save(self.host.input / names[-1])
        history = send(question(self.name, names, words, tokens), self.host, bar=False)
        for name in names:
            (self.host.input / name).unlink()
        return " ".join("".join(history.get("outputs", {}).get(SHOWN, {}).get("text", ())).split())


def question(name: str, pictures: Sequence[str], words: str, tokens: int) -> Graph:
    """The graph that asks: the pictures as one batch, in order; the loader is the same for all questions."""
    graph: Graph = {
        LOADER: {"class_type": "CLIPLoader", "_meta": {"title": f"Text encoder {name}"},
                 "inputs": {"clip_name": name, "type": "stable_diffusion"}},
        ASKED: {"class_type": "TextGenerate", "_meta": {"title": "Generate Text"}, "inputs": {
            "clip": [LOADER, 0], "prompt": words, "max_length": tokens, "sampling_mode": "off"}},
        SHOWN: {"class_type": "PreviewAny", "_meta": {"title": "Answer"}, "inputs": {"source": [ASKED, 0]}},
    }  # fmt: skip
    batch = ""
    for number, picture in enumerate(pictures):
        loaded = f"picture {number}"
        graph[loaded] = {"class_type": "LoadImage", "_meta": {"title": loaded}, "inputs": {"image": picture}}
        if batch:
            graph[f"batch {number}"] = {"class_type": "ImageBatch", "_meta": {"title": "Batch"},
                                        "inputs": {"image1": [batch, 0], "image2": [loaded, 0]}}  # fmt: skip
        batch = f"batch {number}" if batch else loaded
    graph[ASKED]["inputs"]["image"] = [batch, 0]
    return graph


def found_text_encoder(name: str, models: Path) -> Path:
    """The file of a text encoder that Generate Text shows pictures to.

    Args:
        name: as ComfyUI lists it, or a path.
        models: ComfyUI's folder of models.

    Raises:
        GraphError: there is no such file, or it would answer without having seen the pictures.
    """
    files = {str(path.relative_to(models / folder)): path for folder in FOLDERS
             for path in sorted((models / folder).rglob("*.safetensors"))}  # fmt: skip
    file = files.get(name, Path(name).expanduser())
    if not file.is_file():
        raise GraphError(f"--text-encoder {name}: there is no such file, nor is it in {models / FOLDERS[0]}, which "
                         f"holds {', '.join(files) or 'none'}.")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as held:
            keys = set(held.keys())
    except (OSError, SafetensorError) as error:
        raise GraphError(f"--text-encoder {name}: is no whole safetensors file ({error}).") from error
    if not sees(keys):
        raise GraphError(f"--text-encoder {name}: Generate Text would not show it the pictures; choose one that sees "
                         f"them, {SEEING}.")
    return file


def sees(keys: Collection[str]) -> bool:
    """Whether Generate Text shows the picture to the text encoder with these weights.

    Qwen2.5-VL has eyes, too, but as ComfyUI loads it for Qwen-Image it is shown none in Generate Text.
    """
    qwen3_vl = "model.visual.deepstack_merger_list.0.norm.weight" in keys
    qwen35 = "model.language_model.layers.0.linear_attn.A_log" in keys and any("visual." in key for key in keys)
    gemma = "model.layers.0.post_feedforward_layernorm.weight" in keys and any("vision" in key for key in keys)
    return qwen3_vl or qwen35 or gemma


@contextmanager
def generating(comfy: Path, file: Path, packs: Sequence[Path] = ()) -> Iterator[TextGenerator]:
    """A ComfyUI of its own that answers by this text encoder, ended with the ``with``.

    Args:
        comfy: folder of a ComfyUI.
        file: the text encoder's, wherever it lies.
        packs: folders of more nodes.
    """
    with TemporaryDirectory(prefix="steadyedit-text-") as folder:
        # A folder of models of its own: the user's may be in several places, and no other model is asked for.
        models = Path(folder) / "models"
        (models / FOLDERS[0]).mkdir(parents=True)
        (models / FOLDERS[0] / file.name).symlink_to(file.absolute())
        with running(comfy, Path(folder), models=models, packs=packs) as host:
            yield TextGenerator(host, file.name)
