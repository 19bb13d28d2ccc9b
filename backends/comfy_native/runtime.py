"""The attachments at work: set around one call of the U-Net, gone after it.

Between two calls the torch model carries nothing of ours. So a clone without attachments, another pack's
injection, an error or a cancel in the middle can never meet a half-patched model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from einops import rearrange
from torch.utils.checkpoint import checkpoint

from ...methods.attachment import OUTPUTS, FrameLayout, FrameMixing
from ..forwards import forward_replaced, input_recorded
from .blocks import ATTENTIONS, located, refuse_second_owner, replace_key
from .devices import on_device_of
from .norms import norms_adjusted
from .planned_patches import attention_patches, exchanges, residuals_replaced
from .state import Attached, attached_to

if TYPE_CHECKING:
    from torch import Tensor, nn

#: The layer that gives a submodule's output. A replaced attention runs past the attention's own forward, but not
#: past its last layer.
LAST = {"attn1": "attn1.to_out", "attn2": "attn2.to_out", "ff": "ff"}

#: Tokens of a clip from which on a block is computed again in backward instead of kept: SD1.x at 8 frames of
#: 512x512 passes it on its outer stages, the toy U-Net nowhere.
RECOMPUTE_TOKENS = 8192


def frame_layout(batch: int, options: Mapping[str, Any]) -> FrameLayout:
    """Layout of the call under way, from what the host says of it.

    Raises:
        ValueError: the batch does not hold the same number of frames for every condition.
    """
    branches = len(options.get("cond_or_uncond") or (0,))
    if batch % branches:
        raise ValueError(f"latent: {batch} frames do not divide by the {branches} conditions of this call; "
                         "give every condition the same frames.")
    height, width = options["activations_shape"][-2:]
    return FrameLayout(branches, batch // branches, height, width)


def extended_block(block: nn.Module, path: str, state: Attached) -> Callable:
    """Forward of a transformer block with what is attached to its submodules' outputs and after its feed-forward."""
    inner, modules, outputs = block.forward, state.modules(path), state.outputs(path)

    def forward(x: Tensor, context: Tensor | None = None, transformer_options: dict | None = None) -> Tensor:
        # The host goes on writing the block's name into the same dict, but backward computes this block again.
        options = dict(transformer_options or {})

        def run(x: Tensor, context: Tensor | None) -> Tensor:
            with outputs_passed(block, outputs, options):
                z = inner(x, context=context, transformer_options=options)
            return apply_modules(modules, z, options)

        if recomputed(state, x.shape[0] * x.shape[1]):
            return checkpoint(run, x, context, use_reentrant=False, preserve_rng_state=False)
        return run(x, context)

    return forward


def apply_modules(
    modules: Sequence[nn.Module], z: Tensor, options: Mapping[str, Any], tokens: Tensor | None = None
) -> Tensor:
    """z [branches * frames, tokens, channels] after each of the modules, in their width and back; ``tokens`` for those
    that are ``beside``."""
    for module in modules:
        width = next(on_device_of(module, z).parameters()).dtype
        more = (tokens.to(width),) if tokens is not None and getattr(module, "beside", False) else ()
        z = module(z.to(width), frame_layout(z.shape[0], options), *more).to(z.dtype)
    return z


def extended_transformer(transformer: nn.Module, modules: Sequence[nn.Module], state: Attached) -> Callable:
    """Forward of a transformer with ``modules`` on the feature map that goes in."""
    inner = transformer.forward

    def forward(x: Tensor, context: Any = None, transformer_options: dict | None = None) -> Tensor:
        options = transformer_options if transformer_options is not None else {}
        # The host notes the size itself, but later than this.
        sized = {**options, "activations_shape": list(x.shape)}
        height, width = x.shape[-2:]

        def run(x: Tensor) -> Tensor:
            z = apply_modules(modules, rearrange(x, "frames c height width -> frames (height width) c"), sized)
            return rearrange(z, "frames (height width) c -> frames c height width", height=height, width=width)

        recompute = recomputed(state, x.shape[0] * height * width)
        changed = checkpoint(run, x, use_reentrant=False, preserve_rng_state=False) if recompute else run(x)
        return inner(changed, context=context, transformer_options=options)

    return forward


@contextmanager
def outputs_passed(
    block: nn.Module, outputs: Mapping[str, Sequence[nn.Module]], options: Mapping[str, Any]
) -> Iterator[None]:
    """The outputs of a block's submodules go through ``outputs`` (by name), inside the ``with``."""

    def passed(inner: Callable, modules: Sequence[nn.Module], tokens: list[Tensor]) -> Callable:
        return lambda z: apply_modules(modules, inner(z), options, tokens.pop() if tokens else None)

    with ExitStack() as stack:
        for name, modules in outputs.items():
            tokens: list[Tensor] = []
            layer = block.get_submodule(LAST[name])
            if any(getattr(module, "beside", False) for module in modules):
                stack.enter_context(input_recorded(block.get_submodule(OUTPUTS[name]), tokens))
            stack.enter_context(forward_replaced(layer, passed(layer.forward, modules, tokens)))
        yield


def recomputed_block(inner: Callable, state: Attached) -> Callable:
    """Forward of a residual block that is computed again in backward where it is large."""

    def forward(x: Tensor, emb: Tensor) -> Tensor:
        if recomputed(state, x.shape[0] * x.shape[-2] * x.shape[-1]):
            return checkpoint(inner, x, emb, use_reentrant=False, preserve_rng_state=False)
        return inner(x, emb)

    return forward


