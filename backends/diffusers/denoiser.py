"""The U-Net as the model(x, sigma) of k-diffusion's samplers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...methods.rave import denoise_in_grids, to_grid
from ...methods.via.gather_swap import Bank, LaneCall
from ...methods.via.lock_step import denoise_in_lock_step
from .conditioning import image_of, text_of, with_image
from .control import added_up, residuals_of
from .patching import Batch, attached

if TYPE_CHECKING:
    from torch import Tensor

    from .control import Control, Residuals
    from .model import DiffusersModel

#: Frames in a call of the U-Net where nothing says how many: more use no device better, and memory stays flat.
AT_ONCE = 16


def call_unet(unet: Any, x: Tensor, timestep: Tensor, text: Tensor, residuals: Residuals | None = None) -> Tensor:
    """epsilon in x's dtype, whatever the U-Net's device and dtype are; ``residuals`` are ControlNets'."""
    place = {"device": unet.device, "dtype": unet.dtype}
    down, middle = residuals or (None, None)
    noise = unet(x.to(**place), timestep.to(unet.device), encoder_hidden_states=text.to(**place),
                 down_block_additional_residuals=down, mid_block_additional_residual=middle, return_dict=False)[0]
    return noise.to(x.device, x.dtype)


@dataclass(frozen=True)
class Branch:
    """One condition of the guidance, with a row for every frame of the clip."""

    name: str
    text: Tensor
    image: Tensor | None
    control: Control | None = None

    def rows(self, ids: Sequence[int], grid: int = 1) -> list[list[Any]]:
        """CONDITIONING of some frames, or of pictures of ``grid`` x ``grid`` of them."""
        index = list(ids)
        image = {} if self.image is None else {"concat_latent_image": to_grid(self.image[index], grid)}
        return [[self.text[index[:: grid**2]], image]]


