"""The U-Net as the model(x, sigma) of k-diffusion's samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ...methods.rave import to_grid
from ...methods.sampling_plan import PlannedRun, Replacement, RunFacts, SamplingPlan, in_chunks, plan_of
from ...methods.via.editor_clip import NOT_READ, REFERENCES
from .conditioning import SIZES, added_of, image_of, spans_of, text_of, with_image
from .control import added_up, residuals_of
from .patching import Batch, attached

if TYPE_CHECKING:
    from torch import Tensor

    from .control import Control, Residuals
    from .model import DiffusersModel

#: Frames in a call of the U-Net where nothing says how many: more use no device better, and memory stays flat.
AT_ONCE = 16


def call_unet(unet: Any, x: Tensor, timestep: Tensor, text: Tensor, residuals: Residuals | None = None,
              added: Mapping[str, Tensor] | None = None) -> Tensor:
    """epsilon in x's dtype, whatever the U-Net's device and dtype are; ``residuals`` are ControlNets', ``added`` what
    ``conditioning.added_of`` gives."""
    place = {"device": unet.device, "dtype": unet.dtype}
    down, middle = residuals or (None, None)
    noise = unet(x.to(**place), timestep.to(unet.device), encoder_hidden_states=text.to(**place),
                 down_block_additional_residuals=down, mid_block_additional_residual=middle,
                 added_cond_kwargs=added and {key: value.to(**place) for key, value in added.items()},
                 return_dict=False)[0]
    return noise.to(x.device, x.dtype)


@dataclass(frozen=True)
class Branch:
    """One condition of the guidance, with a row for every frame of the clip."""

    name: str
    text: Tensor
    image: Tensor | None
    control: Control | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    spans: tuple[tuple[float, float, Branch], ...] = ()

    def at(self, sigma: float) -> Branch:
        """The condition that is at work at a noise level, where there is one for each of several ranges."""
        return next((branch for above, below, branch in self.spans if below <= sigma <= above), self)

    def rows(self, ids: Sequence[int], grid: int = 1) -> list[list[Any]]:
        """CONDITIONING of some frames, or of pictures of ``grid`` x ``grid`` of them."""
        index = list(ids)
        extra, pooled = dict(self.extra), self.extra.get("pooled_output")
        if pooled is not None and len(pooled) > 1:
            extra["pooled_output"] = pooled[index[:: grid**2]]
        if self.image is not None:
            extra["concat_latent_image"] = to_grid(self.image[index], grid)
        return [[self.text[index[:: grid**2]], extra]]


class Denoiser:
    """D(x, sigma) = x - sigma eps_theta(x / sqrt(1 + sigma^2), t(sigma)), with guidance
    D = D_neg + cfg (D_pos - D_neg).

    t is the schedule's nearest integer, as in the ComfyUI host. Branches go through the U-Net
    together and frames in chunks; where memory runs out, branches go one by one, then chunks
    are halved. That changes no result, since neither branches nor frames see each other. Where
    an attached method mixes frames (STAM, FFAM, ...), all frames go in one call.

    A method with a plan (``methods.sampling_plan``) splits every evaluation into calls itself. It needs what
    ``sampling.sample`` gives: x with the plan's reference frames, and the noise levels of the run.

    A U-Net with more input channels than output channels edits images: it reads the positive
    condition's ``concat_latent_image`` beside x, and zeros where another condition has none.

    Args:
        model: with its attachments.
        positive: CONDITIONING, one text (and image) for all frames or one a frame.
        negative: CONDITIONING, dropped at guidance 1.
        cfg: guidance scale.
        middle, middle_cfg: see ``dual``.
        frames: of the clip.
        joint: all branches in one call, until memory runs out.
        chunk: rows in a call; 0: what the plan says, else ``AT_ONCE`` frames.

    Raises:
        ValueError: a conditioning that does not fit the frames, or an editor without an image.
    """

    def __init__(self, model: DiffusersModel, positive: Any, negative: Any = None, cfg: float = 1.0, *,
                 middle: Any = None, middle_cfg: float = 1.0, frames: int, joint: bool = True, chunk: int = 0):
        self.model, self.frames, self.joint, self.chunk = model, frames, joint, chunk
        self.most: int | None = None
        self.mixes = any(a.mixes_frames for a in model.attachments)
        planned = plan_of(model.attachments)
        self.plan: SamplingPlan | None = None if planned is None else planned[0]
        self.sites: frozenset[str] = frozenset() if planned is None else planned[1]
        # Each condition but the last has the scale of its difference from the next.
        named = [("positive", positive, cfg), ("negative", negative, 1.0)]
        if middle is not None:
            named = [("cond1", positive, cfg), ("cond2", middle, middle_cfg), ("negative", negative, 1.0)]
        while len(named) > 1 and (named[-1][1] is None or named[-2][2] == 1.0):
            named.pop()
        self.scales = [scale for _, _, scale in named[:-1]]
        self.branches = [self._branch(name, conditioning) for name, conditioning, _ in named]
        self.source = []
        if self.plan is not None and self.plan.source is not None:
            conditioning = self.plan.source.conditioning
            self.source = [Branch("source", text_of(conditioning, frames, "source"),
                                  image_of(conditioning, frames, "source"),
                                  extra=self._extra("source", conditioning))]

    def start(self, sigmas: Tensor) -> PlannedRun | None:
        """Begin a run of a sampler over ``sigmas`` [steps + 1], descending; None where nothing attached has a plan.

        Raises:
            ValueError: the plan does not fit the clip.
        """
        if self.plan is None:
            return None
        return self.plan.begin_run(RunFacts(self.frames, sigmas.detach().double().cpu(), whole=self.mixes), self.sites)

    def __call__(self, x: Tensor, sigma: Tensor, *, frame_ids: Sequence[int] | None = None,
                 sample_sigmas: Tensor | None = None, run: PlannedRun | None = None, **extra_args: Any) -> Tensor:
        """Denoised x. x: [rows, channels, h, w] in sigma space; sigma: [rows].

        Args:
            frame_ids: frame of each row; without it the rows are the frames.
            run: what ``start`` gave, where something attached has a plan.
            sample_sigmas: of the whole run; in the place of ``run`` for a single evaluation.

        Raises:
            ValueError: something attached has a plan, but the sampler does not carry what it needs.
        """
        calls = DenoiserCalls(self, x, sigma)
        if self.plan is None:
            return in_chunks(calls, x, frame_ids or range(self.frames), whole=self.mixes)
        expected = self.frames + len(self.plan.reference_frames(self.frames))
        if (run is None and sample_sigmas is None) or len(x) != expected:
            raise ValueError(f"model: {self.plan.name} is attached, but the sampler does not carry its {expected} rows "
                             "and noise levels; sample through backends.diffusers.sampling.sample.")
        run = run or self.start(sample_sigmas)
        assert run is not None  # there is a plan
        return run(x, float(sigma[0]), calls)

    def _branch(self, name: str, conditioning: Any) -> Branch:
        if len(conditioning) > 1:
            spans = tuple((above, below, self._branch(name, entry))
                          for above, below, entry in spans_of(conditioning, self.model.schedule, name))
            return replace(spans[0][2], spans=spans)
        if conditioning[0][1].get(REFERENCES):
            raise ValueError(NOT_READ.format(name))
        text, image, unet = text_of(conditioning, self.frames, name), None, self.model.unet.config
        if unet.in_channels > unet.out_channels:
            image = image_of(conditioning, self.frames, name)
            if image is None and name in ("positive", "cond1"):
                raise ValueError(f"{name}: this MODEL edits images, but the condition holds none; "
                                 "put it through InstructPixToPixConditioning.")
        if self.plan is not None and self.plan.edits_prompt and name in ("positive", "cond1") and len(
                conditioning[0][0]) > 1:
            raise ValueError(f"{name}: holds {len(text)} prompts, one a frame, but {self.plan.name} edits one prompt; "
                             "give one for all of them.")
        if self.plan is not None and self.plan.grid > 1 and len(conditioning[0][0]) > 1:
            raise ValueError(f"{name}: holds {len(text)} prompts, one a frame, but {self.plan.name} shows the model "
                             "several frames at once; give one prompt for all of them.")
        return Branch(name, text, image, conditioning[0][1].get("control"), self._extra(name, conditioning))

    def _extra(self, name: str, conditioning: Any) -> dict[str, Any]:
        """What SDXL reads of a condition beside its text, whatever the size of the latent; empty for other families."""
        if added_of(self.model.unet, conditioning, self.frames, (1, 1), name) is None:
            return {}
        return {key: value for key, value in conditioning[0][1].items() if key in ("pooled_output", *SIZES)}

    def call(self, x: Tensor, sigma: Tensor, ids: Sequence[int], replaced: Replacement | None = None, grid: int = 1,
             mixing: bool = True, source: bool = False, as_source: bool = False) -> Tensor:
        """Denoised rows from one call of the U-Net, or from one for each branch; see ``Calls``. sigma: [rows]."""
        attachments = [a for a in self.model.attachments if mixing or not a.mixes_frames]
        branches = self.source if source else self.branches
        if as_source:
            # All but the text, and the sizes that SDXL reads with it, is the positive's.
            text, positive = self.source[0], self.branches[0]
            branches = [replace(positive, text=text.text, extra=text.extra), *self.branches[1:]]
        branches = [branch.at(float(sigma[0])) for branch in branches]
        together = len(branches) if self.joint else 1
        batch, denoised = Batch(frames=len(x), replaced=replaced), []
        for start in range(0, len(branches), together):
            group = branches[start : start + together]
            batch.branches, batch.names = len(group), tuple(branch.name for branch in group)
            with attached(self.model.unet, attachments, self.model.query_deltas, batch):
                denoised += self._denoised(x, sigma, group, ids, grid)
        return denoised[0] if source else self._guided(denoised)

    def _denoised(self, x: Tensor, sigma: Tensor, branches: Sequence[Branch], ids: Sequence[int],
                  grid: int) -> list[Tensor]:
        """x_0 as each of the branches has it, from one call of the U-Net."""
        unet, n = self.model.unet, len(branches)
        spread = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        scaled = x / (1 + spread**2).sqrt()
        conditions = [branch.rows(ids, grid) for branch in branches]
        inputs = [with_image(unet, scaled, c, b.name) for c, b in zip(conditions, branches, strict=True)]
        timestep = self.model.schedule.timestep(sigma)
        # As the host counts them: the pixels of a frame, also where several lie in one picture.
        size = tuple(side // grid for side in x.shape[-2:])
        added = [added_of(unet, c, len(x), size, b.name) for c, b in zip(conditions, branches, strict=True)]
        controlled = added_up([
            residuals_of(b.control, scaled, timestep, c[0][0], float(sigma[0]), self.model.schedule, ids, grid, a)
            for c, b, a in zip(conditions, branches, added, strict=True)])  # fmt: skip
        texts = torch.cat([c[0][0] for c in conditions])
        read = [a for a in added if a is not None]  # all of them, or none: it hangs on the U-Net
        together = {key: torch.cat([a[key] for a in read]) for key in read[0]} if read else None
        noise = call_unet(unet, torch.cat(inputs), timestep.repeat(n), texts, controlled, together)
        return [x - spread * part for part in noise.chunk(n)]

    def _guided(self, denoised: list[Tensor]) -> Tensor:
        """The last condition, and step by step the differences up to the first."""
        out = denoised[-1]
        for i in reversed(range(len(self.scales))):
            out = out + self.scales[i] * (denoised[i] - denoised[i + 1])
        return out


@dataclass
class DenoiserCalls:
    """``methods.sampling_plan.Calls`` for one evaluation of a denoiser: x [rows, ...] at sigma [rows], one value."""

    denoise: Denoiser
    x: Tensor
    sigma: Tensor
    out_of_memory: tuple[type[BaseException], ...] = (torch.OutOfMemoryError,)

    def __call__(self, x: Tensor, ids: Sequence[int], *, replaced: Replacement | None = None, grid: int = 1,
                 mixing: bool = True, source: bool = False, as_source: bool = False) -> Tensor:
        return self.denoise.call(x, self.sigma[:1].expand(len(x)), ids, replaced, grid, mixing, source, as_source)

    @property
    def positive(self) -> str:
        return self.denoise.branches[0].name

    def rows_at_once(self, x: Tensor, grid: int, wanted: int) -> int:
        rows = self.denoise.chunk or wanted or max(1, AT_ONCE // grid**2)
        return min(rows, self.denoise.most or rows)

    def smaller(self, rows: int, divisible: bool) -> int | None:
        if self.denoise.joint and len(self.denoise.branches) > 1:
            self.denoise.joint = False
            return rows
        if not divisible or rows == 1:
            return None
        self.denoise.most = rows // 2
        return rows // 2

    def to_model_space(self, samples: Tensor) -> Tensor:
        return (samples.to(self.x) * self.denoise.model.latent_scale).to(self.x)

    def noised(self, samples: Tensor, ids: Sequence[int]) -> Tensor:
        raise ValueError("key_frames: are taken in ComfyUI only; run the graph with --host comfy.")
