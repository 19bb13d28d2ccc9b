"""The vocabulary that methods and backends share: where a method sits in a U-Net and what it adds there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .sampling_plan import SamplingPlan

#: Stages of the U-Net by the name that a user picks them with.
BLOCKS = {"all": ("input", "middle", "output"), "down": ("input",), "middle": ("middle",), "up": ("output",)}

#: Parts of a transformer block whose output a method can pass on, and the norm before each, by their names in every
#: host.
OUTPUTS = {"attn1": "norm1", "attn2": "norm2", "ff": "norm3"}

#: Fields of an attachment that hold modules.
TREES = ("modules", "norms", "outputs", "inputs")


@dataclass(frozen=True)
class FrameLayout:
    """How a batch of tokens [branches * frames, height * width, channels] is laid out.

    A branch is one condition of the guidance (positive, negative, ...). Each branch holds
    all frames in order; tokens run row by row over the feature map.
    """

    branches: int
    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class BlockSite:
    """One transformer block, by its path in an LDM checkpoint.

    The LDM path (``input_blocks.1.1.transformer_blocks.0``) is the one name that every
    backend translates to its own, so that tuned weights move between hosts unchanged.
    """

    path: str
    channels: int
    heads: int

    @property
    def stage(self) -> str:
        """``input``, ``middle`` or ``output``."""
        return self.path.split("_", 1)[0]

    @property
    def key(self) -> str:
        """The path as a key of ``nn.ModuleDict``, which forbids dots."""
        return self.path.replace(".", "/")

    @property
    def transformer_key(self) -> str:
        """The key of the transformer that the block is in (``input_blocks/1/1``)."""
        return self.key.partition("/transformer_blocks/")[0]


@dataclass(frozen=True)
class NormSite:
    """One normalisation layer, by its path in an LDM checkpoint (``input_blocks.1.0.in_layers.0``).

    Args:
        path: as in ``BlockSite``.
        kind: ``resnet`` (the two GroupNorms of a residual block), ``attention`` (a transformer's
            GroupNorm and the LayerNorms of its blocks) or ``final`` (before the last convolution).
        channels: elements of its weight.
        groups: of a GroupNorm over [batch, channels, ...]; 0 for a LayerNorm over the last dimension.
        eps: added to the variance.
    """

    path: str
    kind: str
    channels: int
    groups: int
    eps: float

    @property
    def key(self) -> str:
        """The path as a key of ``nn.ModuleDict``, which forbids dots."""
        return self.path.replace(".", "/")


class FrameMixing(Protocol):
    """Replaces softmax(QK^T)V of a self-attention. Owns no weights.

    q, k, v: [branches * frames, tokens, heads * head_dim], already projected; returns the
    same shape, before the output projection.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: FrameLayout) -> Tensor: ...