class Denoiser:
    """D(x, sigma) = x - sigma eps_theta(x / sqrt(1 + sigma^2), t(sigma)), with guidance
    D = D_neg + cfg (D_pos - D_neg).

    t is the schedule's nearest integer, as in the ComfyUI host. Branches go through the U-Net
    together and frames in chunks; where memory runs out, branches go one by one, then chunks
    are halved. That changes no result, since neither branches nor frames see each other. Where
    an attached method mixes frames (STAM, FFAM, ...), all frames go in one call.

    With gather-swap attached it works in lock-step and needs what ``sampling.sample`` gives it:
    x with lanes, ``frame_ids``, ``sample_sigmas``. Lanes go in calls of their own, without the
    methods that mix frames: those are made for a clip's neighbouring frames, never for a group.

    With RAVE attached, pictures of several frames take the frames' place, and their number that of
    the frames; it needs ``sample_sigmas`` too.

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
        chunk: frames (with RAVE: grids) in a call; 0: what gather-swap's or RAVE's settings say, else ``AT_ONCE``
            frames.

    Raises:
        ValueError: a conditioning that does not fit the frames, or an editor without an image.
    """

    def __init__(self, model: DiffusersModel, positive: Any, negative: Any = None, cfg: float = 1.0, *,
                 middle: Any = None, middle_cfg: float = 1.0, frames: int, joint: bool = True, chunk: int = 0):
        self.model, self.frames, self.joint = model, frames, joint
        self.lanes = next((a.lanes for a in model.attachments if a.lanes is not None), None)
        self.mixes = any(a.mixes_frames for a in model.attachments)
        self.grids = next((a.grids for a in model.attachments if a.grids is not None), None)
        self.grid = self.grids.grid if self.grids else 1
        owner = self.lanes or self.grids
        self.chunk = chunk or (owner.chunk if owner else 0) or max(1, AT_ONCE // self.grid**2)
        # Each condition but the last has the scale of its difference from the next.
        named = [("positive", positive, cfg), ("negative", negative, 1.0)]
        if middle is not None:
            named = [("cond1", positive, cfg), ("cond2", middle, middle_cfg), ("negative", negative, 1.0)]
        while len(named) > 1 and (named[-1][1] is None or named[-2][2] == 1.0):
            named.pop()
        self.scales = [scale for _, _, scale in named[:-1]]
        self.branches = [self._branch(name, conditioning) for name, conditioning, _ in named]

    @classmethod
    def dual(cls, model: DiffusersModel, cond1: Any, cond2: Any, negative: Any, cfg_conds: float,
             cfg_cond2_negative: float, **options: Any) -> Denoiser:
        """InstructPix2Pix's guidance, as the host's DualCFGGuider with style "regular" has it:

        D = D_neg + cfg_cond2_negative (D_2 - D_neg) + cfg_conds (D_1 - D_2).

        Args:
            cond1: text and image.
            cond2: image, empty text.
            negative: empty text, no image.
            cfg_conds: guidance by the text.
            cfg_cond2_negative: guidance by the image; at 1 the negative is dropped.
            options: ``frames``, ``joint``, ``chunk``.
        """
        return cls(model, cond1, negative, cfg_conds, middle=cond2, middle_cfg=cfg_cond2_negative, **options)

    def __call__(self, x: Tensor, sigma: Tensor, *, frame_ids: Sequence[int] | None = None,
                 sample_sigmas: Tensor | None = None, **extra_args: Any) -> Tensor:
        """Denoised x. x: [rows, channels, h, w] in sigma space; sigma: [rows].

        Args:
            frame_ids: frame of each row during lock-step; without it the rows are the frames.
            sample_sigmas: of the whole run, needed with ``frame_ids`` and by RAVE.

        Raises:
            ValueError: gather-swap or RAVE is attached, but the sampler does not carry what it needs.
        """
        if self.grids is not None:
            if sample_sigmas is None:
                raise ValueError("model: RAVE is attached, but the sampler does not tell its noise levels; "
                                 "sample through backends.diffusers.sampling.sample.")
            return denoise_in_grids(self.grids, lambda tiles, order: self._rows(
                tiles, sigma[:1].expand(len(tiles)), order, None, None), x, float(sigma[0]), sample_sigmas)
        if self.lanes is None:
            return self._rows(x, sigma, frame_ids or range(self.frames), None, None)
        if frame_ids is None or sample_sigmas is None:
            raise ValueError("model: gather-swap is attached, but the sampler carries no lanes; "
                             "sample through backends.diffusers.sampling.sample.")
        return denoise_in_lock_step(self.lanes, self._rows, x, sigma, self.frames, frame_ids, sample_sigmas)

    def _branch(self, name: str, conditioning: Any) -> Branch:
        text, image, unet = text_of(conditioning, self.frames, name), None, self.model.unet.config
        if unet.in_channels > unet.out_channels:
            image = image_of(conditioning, self.frames, name)
            if image is None and name in ("positive", "cond1"):
                raise ValueError(f"{name}: this MODEL edits images, but the condition holds none; "
                                 "put it through InstructPixToPixConditioning.")
        if self.grid > 1 and len(conditioning[0][0]) > 1:
            raise ValueError(f"{name}: holds {len(text)} prompts, one a frame, but RAVE shows the model several frames "
                             "at once; give one prompt for all of them.")
        return Branch(name, text, image, conditioning[0][1].get("control"))

    def _rows(self, x: Tensor, sigma: Tensor, ids: Sequence[int], mode: str | None, bank: Bank | None) -> Tensor:
        """Denoised rows; see ``methods.via.lock_step.Rows``."""
        whole = mode == "gather" or self.mixes
        while True:
            step = len(x) if whole else min(self.chunk, len(x))
            try:
                return torch.cat(list(self._chunks(x, sigma, ids, step, mode, bank)))
            except torch.OutOfMemoryError:
                if self.joint and len(self.branches) > 1:
                    self.joint = False
                elif not whole and step > 1:
                    self.chunk = step // 2
                else:
                    raise

    def _chunks(self, x: Tensor, sigma: Tensor, ids: Sequence[int], step: int, mode: str | None,
                bank: Bank | None) -> Iterator[Tensor]:
        """Denoised rows, ``step`` of them in a call of the U-Net."""
        attachments = [a for a in self.model.attachments if not (mode == "gather" and a.mixes_frames)]
        together = len(self.branches) if self.joint else 1
        groups = [self.branches[i : i + together] for i in range(0, len(self.branches), together)]
        batch, places = Batch(), self.grid**2
        for start in range(0, len(x), step):
            rows, here = slice(start, start + step), ids[start * places : (start + step) * places]
            denoised = []
            for group in groups:
                names = tuple(branch.name for branch in group)
                batch.branches, batch.frames = len(group), len(x[rows])
                batch.lanes = None if mode is None else LaneCall(mode, names, bank, self.lanes)
                with attached(self.model.unet, attachments, self.model.query_deltas, batch):
                    denoised += self._denoised(x[rows], sigma[rows], group, here)
            yield self._guided(denoised)

    def _denoised(self, x: Tensor, sigma: Tensor, branches: Sequence[Branch], ids: Sequence[int]) -> list[Tensor]:
        """x_0 as each of the branches has it, from one call of the U-Net."""
        unet, n = self.model.unet, len(branches)
        spread = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        scaled = x / (1 + spread**2).sqrt()
        conditions = [branch.rows(ids, self.grid) for branch in branches]
        inputs = [with_image(unet, scaled, c, b.name) for c, b in zip(conditions, branches, strict=True)]
        timestep = self.model.schedule.timestep(sigma)
        controlled = added_up([
            residuals_of(b.control, scaled, timestep, c[0][0], float(sigma[0]), self.model.schedule, ids, self.grid)
            for c, b in zip(conditions, branches, strict=True)])  # fmt: skip
        texts = torch.cat([c[0][0] for c in conditions])
        noise = call_unet(unet, torch.cat(inputs), timestep.repeat(n), texts, controlled)
        return [x - spread * part for part in noise.chunk(n)]

    def _guided(self, denoised: list[Tensor]) -> Tensor:
        """The last condition, and step by step the differences up to the first."""
        out = denoised[-1]
        for i in reversed(range(len(self.scales))):
            out = out + self.scales[i] * (denoised[i] - denoised[i + 1])
        return out
