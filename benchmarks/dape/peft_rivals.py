"""DAPE's rivals of its table 4, on the diffusers backend: what each trains of a U-Net, by one loop, loss and clip.

LoRA and the tuning of norms are the peft library's layers. It has no BitFit and no Partial-1 (both train weights
that are there) and no bottleneck adapters for U-Nets; those are written here. All start as the plain model.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from ...methods.attachment import Attachment, FrameLayout, module_parameters
from ...methods.training_loop import TrainingRun
from ...methods.training_store import TrainingStore

if TYPE_CHECKING:
    from ...backends.protocol import Backend, TrainingView
    from ...diffusion.schedule import DiscreteSchedule
    from ...methods.tune_recipe import TuneRecipe

#: Slugs, in the order of the table.
RIVALS = ("lora", "adapter", "mona", "partial-1", "norm-tuning", "bitfit")
#: Rank of LoRA (its paper's for attention); width of both adapters (DAPE's and Mona's).
RANK, BOTTLENECK = 8, 64
#: Of Mona's three convolutions.
KERNELS = (3, 5, 7)


class Adapter(nn.Module):
    """X + W_up phi(W_down X) (DAPE, equation 1; Houlsby et al. 2019), W_up = 0 at the start."""

    def __init__(self, channels: int, generator: torch.Generator):
        super().__init__()
        self.down = _uniform(generator, BOTTLENECK, channels, inputs=channels)
        self.down_bias = nn.Parameter(torch.zeros(BOTTLENECK))
        self.up = nn.Parameter(torch.zeros(channels, BOTTLENECK))
        self.up_bias = nn.Parameter(torch.zeros(channels))
        self.strength = 1.0

    def forward(self, z: Tensor, layout: FrameLayout) -> Tensor:
        return z + linear(gelu(linear(z, self.down, self.down_bias)), self.up, self.up_bias)


class Mona(nn.Module):
    """Multi-cognitive visual adapter (Yin et al. 2024, "5% > 100%").

    x = LN(z) s_1 + z s_2; d = Down x; d += mean of three depth-wise convolutions of d; d += W_1x1 d;
    z + Up GELU(d). s_1 and s_2 start at 1e-6 and 1 as in the authors' code; Up at 0.
    """

    def __init__(self, channels: int, generator: torch.Generator):
        super().__init__()
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.scale, self.share = nn.Parameter(torch.full((channels,), 1e-6)), nn.Parameter(torch.ones(channels))
        self.down = _uniform(generator, BOTTLENECK, channels, inputs=channels)
        self.convs = nn.ParameterList(_uniform(generator, BOTTLENECK, 1, k, k, inputs=k * k) for k in KERNELS)
        self.mix = _uniform(generator, BOTTLENECK, BOTTLENECK, 1, 1, inputs=BOTTLENECK)
        self.up = nn.Parameter(torch.zeros(channels, BOTTLENECK))
        self.strength = 1.0

    def forward(self, z: Tensor, layout: FrameLayout) -> Tensor:
        x = layer_norm(z, z.shape[-1:], self.norm_weight, self.norm_bias) * self.scale + z * self.share
        d = linear(x, self.down).transpose(1, 2).unflatten(-1, (layout.height, layout.width))
        d = d + sum(conv2d(d, w, padding=w.shape[-1] // 2, groups=len(w)) for w in self.convs) / len(self.convs)
        d = d + conv2d(d, self.mix)
        return z + linear(gelu(d).flatten(2).transpose(1, 2), self.up)


def _uniform(generator: torch.Generator, *shape: int, inputs: int) -> nn.Parameter:
    return nn.Parameter((torch.rand(*shape, generator=generator) * 2 - 1) * inputs**-0.5)


def _beside(kind: type[nn.Module], parts: Sequence[str], backend: Backend, model: Any, seed: int) -> Attachment:
    """One of the adapters on the output of some parts of every transformer block."""
    generator, sites = torch.Generator().manual_seed(seed), backend.sites(model)
    outputs = {f"{site.key}/{part}": kind(site.channels, generator) for site in sites for part in parts}
    return Attachment("rival", outputs=nn.ModuleDict(outputs), sites=frozenset(site.path for site in sites))


def _own_unet(model: Any) -> Any:
    """The MODEL with a U-Net of its own, tuned queries in its weights: layers can be changed and wrapped."""
    from ...backends.diffusers.paths import locate

    unet = copy.deepcopy(model.unet).requires_grad_(False)
    with torch.no_grad():
        for located in locate(unet):
            for name, projection in located.block.named_modules():
                delta = model.query_deltas.get(f"{located.site.path}.{name}.weight")
                if delta is not None:
                    projection.weight += delta.to(projection.weight)
    return replace(model, unet=unet, query_deltas={})


def _with_peft(unet: nn.Module, config: Any) -> dict[str, Tensor]:
    """peft's layers put into the U-Net; what they train."""
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        # It has only met the norms of language models, and says so.
        warnings.filterwarnings("ignore", "Unsupported layer type")
        inject_adapter_in_model(config, unet)
    trained = {name: p for name, p in unet.named_parameters() if p.requires_grad}
    unet.requires_grad_(False)
    return trained