@dataclass(frozen=True)
class Attachment:
    """What one method adds to a U-Net.

    Args:
        method: slug in ``methods.registry``.
        config: settings, enough to build the attachment again; JSON-able, or tensors where nothing is trained.
        mixing: replaces the mixing of self-attention in the blocks named by ``sites``.
        modules: ``nn.ModuleDict`` by ``BlockSite.key``; each runs after the feed-forward,
            ``module(z, layout) -> z`` on [branches * frames, tokens, channels].
        sites: paths of the blocks that the attachment touches.
        queries: projections whose weight the method tunes, relative to a block
            (``attn1.to_q``, ``attn2.to_q``).
        plan: what it does to a run of a sampler.
        norms: ``nn.ModuleDict`` by ``NormSite.key``; each answers for that layer,
            ``module(z, weight, bias, groups, eps) -> z'`` with the layer's own affine as the host
            would use it now. One that is ``joint`` is also handed ``branches``, the conditions in the batch, for
            it sees all frames. A module whose ``strength`` is 0 is passed over: the layer answers.
        outputs: ``nn.ModuleDict`` by ``<BlockSite.key>/<one of OUTPUTS>``; each runs on
            what that part of the block gives, before it is added to the tokens,
            ``module(z, layout) -> z``. Strength 0 as with ``norms``. One that is ``beside`` is also handed the
            tokens that the result will be added to, as they went into the part's norm.
        inputs: ``nn.ModuleDict`` by ``BlockSite.transformer_key``; each runs on the feature map that goes into a
            transformer, before its norm and its skip, ``module(z, layout) -> z`` on
            [branches * frames, height * width, channels].
    """

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    mixing: FrameMixing | None = None
    modules: nn.ModuleDict | None = None
    sites: frozenset[str] = frozenset()
    queries: tuple[str, ...] = ()
    plan: SamplingPlan | None = None
    norms: nn.ModuleDict | None = None
    outputs: nn.ModuleDict | None = None
    inputs: nn.ModuleDict | None = None

    @property
    def trees(self) -> tuple[nn.ModuleDict, ...]:
        """Everything of it that holds weights. Only ``modules`` and ``inputs`` see other frames."""
        trees = (tree for name in TREES if (tree := getattr(self, name)) is not None)
        return tuple(tree for tree in trees if next(tree.parameters(), None) is not None)

    def with_trees(self, trees: Sequence[nn.ModuleDict]) -> Attachment:
        """The same with other weights, in the order of ``trees``."""
        own = {id(tree): other for tree, other in zip(self.trees, trees, strict=True)}
        changed = {name: own[id(tree)] for name in TREES if id(tree := getattr(self, name)) in own}
        return replace(self, **changed)

    @property
    def replaces(self) -> tuple[str, ...]:
        """Which attentions it replaces in its blocks: "self", "cross", both or none; one attachment at most can."""
        if self.plan is not None:
            return self.plan.kinds
        return ("self",) if self.mixing is not None else ()

    @property
    def mixes_frames(self) -> bool:
        """Needs all frames of the clip in one call of the U-Net, and no other rows among them."""
        seen = (self.mixing, self.modules, self.inputs)
        return any(part is not None for part in seen) or self.joint_norms

    @property
    def joint_norms(self) -> bool:
        """Its norms take their statistics from all frames of the clip."""
        return self.norms is not None and any(getattr(module, "joint", False) for module in self.norms.values())

    def __deepcopy__(self, memo: dict) -> Attachment:
        # Hosts deep-copy the options of a model on every clone; an attachment is immutable
        # and its weights are shared by all clones on purpose.
        return self


def check_rivals(attachment: Attachment, others: Iterable[Attachment]) -> None:
    """Raise ValueError where two attachments would replace the same attention, or split the clip in ways that do not
    go together."""
    for other in others:
        check_plans(attachment, other)
        check_plans(other, attachment)
        both = attachment.norms or {}, other.norms or {}
        if (attachment.joint_norms or other.joint_norms) and (layers := both[0].keys() & both[1].keys()):
            layer = min(layers).replace("/", ".")
            raise ValueError(f"model: {other.method} already answers for the norm layer {layer}, "
                             f"so {attachment.method} cannot; give the model only one of the two.")
        shared, kinds = attachment.sites & other.sites, set(attachment.replaces) & set(other.replaces)
        if shared and kinds:
            raise ValueError(
                f"model: {other.method} already replaces the {max(kinds)}-attention of {min(shared)}, "
                f"so {attachment.method} cannot (attach one of the two, or keep them to different blocks)."
            )


def check_plans(first: Attachment, second: Attachment) -> None:
    """Raise ValueError where ``first`` takes frames from where ``second`` needs them."""
    if first.plan is not None and first.plan.cuts_clip:
        if second.plan is not None:
            second.plan.in_part(1, (0,), ())
        return
    if second.plan is not None and second.plan.cuts_clip:
        return
    if first.plan is None:
        return
    neither_apart = second.plan is not None and not (first.plan.apart or second.plan.apart)
    if neither_apart or (first.plan.apart and (second.mixes_frames or second.plan is not None)):
        theirs = second.method if second.plan is None else second.plan.name
        way = ("lets frames see each other one by one" if second.plan is None
               else second.plan.apart or "treats frames in a way of its own")
        ours = first.plan.apart or "leads each step in a way of its own"
        raise ValueError(f"model: {first.plan.name} {ours}, but {theirs} {way}; "
                         "give the model only one of the two.")


def frozen_copy(attachment: Attachment) -> Attachment:
    """A copy that takes part in the forward pass only."""
    return attachment.with_trees([deepcopy(tree).requires_grad_(False) for tree in attachment.trees])


def named_tensors(attachment: Attachment) -> dict[str, Tensor]:
    """The parameters of the attachment's modules by their saved key, ``<method>.<path>.<name>``."""
    return {
        f"{attachment.method}.{key.replace('/', '.')}.{name}": tensor
        for tree in attachment.trees
        for key, module in tree.items()
        for name, tensor in module.named_parameters()
    }


def module_parameters(attachments: Iterable[Attachment]) -> dict[str, Tensor]:
    """What of the attachments' modules is trained, by its saved key."""
    return {name: p for a in attachments for name, p in named_tensors(a).items() if p.requires_grad}
