"""ComfyUI's own Generate Text in the place of a captioner: a text encoder that sees pictures, asked in a host."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..files.found import listed_files
from .comfy_host import send
from .comfy_process import Host, running
from .graph import Graph, GraphError

if TYPE_CHECKING:
    from torch import Tensor

#: Where ComfyUI looks for text encoders, in its folder of models, and what it loads without pickle.
FOLDERS, ENDINGS = ("text_encoders", "clip"), (".safetensors", ".sft")
#: Earlier ones load no Qwen3-VL, or show Qwen3.5 the first of several pictures.
OLDEST = (0, 26)
#: Widths of Qwen3-VL 2B, 30B and 32B, which ComfyUI takes for its 8B.
UNKNOWN_WIDTHS = (2048, 5120)
SEEING = "such as qwen3vl_4b_bf16.safetensors, qwen3.5_4b_bf16.safetensors or gemma4_e4b_it_fp8_scaled.safetensors"
#: Weight whose rows are as many as Qwen3-VL is wide.
WIDTH = "model.visual.merger.linear_fc2.weight"
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

        # ComfyUI remembers what it has loaded by name: no two clips' frames share one.
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
    folders = [models / folder for folder in FOLDERS]
    places = [*(folder / name for folder in folders), Path(name).expanduser()]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise GraphError(f"--text-encoder {name}: there is no such file in {folders[0]}, which holds "
                         f"{', '.join(listed_files(folders, ENDINGS)) or 'none'}; give one of these, or a path.")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as held:
            keys = set(held.keys())
            width = held.get_slice(WIDTH).get_shape()[0] if WIDTH in keys else 0
    except (OSError, SafetensorError) as error:
        raise GraphError(f"--text-encoder {name}: is no whole safetensors file ({error}); get it again.") from error
    if not whole(keys):
        raise GraphError(f"--text-encoder {name}: is a part of a text encoder; give one that is a single file, "
                         f"{SEEING}.")
    if width in UNKNOWN_WIDTHS:
        raise GraphError(f"--text-encoder {name}: ComfyUI does not know this size of Qwen3-VL; give its 4B or "
                         "8B.")
    if not sees(keys):
        raise GraphError(f"--text-encoder {name}: Generate Text would not show it the pictures; choose one that sees "
                         f"them, {SEEING}.")
    return file


def check_host(comfy: Path) -> None:
    """Refuse a ComfyUI whose Generate Text does not show all pictures. Raises GraphError."""
    file = comfy / "comfyui_version.py"
    found = re.search(r'"(\d+)\.(\d+)[^"]*"', file.read_text(encoding="utf-8")) if file.is_file() else None
    if found and (int(found[1]), int(found[2])) < OLDEST:
        raise GraphError(f"--text-encoder needs ComfyUI {OLDEST[0]}.{OLDEST[1]} or newer, but {comfy} is "
                         f"{found[0][1:-1]}; update it, or use --model.")


def whole(keys: Collection[str]) -> bool:
    """Whether the first and the last weights of a language model are there, which parts of one divide."""
    ends = ("embed_tokens.weight", "layers.0.input_layernorm.weight")
    return all(any(key.endswith(end) for key in keys) for end in ends) and (
        "model.norm.weight" in keys or "model.language_model.norm.weight" in keys)  # fmt: skip


def sees(keys: Collection[str]) -> bool:
    """Whether Generate Text shows the picture to the text encoder with these weights.

    Qwen2.5-VL has eyes, too, but as ComfyUI loads it for Qwen-Image it is shown none in Generate Text.
    """
    qwen3_vl = "model.visual.deepstack_merger_list.0.norm.weight" in keys and WIDTH in keys
    qwen35 = "model.language_model.layers.0.linear_attn.A_log" in keys and any("visual." in key for key in keys)
    gemma = "model.layers.0.post_feedforward_layernorm.weight" in keys and any(
        key.startswith("vision_model.") for key in keys)  # fmt: skip
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
