"""VIA's test-time editing adaptation: the editor learns one edited frame well enough to repeat it on all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache as cached
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..content_hash import content_hash
from ..lora import new_lora
from ..training_loop import TrainingRun
from ..training_store import TrainingStore
from ..tune_recipe import outcome_settings
from ..tuned_weights import FORMAT_VERSION, TunedWeights
from ..tuning import Tuned
from .adapt_flow import FlowPairTask, maker_of, variants_of
from .adapt_recipe import AdaptRecipe
from .augment import random_maps, warped
from .editor_clip import MAKER
from .root import check_editor, check_instruction, check_root, same_length

if TYPE_CHECKING:
    from ...backends.protocol import Progress, TrainingView, Tuning
    from ...diffusion.schedule import DiscreteSchedule

#: Maps that are warped and encoded at once.
CHUNK = 8


@dataclass(frozen=True)
class PairTask:
    """``training_loop.Task``: a LoRA on the pairs (source, edit) under an instruction.

    Args:
        source: latents of the warped sources as the U-Net reads them, [variants, 4, h, w].
        edited: latents of the edits in the model's scale, of the same shape.
        instruction, empty: text [1, tokens, C].
        extra: what else the instruction's CONDITIONING holds.
    """

    backend: Tuning
    model: Any
    source: Tensor
    edited: Tensor
    instruction: Tensor
    empty: Tensor
    extra: dict[str, Any]
    recipe: AdaptRecipe
    name: str = "adaptation"
    smaller: str = "use a smaller batch or smaller images"
    less_memory: tuple[str, ...] = ("with gradient checkpointing",)
    per_sample: bool = True

    @property
    def process(self) -> DiscreteSchedule:
        return self.backend.schedule(self.model)

    def open(self, attempt: int) -> AbstractContextManager[TrainingView]:
        lora, conditioning = first_lora(self.backend, self.model, self.recipe), [[self.instruction, self.extra]]
        return self.backend.training(self.model, (), conditioning, self.recipe.batch, False, attempt > 0, lora)

    def batch(self, step: int) -> tuple[Tensor, Any]:
        rng = np.random.default_rng((self.recipe.training.seed, step))
        rows = torch.from_numpy(rng.integers(len(self.source), size=self.recipe.batch))
        share = torch.from_numpy(rng.random(self.recipe.batch))[:, None, None] / max(self.recipe.dropout, 1e-12)
        # As InstructPix2Pix drops them: text alone, both, the image alone.
        text = torch.where(share < 2, self.empty, self.instruction)
        image = self.source[rows] * ~((share >= 1) & (share < 3))[..., None]
        return self.edited[rows], [[text, {**self.extra, "concat_latent_image": image}]]

    def predict(self, view: TrainingView, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        return view.predict_noise(noisy, level, condition)


def first_lora(backend: Tuning, model: Any, recipe: AdaptRecipe) -> dict[str, Tensor]:
    """The LoRA that training starts from, on all attention projections."""
    return new_lora(backend.projections(model), recipe.rank, recipe.training.seed)


def adapt(
    backend: Tuning,
    model: Any,
    vae: Any,
    source: Tensor,
    edited: Tensor,
    positive: Any,
    negative: Any,
    recipe: AdaptRecipe | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    preview_every: float = 2.0,
) -> Tuned:
    """Adapt an InstructPix2Pix-like editor to one pair, or find the LoRA of an equal adaptation.

    min over A, B of E || eps - eps_theta(x_t, t, instruction, F(source)) ||^2 with x_0 = F(edit)
    and F a random affine map (VIA, section on test-time editing adaptation). The input MODEL is
    never changed; the one that is returned is a clone with ordinary LoRA patches.

    Args:
        backend: of the MODEL.
        model: MODEL with an image input.
        vae: ``encode(IMAGE) -> LATENT samples``; not used any more once training starts.
        source, edited: the root frame before and after its edit, IMAGE [1, height, width, 3].
        positive: CONDITIONING of the instruction.
        negative: CONDITIONING of the empty prompt.
        cache: folder for the LoRA and for checkpoints; None keeps nothing.
        progress: the backend's own bar if None.
        preview_every: seconds between pictures on the progress bar; 0 for none.

    Returns:
        ``Tuned``, whose ``weights.tensors`` are the LoRA in the keys of ``methods.lora``.

    Raises:
        TypeError: the MODEL takes no image.
        ValueError: images or conditions that do not fit.
        FloatingPointError: the loss is no longer finite.
        MemoryError: memory ran out, also with gradient checkpointing.
    """
    recipe = recipe or AdaptRecipe()
    check_root(source, edited)
    if backend.joint_sites(model):
        return _adapt_flow(backend, model, source, edited, positive, negative, recipe, cache, progress, preview_every)
    check_editor(backend, model)
    instruction, extra = check_instruction("positive", positive)
    empty, _ = check_instruction("negative", negative)
    # Nodes run in inference mode, whose tensors can never take part in a backward pass.
    with torch.inference_mode(False):
        pair = torch.cat([source[..., :3], edited[..., :3]]).clone()
        # The latents name the VAE, too.
        content = (pair, _encode(vae, pair), instruction, empty, extra, _outcome_settings(recipe),
                   backend.fingerprint(model))
        bar = cached(lambda: progress or backend.progress(recipe.training.steps, "adaptation"))

        def task() -> PairTask:
            latents = encode_variants(vae, pair, recipe, bar())
            clean = backend.to_model_space(model, latents[1]).float()
            with_text, without_text = (text.clone() for text in same_length([instruction, empty]))
            return PairTask(backend, model, latents[0], clean, with_text, without_text, extra, recipe)

        return _trained(backend, model, recipe, content, cache, bar, task, preview_every)


def _trained(backend: Any, model: Any, recipe: AdaptRecipe, content: tuple, cache: Path | None,
             bar: Callable[[], Progress], task: Callable[[], Any], preview_every: float) -> Tuned:  # fmt: skip
    """The MODEL with the LoRA of an adaptation, which is found by what decides it, or trained."""
    store = TrainingStore(cache, content_hash("via-adaptation", *content), "adaptation")

    def train() -> TunedWeights:
        state = TrainingRun(task(), recipe.training, backend.out_of_memory(), store, bar(), preview_every,
                            backend.latent_picture(model)).run()
        metadata = {"version": FORMAT_VERSION, "recipe": asdict(recipe), "losses": state["losses"]}
        return TunedWeights(state["parameters"], json.loads(json.dumps(metadata)))

    weights, found = store.found_or_made(train, first_lora(backend, model, recipe), lambda: bar().update(0))
    return Tuned(backend.add_lora(model, weights.tensors), weights, list(weights.metadata["losses"]), found)


def _adapt_flow(backend: Any, model: Any, source: Tensor, edited: Tensor, positive: Any, negative: Any,
                recipe: AdaptRecipe, cache: Path | None, progress: Progress | None, preview_every: float
                ) -> Tuned:  # fmt: skip
    """As ``adapt``, of an editor that reads the picture as reference latents: min over A, B of
    E || v_theta(x_sigma, sigma, instruction, F(source)) - (eps - x_0) ||^2, sigma uniform."""
    parts = [maker_of(name, given) for name, given in (("positive", positive), ("negative", negative))]
    with torch.inference_mode(False):
        pair = torch.cat([source[..., :3], edited[..., :3]]).clone()
        # References of the frames that they were made with name the encoders.
        contents = [[maker.content(), {key: value for key, value in held.items() if key != MAKER}]
                    for maker, held in parts]
        content = ("flow", pair, contents, _outcome_settings(recipe), backend.fingerprint(model))
        bar = cached(lambda: progress or backend.progress(recipe.training.steps, "adaptation"))

        def task() -> FlowPairTask:
            latents, instruction, empty = variants_of(pair, positive, negative, recipe, bar())
            return FlowPairTask(backend, model, backend.to_model_space(model, latents.clone()).float(), instruction,
                                empty, recipe)  # fmt: skip

        return _trained(backend, model, recipe, content, cache, bar, task, preview_every)


def encode_variants(vae: Any, pair: Tensor, recipe: AdaptRecipe, progress: Progress) -> Tensor:
    """Latents of the pair under random maps, the same for both images: [2, variants, 4, h, w]."""
    height, width = pair.shape[1:3]
    maps = random_maps(recipe.variants, height, width, recipe.training.seed, recipe.ranges)
    encoded = []
    for some in maps.split(CHUNK):
        encoded.append(_encode(vae, warped(pair, some).flatten(0, 1)).unflatten(0, (2, len(some))))
        # The host takes a cancel here.
        progress.update(0)
    return torch.cat(encoded, 1)


def _encode(vae: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return vae.encode(images).float().cpu().clone()


def _outcome_settings(recipe: AdaptRecipe) -> dict[str, Any]:
    return {**asdict(recipe), "training": outcome_settings(recipe.training)}
