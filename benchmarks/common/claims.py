"""What the paper says of the rows of the table, asked of the measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...vision.metrics import paired_interval

Claim = tuple[str, str, int, tuple[tuple[str, str], ...]]

_ALONG_NORMS = (
    ("instance-norm", "layer-norm"),
    ("centering", "instance-norm"),
    ("centering-spectral", "centering"),
    ("centering-spectral", "layer-norm"),
)
_FFAM = (("ei2", "centering-spectral"), ("ffam-4", "centering-spectral"))
_RIVAL = (("ei2", "tune-a-video"), ("ei2", "tune-a-video-per-frame"))

#: (claim, key, direction: +1 more, -1 less, 0 no difference is claimed, pairs of method and rival).
CLAIMS: tuple[Claim, ...] = (
    ("the mean shift falls along LN, IN, IC, IC + SN", "mean_shift", -1, _ALONG_NORMS),
    ("the variance shift falls along LN, IN, IC, IC + SN", "variance_shift", -1, _ALONG_NORMS),
    ("the edit is more often right along LN, IN, IC, IC + SN", "edit_accuracy", 1, _ALONG_NORMS),
    ("EI2 edits more often right than Tune-A-Video", "edit_accuracy", 1, _RIVAL),
    ("EI2 fits the prompt better than Tune-A-Video", "clip_text", 1, _RIVAL),
    ("FFAM flickers less than sparse-causal attention", "flicker", -1, _FFAM),
    ("FFAM tunes at the cost of sparse-causal attention", "train_seconds", 0, _FFAM),
    ("FFAM samples at the cost of sparse-causal attention", "infer_seconds", 0, _FFAM),
)


_STEADY = (("via", "via-no-gather"), ("via", "via-no-swap"), ("via", "cross-frame"))
_ADAPTED = (("via", "via-no-adaptation"),)
_WORDINGS, _CROSS = (("texts-per-frame", "per-frame"),), (("texts-via", "texts-via-no-cross-swap"),)

#: Of VIA's ablations (section 5.4 and appendix B): those of every edit, and those of edits with a mask.
VIA_CLAIMS: tuple[Claim, ...] = (
    ("adaptation adheres to the instruction: right", "edit_accuracy", 1, _ADAPTED),
    ("adaptation adheres to the instruction: CLIP", "clip_text", 1, _ADAPTED),
    ("adaptation comes nearer to the truth", "psnr_truth", 1, _ADAPTED),
    ("gather-swap keeps frames consistent: flicker", "flicker", -1, _STEADY),
    ("gather-swap keeps frames consistent: CLIP", "clip_frame", 1, _STEADY),
    # What the next three need: something to repair.
    ("a wording for each frame makes them inconsistent: flicker", "flicker", 1, _WORDINGS),
    ("the swap of cross-attention keeps frames consistent: flicker", "flicker", -1, _CROSS),
    ("the swap of cross-attention keeps frames consistent: CLIP", "clip_frame", 1, _CROSS),
    ("the swap of cross-attention costs no edit", "edit_accuracy", 0, _CROSS),
)
VIA_LOCAL_CLAIMS: tuple[Claim, ...] = (
    ("the blend keeps the background", "psnr_background", 1, (("via", "via-no-blend"),)),
    ("without the ramp the edit stays too close to the source: inside", "psnr_inside", 1, (("via", "via-no-ramp"),)),
    ("without the ramp the edit stays too close to the source: right", "edit_accuracy", 1, (("via", "via-no-ramp"),)),
    ("a blend at the last step only leaves edges", "boundary_error", -1, (("via", "via-last-step-blend"),)),
)

_FLOW_STEADY = (("gather-swap", "per-frame"), ("gather-swap", "cross-frame"))
_FLOW_ADAPTED = (("with-adaptation", "gather-swap"),)

#: The same of an editor that is a flow: each part against what comes before it.
VIA_FLOW_CLAIMS: tuple[Claim, ...] = (
    ("gather-swap keeps frames consistent: flicker", "flicker", -1, _FLOW_STEADY),
    ("gather-swap keeps frames consistent: CLIP", "clip_frame", 1, _FLOW_STEADY),
    ("gather-swap costs no edit", "edit_accuracy", 0, (("gather-swap", "per-frame"),)),
    ("adaptation adheres to the instruction: right", "edit_accuracy", 1, _FLOW_ADAPTED),
    ("adaptation adheres to the instruction: CLIP", "clip_text", 1, _FLOW_ADAPTED),
    ("adaptation comes nearer to the truth", "psnr_truth", 1, _FLOW_ADAPTED),
)
VIA_FLOW_LOCAL_CLAIMS: tuple[Claim, ...] = (
    ("the blend keeps the background", "psnr_background", 1, (("with-blend", "with-adaptation"),)),
    ("the blend costs no edit", "edit_accuracy", 0, (("with-blend", "with-adaptation"),)),
    ("the clip's exact path serves as well as its inversion", "psnr_truth", 0,
     (("with-blend", "with-blend-inverted"),)),
)


_NORMS, _ADAPTER, _TWO = ("norm-tune", "base"), ("visual-adapter", "base"), ("dape", "base")
_PLACES = tuple(("dape", f"positions-{which}") for which in ("1-7", "1267", "3-5", "1-3", "5-7"))
_RIVALS = tuple(("dape", rival) for rival in ("lora", "adapter", "mona", "partial-1", "norm-tuning", "bitfit"))

#: Of DAPE's tables 1 to 4, on every base.
DAPE_CLAIMS: tuple[Claim, ...] = (
    ("DAPE keeps frames more alike", "clip_frame", 1, (_TWO,)),
    ("DAPE interpolates better", "interpolation_error", -1, (_TWO,)),
    ("DAPE interpolates better, in dB", "interpolation_psnr", 1, (_TWO,)),
    ("DAPE warps better", "warp_error", -1, (_TWO,)),
    ("DAPE fits the prompt better", "clip_text", 1, (_TWO,)),
    ("norm-tuning keeps frames more alike", "clip_frame", 1, (_NORMS,)),
    ("norm-tuning fits the prompt better", "clip_text", 1, (_NORMS,)),
    ("norm-tuning alone warps worse (table 3)", "warp_error", 1, (_NORMS,)),
    ("the visual adapter interpolates better", "interpolation_error", -1, (_ADAPTER,)),
    ("two stages warp better than one", "warp_error", -1, (("dape", "one-stage"),)),
    ("two stages fit the prompt better than one", "clip_text", 1, (("dape", "one-stage"),)),
    ("one stage interpolates better than two, in dB (table 3)", "interpolation_psnr", 1, (("one-stage", "dape"),)),
    ("Huber loss warps better than MSE", "warp_error", -1, (("dape", "dape-mse"),)),
    ("position 5 warps best", "warp_error", -1, _PLACES),
    ("position 5 fits the prompt best", "clip_text", 1, _PLACES),
    ("DAPE warps better than its rivals", "warp_error", -1, _RIVALS),
    ("DAPE interpolates better than its rivals", "interpolation_error", -1, _RIVALS),
    ("plain norm-tuning fits the prompt better than DAPE (table 4)", "clip_text", 1, (("norm-tuning", "dape"),)),
)


_MASK, _TUNED = (("mask-lora", "naive-lora"),), (("mask-lora", "untuned-mask"),)
_REFERENCE = (("mask-lora-reference", "mask-lora"),)

#: Of LoRA-Edit's sections 3.2 to 4.5: on things that only move, and on things that turn and show another side.
LORA_EDIT_CLAIMS: tuple[Claim, ...] = (
    ("the untuned model cannot fill a mask: inside", "psnr_inside", -1, (("untuned-mask", "untuned"),)),
    ("the LoRA learns what a mask is: inside", "psnr_inside", 1, _TUNED),
    ("the LoRA learns what a mask is: edit kept", "edit_accuracy", 1, _TUNED),
    ("the LoRA learns what a mask is: border of the object", "boundary_error", -1, _TUNED),
    ("the LoRA learns what a mask is: border of the boxes", "seam_error", -1, _TUNED),
    ("a LoRA on the clip teaches its motion", "motion_error", -1, (("naive-lora", "untuned"),)),
    ("the mask keeps the background", "psnr_background", 1, _MASK),
    ("the mask keeps what comes in", "input_similarity", 1, _MASK),
    ("the mask does not cost the edit", "edit_accuracy", 0, _MASK),
    ("frames look like the edited first one", "clip_score_first_frame", 1, (("mask-lora", "untuned"),)),
    ("short clips serve nearly as well", "psnr_inside", 0, (("mask-lora-clips", "mask-lora"),)),
    ("short clips take less memory", "peak_mb", -1, (("mask-lora-clips", "mask-lora"),)),
    ("attention alone serves as well", "psnr_inside", 0, (("mask-lora-attention-only", "mask-lora"),)),
    ("an edited later frame changes little where nothing new shows", "psnr_inside", 0, _REFERENCE),
)
LORA_EDIT_TURNING_CLAIMS: tuple[Claim, ...] = (
    ("an edited later frame tells of the other side: edit kept", "edit_accuracy", 1, _REFERENCE),
    ("an edited later frame tells of the other side: inside", "psnr_inside", 1, _REFERENCE),
    ("an edited later frame tells of the other side: border", "boundary_error", -1, _REFERENCE),
)


def claims(clips: Sequence[dict[str, Any]], asked: Sequence[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """Every claim whose methods were measured.

    Args:
        clips: rows with ``method`` and a value for every key, the same clips in the same
            order for every method.
        asked: the claims.

    Returns:
        per pair: ``claim``, ``key``, ``method``, ``against``, ``difference`` (mean over
        clips), ``ci`` (95 %, paired) and ``shows``: True or False where the interval
        excludes 0, None where chance explains the difference or none is claimed.
    """
    values: dict[str, list[dict[str, Any]]] = {}
    for row in clips:
        values.setdefault(row["method"], []).append(row)
    found = []
    for claim, key, direction, pairs in asked:
        for method, against in pairs:
            if method not in values or against not in values:
                continue
            own, other = ([row[key] for row in values[name]] for name in (method, against))
            interval = paired_interval(own, other)
            sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
            difference = sum(a - b for a, b in zip(own, other, strict=True)) / len(own)
            found.append({
                "claim": claim, "key": key, "method": method, "against": against, "difference": difference,
                "ci": interval, "shows": difference * direction > 0 if sure and direction else None,
            })  # fmt: skip
    return found


def claim_line(claim: dict[str, Any], form: str) -> str:
    """One line about a claim; ``form`` is the format of its key's numbers."""
    verdict = {True: "shows", False: "the opposite shows", None: "-"}[claim["shows"]]
    interval = "" if claim["ci"] is None else " [{0:{2}}, {1:{2}}]".format(*claim["ci"], form)
    return (
        f"{claim['claim']}: {claim['method']} - {claim['against']} = {claim['difference']:{form}}{interval}: {verdict}"
    )