def recomputed(state: Attached, tokens: int) -> bool:
    """Whether a block of so many tokens is computed again in backward."""
    return state.training and (state.recompute_all or tokens >= RECOMPUTE_TOKENS)


def mixing_patch(mixing: FrameMixing, exchange: Callable | None = None) -> Callable:
    """A ``FrameMixing`` as the host's replacement of softmax(QK^T)V, of what ``exchange`` makes of q, k, v."""

    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        layout = frame_layout(q.shape[0], options)
        if q.shape[1] != layout.height * layout.width or k.shape[1] != q.shape[1]:
            raise ValueError(f"model: another patch of self-attention changed the number of tokens ({q.shape[1]} "
                             f"queries, {k.shape[1]} keys on a {layout.height}x{layout.width} map); "
                             "remove that patch.")
        if exchange is not None:
            q, k, v = exchange(q, k, v)
        return mixing(q, k, v, options["n_heads"], layout)

    return attention


def patched(state: Attached, options: Mapping[str, Any]) -> dict[str, Any]:
    """The host's options of one call with our attentions in them; the given dicts stay as they are.

    Raises:
        ValueError: another pack replaces the same attention of the same block.
    """
    present = options.get("patches_replace", {})
    alone, exchanged = exchanges(options)
    ours: dict[str, dict] = {"self": alone, "cross": {}}
    for attachment in state.attachments:
        if attachment.mixing is not None:
            refuse_second_owner(present, "self", attachment.sites, attachment.method)
            ours["self"].update({key: mixing_patch(attachment.mixing, exchanged.get(key))
                                 for key in map(replace_key, attachment.sites)})
    planned, inputs = attention_patches(options)
    for kind, patches in planned.items():
        ours[kind].update(patches)
    replaced = {**present, **{ATTENTIONS[kind]: {**present.get(ATTENTIONS[kind], {}), **patches}
                              for kind, patches in ours.items() if patches}}  # fmt: skip
    if not inputs:
        return {**options, "patches_replace": replaced}
    patches = options.get("patches", {})
    return {**options, "patches_replace": replaced,
            "patches": {**patches, "attn1_patch": [*patches.get("attn1_patch", ()), *inputs]}}


@contextmanager
def blocks_extended(unet: nn.Module, state: Attached, branches: int) -> Iterator[None]:
    """The U-Net with the attached modules in its blocks, inside the ``with``."""
    # By path, not by a walk over the whole network, which would cost a small model a tenth of its time.
    paths, residuals = state.walked(lambda: trained_parts(unet)) if state.training else (state.touched, ())
    with ExitStack() as stack:
        for path, modules in state.inputs.items():
            transformer = unet.get_submodule(path)
            stack.enter_context(forward_replaced(transformer, extended_transformer(transformer, modules, state)))
        for path in paths:
            block = unet.get_submodule(path)
            stack.enter_context(forward_replaced(block, extended_block(block, path, state)))
        if not state.training:
            # In training they stay replaced from step to step: backward computes blocks again.
            stack.enter_context(norms_adjusted(unet, state.norms, branches))
        for module in residuals:
            stack.enter_context(forward_replaced(module, recomputed_block(module.forward, state)))
        yield


def trained_parts(unet: nn.Module) -> tuple[frozenset[str], tuple[nn.Module, ...]]:
    """What a training may compute again: paths of the transformer blocks, and the residual blocks."""
    residuals = tuple(module for module in unet.modules() if isinstance(module, ResBlock))
    return frozenset(site.path for site, _ in located(unet)), residuals


def run_attached(executor, x, timesteps=None, context=None, y=None, control=None, transformer_options=None, **kwargs):
    """``WrappersMP.DIFFUSION_MODEL``: one call of the U-Net with what its MODEL has attached."""
    options = transformer_options if transformer_options is not None else {}
    state = attached_to(options)
    if not state.attachments and not state.training:
        return executor(x, timesteps, context, y, control, options, **kwargs)
    options = patched(state, options)
    branches = len(options.get("cond_or_uncond") or (0,))
    if state.training:
        state.call["branches"] = branches
    with blocks_extended(executor.class_obj, state, branches), residuals_replaced(executor.class_obj, options):
        return executor(x, timesteps, context, y, control, options, **kwargs)


def check_conditions(executor, noise, *args, **kwargs):
    """``WrappersMP.OUTER_SAMPLE``: refuse conditions that the host would silently repeat or cut to the frames.

    Raises:
        ValueError: a CONDITIONING holds neither one entry nor one a frame.
    """
    for name, conditions in getattr(executor.class_obj, "conds", {}).items():
        for condition in conditions:
            check_fit(name, condition.get("cross_attn"), noise.shape[0])
    return executor(noise, *args, **kwargs)


def check_fit(name: str, embedding: Any, frames: int) -> None:
    """Raise ValueError unless an embedding [n, tokens, channels] has n = 1 or n = frames."""
    held = embedding.shape[0] if embedding is not None else 1
    if held not in (1, frames):
        raise ValueError(f"{name}: holds {held} prompts, but the clip has {frames} frames; "
                         f"give one prompt for all of them or {frames}.")
