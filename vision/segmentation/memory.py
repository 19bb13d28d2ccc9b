"""Segment Anything 2's memory: masks of a few frames -> the object in all frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .sam2 import Sam2, stretched

#: So many tracked frames are kept: more than the network looks back (7 masks, 16 pointers).
REACH = 24


class Frames:
    """The clip as the network's input, a frame at a time when it is asked for: a list of prepared frames would be
    12 MB a frame."""

    def __init__(self, frames: Tensor, side: int):
        self.frames, self.side = frames, side

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        return stretched(self.frames[index : index + 1], self.side)[0]


class Sam2Video(Sam2):
    """``Sam2`` that can also follow an object through a clip."""

    @torch.no_grad()
    def track(self, frames: Tensor, masks: Mapping[int, Tensor],
              progress: Callable[[int], None] | None = None) -> tuple[Tensor, Tensor]:
        """Follow one object forwards and backwards from its first mask.

        Args:
            frames: IMAGE [n, height, width, 3].
            masks: [height, width] in 0..1 by the number of its frame, one or more.
            progress: called with the number of frames done.

        Returns:
            masks [n, height, width] of 0 and 1, the given ones cut at 0.5, and the network's
            probability [n] that the object is to be seen at all.
        """
        from transformers import Sam2VideoInferenceSession

        session = Sam2VideoInferenceSession(
            video_height=frames.shape[1], video_width=frames.shape[2], inference_device=self.device,
            inference_state_device=self.device, video_storage_device="cpu", dtype=torch.float32)
        session.processed_frames = Frames(frames, self.side)
        index = session.obj_id_to_idx(1)
        out = torch.zeros(frames.shape[:3])
        sure = torch.zeros(len(frames))
        with self.half():
            for number, mask in sorted(masks.items()):
                session.add_mask_inputs(index, number, self._prepared(mask))
                session.obj_with_new_inputs = [1]
                self.module(session, frame_idx=number)
            done = 0
            for order, backwards in self._orders(len(frames), min(masks)):
                for number in order:
                    answer = self.module(session, frame_idx=number, reverse=backwards)
                    out[number] = self._at_size(answer.pred_masks, frames.shape[1:3])
                    sure[number] = answer.object_score_logits.float().sigmoid().mean().cpu()
                    self._forget(session, index, number)
                    done += 1
                    if progress:
                        progress(done)
        for number, mask in masks.items():
            out[number] = (mask > 0.5).float().cpu()
        return out, sure

    @staticmethod
    def _orders(count: int, first: int) -> tuple[tuple[range, bool], tuple[range, bool]]:
        """Frames to visit, and whether time runs backwards there."""
        return (range(first, count), False), (range(first - 1, -1, -1), True)

    def _prepared(self, mask: Tensor) -> Tensor:
        """[h, w] -> [1, 1, side, side] of 0 and 1."""
        square = interpolate(mask[None, None].float(), (self.side, self.side), mode="bilinear", align_corners=False,
                             antialias=True)
        return (square >= 0.5).float()

    @staticmethod
    def _at_size(logits: Tensor, size: torch.Size) -> Tensor:
        full = interpolate(logits.float().reshape(1, 1, *logits.shape[-2:]), tuple(size), mode="bilinear",
                           align_corners=False)
        return (full[0, 0] > 0).float().cpu()

    @staticmethod
    def _forget(session, index: int, now: int) -> None:
        """Drop what no later frame looks at, so that memory does not grow with the clip."""
        kept = session.output_dict_per_obj[index]
        for outputs in kept.values():
            for frame in outputs.values():
                frame.pop("high_res_masks", None)
        tracked = kept["non_cond_frame_outputs"]
        for number in [number for number in tracked if abs(number - now) > REACH]:
            del tracked[number]
