"""What holds for every node: no raw error for input that does not fit, and no NaN handed on in silence.

A node's own checks come first and say more. Where it fails without a sentence, or succeeds on or
with values that are not finite, the inputs are looked at by their types, here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, wraps
from typing import Any

#: Kinds of values that pixels, latents and texts are handed on in.
TENSORS = ("IMAGE", "MASK", "LATENT", "CONDITIONING")


@cache
def checked(node: Any) -> Any:
    """The node, with ``execute`` that explains its failure by its inputs."""
    execute = node.execute.__func__

    @wraps(execute)
    def checked_execute(cls: type, *values: Any, **inputs: Any) -> Any:
        try:
            out = explained(cls, *values, **inputs)
            refuse_not_finite(cls, inputs, out)
        except (ValueError, TypeError, MemoryError) as error:
            name_as_shown(cls, error)
            raise
        return out

    def explained(cls: type, *values: Any, **inputs: Any) -> Any:
        try:
            return execute(cls, *values, **inputs)
        except Exception as error:
            if not isinstance(error, (OSError, MemoryError)) and not is_sentence(error):
                explain(cls, inputs, error)
            raise

    node.execute = classmethod(checked_execute)
    return node


def is_sentence(error: BaseException) -> bool:
    """Whether an error is one that a user can read: it begins with what is at fault, or it is about memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
        return True
    raw = not isinstance(error, (ValueError, TypeError, ArithmeticError)) or isinstance(error, UnicodeError)
    return not raw and bool(re.match(r"[\w .,()#\-]+: ", str(error))) and "\n" not in str(error)


def name_as_shown(node: type[Any], error: BaseException) -> None:
    """Add to a sentence what the editor calls the inputs that it names.

    Sentences name inputs by their ids, as graphs and the command line do; a widget may show plainer words. Behind its
    beginning a word is taken for an id where it has an underscore: others are plain words, too.
    """
    text = str(error)
    start = re.match(r"(\w+): ", text)
    if not start or len(error.args) != 1 or not text.endswith("."):
        return
    shown = {given.id: getattr(given, "display_name", None) for given in node.define_schema().inputs}
    named = dict.fromkeys([start[1], *re.findall(r"\b\w+_\w+\b", text)])
    words = [f'{id} is "{shown[id]}"' for id in named if shown.get(id) and shown[id] != id.replace("_", " ")]
    if words:
        error.args = (f"{text[:-1]} ({', '.join(words)} in the editor).",)


def explain(node: type[Any], inputs: Mapping[str, Any], error: BaseException) -> None:
    """Raise ValueError from ``error`` where an input is not what its type promises, or does not fit the model."""
    kinds = {given.id: _kind(given) for given in node.define_schema().inputs}
    model = inputs.get("model") if kinds.get("model") == "MODEL" else None
    if model is not None and isinstance(error, AttributeError) and _is_backend(error.obj, model):
        raise ValueError(f"model: {node.define_schema().display_name} does not work with this kind of model, a "
                         f"{_family(error.obj)}; connect another.") from error
    for name, value in inputs.items():
        if value is None or kinds.get(name) not in (*TENSORS, "VAE"):
            continue
        problem = _misfit(kinds[name], value, model)
        if problem:
            raise ValueError(f"{name}: {problem}.") from error


def _is_backend(asked: Any, model: Any) -> bool:
    """Whether what lacks an attribute is what serves the model's kind."""
    from .. import backends

    try:
        return type(asked) is type(backends.of(model))
    except TypeError:
        return False


def _family(backend: Any) -> str:
    return "video transformer" if hasattr(backend, "video_family") else "U-Net of Stable Diffusion"