def _lora(unet: nn.Module, seed: int) -> dict[str, Tensor]:
    from peft import LoraConfig

    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _with_peft(unet, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))


def _norms(unet: nn.Module, seed: int) -> dict[str, Tensor]:
    """gamma and beta of the norms that DAPE tunes, by peft's tuning of LayerNorms."""
    from peft import LNTuningConfig

    kinds = (nn.GroupNorm, nn.LayerNorm)
    names = [name for name, layer in unet.named_modules() if isinstance(layer, kinds) and name != "conv_norm_out"]
    return _with_peft(unet, LNTuningConfig(target_modules=names))


def _biases(unet: nn.Module, seed: int) -> dict[str, Tensor]:
    """Every bias (Ben Zaken et al. 2022)."""
    return {name: p for name, p in unet.named_parameters() if name.endswith("bias")}


def _last_block(unet: nn.Module, seed: int) -> dict[str, Tensor]:
    """All weights of the last block, here of the last stage of the decoder."""
    return dict(unet.up_blocks[-1].named_parameters())


BESIDE = {"adapter": (Adapter, ("attn1", "ff")), "mona": (Mona, ("attn1", "ff"))}
INSIDE = {"lora": _lora, "norm-tuning": _norms, "bitfit": _biases, "partial-1": _last_block}


@dataclass(frozen=True)
class RivalView:
    """``TrainingView`` with weights of the U-Net itself among its parameters."""

    view: TrainingView
    parameters: Mapping[str, Tensor]

    def predict_noise(self, noisy: Tensor, timestep: Tensor, conditioning: Any = None) -> Tensor:
        # Asked for the gradient of a GroupNorm's weights alone, with channels last in memory, torch 2.x reads past
        # its input on a CPU; where the picture asks for a gradient, every layer's input does.
        return self.view.predict_noise(noisy.detach().requires_grad_(), timestep, conditioning)


@dataclass(frozen=True)
class RivalTask:
    """``training_loop.Task``: weights of a U-Net, or of adapters beside it, on one clip."""

    backend: Backend
    model: Any
    attachments: tuple[Attachment, ...]
    weights: Mapping[str, Tensor]
    clean: Tensor
    conditioning: Any
    name: str = "rival"
    smaller: str = "use fewer frames or a smaller size"
    less_memory: tuple[str, ...] = ("with gradient checkpointing",)
    per_sample: bool = False

    @property
    def process(self) -> DiscreteSchedule:
        return self.backend.schedule(self.model)

    @contextmanager
    def _opened(self, checkpointing: bool) -> Iterator[RivalView]:
        opened = self.backend.training(
            self.model, self.attachments, self.conditioning, len(self.clean), False, checkpointing
        )
        with opened as view:
            for weight in self.weights.values():
                weight.requires_grad_(True)
            try:
                yield RivalView(view, {**view.parameters, **self.weights})
            finally:
                for weight in self.weights.values():
                    weight.requires_grad_(False)

    def open(self, attempt: int) -> AbstractContextManager[RivalView]:
        return self._opened(attempt > 0)

    def batch(self, step: int) -> tuple[Tensor, Any]:
        return self.clean, None

    def predict(self, view: TrainingView, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        return view.predict_noise(noisy, level, condition)


def tune_rival(
    method: str, backend: Backend, model: Any, samples: Tensor, conditioning: Any, recipe: TuneRecipe
) -> tuple[Any, int]:
    """Train a rival on one clip, as ``methods.tuning.tune`` trains.

    Args:
        method: one of ``RIVALS``.
        model: of the diffusers backend, with the methods of its base attached; it is not changed.
        samples, conditioning, recipe: as in ``tune``.

    Returns:
        the trained MODEL, and how many numbers were trained.

    Raises:
        ImportError: the rival is one of peft's, and peft is not installed.
    """
    weights: dict[str, Tensor] = {}
    if method in BESIDE:
        kind, parts = BESIDE[method]
        model = backend.attach(model, _beside(kind, parts, backend, model, recipe.seed))
    else:
        model = _own_unet(model)
        weights = INSIDE[method](model.unet, recipe.seed)
    own = [a for a in backend.attachments(model) if a.method == "rival"]
    for tree in (tree for a in backend.attachments(model) if a not in own for tree in a.trees):
        tree.requires_grad_(False)
    clean = backend.to_model_space(model, samples.clone()).float()
    task = RivalTask(backend, model, tuple(backend.attachments(model)), weights, clean, conditioning)
    progress = backend.progress(recipe.steps, method)
    TrainingRun(task, recipe, backend.out_of_memory(), TrainingStore(None, None), progress, 0).run()
    trained = weights or module_parameters(own)
    for attachment in own:
        assert attachment.outputs is not None  # see ``_beside``
        attachment.outputs.requires_grad_(False).eval()
    return model, sum(weight.numel() for weight in trained.values())
