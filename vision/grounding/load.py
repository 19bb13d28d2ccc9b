"""A checkpoint or folder -> a detector."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import DETECTORS, kind_of, load_strictly, opening_folder, read_weights
from . import names, official_network
from .detector import Detector
from .official_network import OfficialNetwork
from .transformers_network import TransformersNetwork

EXPECTED = ("groundingdino_swint_ogc.pth, groundingdino_swinb_cogcoor.pth, or a folder in transformers' format such "
            "as grounding-dino-tiny")
BERT = "bert-base-uncased"


def load_detector(path: Path, folders: Iterable[Path] = (), dtype: torch.dtype = torch.float32,
                  engine: str = "auto") -> Detector:
    """Open official Grounding DINO weights, or a folder in transformers' format.

    Args:
        path: groundingdino_*.pth or .safetensors, or a folder.
        folders: where the tokenizer of official weights is looked for, as a folder bert-base-uncased.
        dtype: of the calculation; the weights stay float32.
        engine: for official weights "groundingdino" or "transformers"; "auto" takes the first of
            them that is installed and works.

    Raises:
        ValueError: something else is in the file or folder.
        FileNotFoundError: there is nothing, or no tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        return Detector(_folder(path), dtype)
    weights = read_weights(path)
    if not names.is_official(weights):
        raise ValueError(f"model: '{path.name}' is no Grounding DINO checkpoint (no key {names.MARK}); "
                         f"expected {EXPECTED}.")
    try:
        shape = names.shape_of(weights)
    except KeyError as error:
        raise ValueError(f"model: '{path.name}' lacks weights of Grounding DINO ({error}); it is damaged.") from error
    tokenizer = find_tokenizer([path.parent, *folders])
    if engine == "auto":
        engine = "groundingdino" if official_network.works(shape) else "transformers"
    make = official if engine == "groundingdino" else converted
    return Detector(make(weights, shape, tokenizer, path.name), dtype)


def official(weights: dict, shape: names.Shape, tokenizer: Any, name: str) -> OfficialNetwork:
    """groundingdino's modules with these weights."""
    module = official_network.build(shape, tokenizer)
    load_strictly(module, official_network.prepared(weights), name,
                  ignored=("position_ids", "relative_position_index", "bert.pooler."))
    return OfficialNetwork(module, tokenizer)


def converted(weights: dict, shape: names.Shape, tokenizer: Any, name: str) -> TransformersNetwork:
    """transformers' modules with the same weights."""
    from transformers import GroundingDinoForObjectDetection

    state = {key: value.float() for key, value in names.to_transformers(weights).items()}
    # Not load_state_dict: the names inside the module differ among versions, and this knows all of them.
    module, report = GroundingDinoForObjectDetection.from_pretrained(
        None, config=names.transformers_config(shape), state_dict=state, output_loading_info=True)
    wrong = sorted(key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in report[kind]
                   if not any(part in str(key) for part in _COMPUTED) and not str(key).startswith(_SHARED))
    if wrong:
        raise ValueError(f"model: '{name}' does not fit its architecture: {len(wrong)} keys are missing or left over, "
                         f"such as {wrong[0]}; it is damaged or of another model.")
    return TransformersNetwork(module.float(), tokenizer)


#: Buffers that the network works out itself, and a norm that it never uses.
_COMPUTED = ("relative_position_index", ".swin.layernorm.")
#: One head under several names: files may hold it once.
_SHARED = ("model.decoder.bbox_embed.", "bbox_embed.")


def find_tokenizer(folders: Iterable[Path]) -> Any:
    """BERT's tokenizer from a folder bert-base-uncased (or one that holds its vocab.txt), nothing downloaded.

    Raises:
        FileNotFoundError: there is none.
    """
    from transformers import BertTokenizerFast
    from transformers.utils import cached_file

    folders = list(dict.fromkeys(map(Path, folders)))
    for folder in (place for root in folders for place in (root / BERT, root)):
        if any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json")):
            return BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    try:  # What other programs have downloaded. By the file: without one, transformers 5 makes a tokenizer of 5 words.
        return BertTokenizerFast.from_pretrained(Path(cached_file(BERT, "vocab.txt", local_files_only=True)).parent)
    except (OSError, ValueError) as error:
        looked = " or ".join(str(folder / BERT) for folder in folders)
        raise FileNotFoundError(f"model: official Grounding DINO weights need BERT's tokenizer, which is not in "
                                f"{looked}; put vocab.txt of bert-base-uncased there.") from error


def _folder(path: Path) -> TransformersNetwork:
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection

    kind = kind_of(path)
    if kind not in DETECTORS:
        raise ValueError(f"model: the folder '{path.name}' is no Grounding DINO in transformers' format (model_type "
                         f"'{kind or 'missing'}' in its config.json); expected {EXPECTED}.")
    with opening_folder(path, EXPECTED):
        return TransformersNetwork(
            GroundingDinoForObjectDetection.from_pretrained(path, local_files_only=True, use_safetensors=True).float(),
            AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False))