def refuse_not_finite(node: type[Any], inputs: Mapping[str, Any], out: Any) -> None:
    """Raise ValueError where a node worked on, or gives, values that are not finite."""
    from ..methods.finite import check_finite, finite

    # Not GET_SCHEMA, which sets attributes: a host runs a locked copy of the class.
    schema = node.define_schema()
    for given in schema.inputs:
        for tensor in _tensors(inputs.get(given.id)) if _kind(given) in TENSORS else ():
            check_finite(given.id, tensor)
    for given, value in zip(schema.outputs, getattr(out, "args", ()) or (), strict=False):
        if _kind(given) in TENSORS and not all(map(finite, _tensors(value))):
            raise ValueError(f"{schema.display_name or schema.node_id}: its result holds NaN or infinite values, so it "
                             "is not handed on; use less extreme settings.")


def _kind(part: Any) -> str:
    return part.get_io_type() if hasattr(part, "get_io_type") else part.io_type


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        # Of a LATENT; what else rides in it was checked when it was made.
        yield from _tensors(value.get("samples"))
    elif isinstance(value, (list, tuple)):
        for held in value:
            # An entry of a CONDITIONING is [embedding, extras].
            yield from _tensors(held[0] if isinstance(held, (list, tuple)) and len(held) == 2 else held)


def _misfit(kind: str, value: Any, model: Any) -> str:
    """What is wrong with a value of that type, without a full stop; "" where nothing is."""
    import torch

    if kind == "VAE":
        video = getattr(value, "latent_dim", 2) == 3 and _channels(model)
        return "is a video model's, but this model edits pictures; use the VAE of its checkpoint" if video else ""
    if kind == "IMAGE":
        good = isinstance(value, torch.Tensor) and value.ndim == 4 and value.numel() and value.shape[-1] >= 3
        return "" if good else f"expected pictures [frames, height, width, 3], but got {_given(value)}"
    if kind == "MASK":
        good = isinstance(value, torch.Tensor) and value.ndim in (2, 3) and value.numel()
        return "" if good else f"expected masks [frames, height, width], but got {_given(value)}"
    if kind == "LATENT":
        samples = value.get("samples") if isinstance(value, Mapping) else None
        return _latent_misfit(samples, model)
    return _text_misfit(value, model)


def _latent_misfit(samples: Any, model: Any) -> str:
    import torch

    if not isinstance(samples, torch.Tensor) or samples.ndim not in (4, 5) or not samples.numel():
        return f"expected [frames, channels, height, width], but got {_given(samples)}"
    channels = _channels(model)
    if channels and (samples.ndim != 4 or samples.shape[1] != channels):
        return (f"expected [frames, {channels}, height, width] for this model, but got {_given(samples)}; encode the "
                "clip with the model's own VAE")
    return ""


def _text_misfit(conditioning: Any, model: Any) -> str:
    import torch

    if not isinstance(conditioning, (list, tuple)) or not conditioning:
        return "is empty; connect a CLIPTextEncode"
    width = _text_width(model)
    for entry in conditioning:
        text = entry[0] if isinstance(entry, (list, tuple)) and entry else None
        if not isinstance(text, torch.Tensor) or text.ndim != 3 or not text.numel():
            return f"expected an encoded text [1, tokens, width], but got {_given(text)}; connect a CLIPTextEncode"
        if width and text.shape[-1] != width:
            return (f"its text is {text.shape[-1]} wide, but this model reads {width}; encode it with the CLIP of the "
                    "same model")
    return ""


def _given(value: Any) -> str:
    return f"{list(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def _channels(model: Any) -> int:
    """Channels of the latents that a U-Net denoises; 0 where that is not known."""
    latents = getattr(getattr(model, "model", None), "latent_format", None)
    unet = getattr(model, "unet", None)
    return getattr(latents, "latent_channels", 0) or getattr(getattr(unet, "config", None), "out_channels", 0)


def _text_width(model: Any) -> int:
    """Width of the texts that a U-Net reads; 0 where that is not known."""
    from .. import backends

    try:
        shapes = backends.of(model).projections(model)
    except (TypeError, AttributeError):
        return 0
    return next((given for name, (_, given) in shapes.items() if name.endswith("attn2.to_k")), 0)
