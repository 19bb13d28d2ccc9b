"""Every kernel against its reference and its rivals: ``python -m steadyedit bench kernels``.

Correctness first: an operation that does not equal its reference, or its rival at full size,
ends the run, and no number of it is written. Rivals of one operation take turns, so that a
slow moment of the machine falls on all, and the best turn of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ...vision.metrics import paired_interval
from ..common.asked import chosen_of, written
from ..common.clock import clock
from ..common.memory import allocated_peak
from ..common.report import meta, table
from .contests import Contest, Size, contests
from .norm_contests import norm_contests
from .propagation_contest import propagation_contest

#: What rivals are told apart by.
Rival = TypeVar("Rival")

SIZES = tuple(f"{frames}x{tokens}" for tokens in (1024, 4096) for frames in (8, 16, 32))
OPERATIONS = ("ffam-2", "ffam-4", "sparse-causal", "full-attention", "gather", "swap", "cross-frame", "temporal",
              "group-norm", "layer-norm", "propagation")  # fmt: skip

#: name -> (heading, format, better). Ratios are to the row of the
#: baseline ("sdpa", the plain "norm", or the bare "products") of the same operation and size.
KEYS: dict[str, tuple[str, str, int]] = {
    "forward_ms": ("forward ms", ".1f", -1),
    "ratio": ("to baseline", ".2f", -1),
    "train_ms": ("and backward ms", ".1f", -1),
    "train_ratio": ("to baseline", ".2f", -1),
    "peak_mb": ("peak MB", ".1f", -1),
    "error": ("error", ".1e", -1),
}

# A CPU waits for no more than this: floating-point operations of a forward pass, and of one with its backward.
FORWARD_LIMIT, TRAIN_LIMIT = 8e11, 2e10
# Rounds of turns: at least two, and more while they are short.
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 2, 15, 4.0
# Tokens of a frame on which the reference is asked, and the relative error that passes.
CHECKED_TOKENS = 64
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def main(
    methods: Sequence[str] | None = None, json_path: Path | None = None, sizes: Sequence[str] | None = None,
    *, dtype: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Check, measure, print the table, and write the numbers.

    Args:
        methods: operations, all if None.
        json_path: where the numbers go.
        sizes: FRAMESxTOKENS each, ``SIZES`` if None.
        dtype: "float16", "bfloat16" or "float32"; if None, float16 where there is a GPU, else float32.

    Returns:
        what the JSON file holds; null where a CPU would take too long.

    Raises:
        ValueError: an unknown operation, or a size that is none.
        RuntimeError: an operation does not equal its reference.
    """
    chosen, asked = chosen_of(methods or OPERATIONS, OPERATIONS), list(sizes or SIZES)
    # float16 and a real model's eight heads where there is a GPU, one head where there is none.
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    used: torch.dtype = getattr(torch, dtype or ("float16" if cuda else "float32"))
    shapes = [_size(text, heads=8 if cuda else 1) for text in asked]
    measured: list[dict[str, Any]] = []
    with tqdm(total=len(shapes) * len(chosen), desc="bench kernels", disable=None) as bar:
        for size in shapes:
            for contest in _all(size, device, used):
                if contest.name in chosen:
                    bar.set_postfix_str(f"{contest.name} {size}")
                    error = _checked(contest, size, device, used)
                    measured += _measured(contest, size, error)
                    bar.update()
    report: dict[str, Any] = {
        "meta": meta(
            0, len(shapes), sizes=asked, heads=shapes[0].heads, head_dim=shapes[0].dim,
            dtype=str(used).removeprefix("torch."), clock=clock()[1], memory=_memory_fits(measured),
        ),
        "rows": measured,
    }  # fmt: skip
    print(f"\n{report['meta']['device']}; each equals its reference; * : slower or faster, not by chance.")
    print(table(measured, KEYS))
    for name, fit in report["meta"]["memory"].items():
        print(f"{name}: {fit['mb_per_frame']:.2f} MB a frame, at most {fit['worst']:.1%} off the line")
    return written(report, json_path)


def _all(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Contest]:
    yield from contests(size, device, dtype)
    yield from norm_contests(size, device, dtype)
    yield propagation_contest(size, device, dtype)


def _size(text: str, heads: int) -> Size:
    try:
        frames, tokens = map(int, text.split("x"))
        size = Size(frames, tokens, heads, dim=40)
    except ValueError:
        raise ValueError(f"sizes: expected FRAMESxTOKENS such as 8x1024, but got {text!r}.") from None
    if frames < 4 or tokens < 16 or size.side**2 != tokens:
        raise ValueError(f"sizes: {text!r} needs at least 4 frames, and a square number of tokens from 16 on.")
    return size


def _checked(contest: Contest, size: Size, device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative error of "ours" and "literal" on a small map, results and gradients.

    Raises:
        RuntimeError: it is beyond ``TOLERANCE``.
    """
    small = replace(size, tokens=min(CHECKED_TOKENS, size.tokens))
    small_contest = next(c for c in _all(small, device, dtype) if c.name == contest.name)
    wide = tuple(x.detach().double().requires_grad_(contest.trained) for x in small_contest.inputs)
    truth = _with_gradients(small_contest.reference, wide)
    worst = 0.0
    for name in contest.runs.keys() - {contest.baseline}:
        found = _with_gradients(small_contest.runs[name], small_contest.inputs)
        error = max(_difference(a, b) for a, b in zip(found, truth, strict=True))
        if not error <= TOLERANCE[dtype]:
            raise RuntimeError(f"kernels: {contest.name} {name} differs from its reference by {error:.1e} at {small}.")
        worst = max(worst, error)
    return worst


def _with_gradients(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The result, and the gradients of all inputs along a fixed direction where they ask for some."""
    out = run(*inputs)
    if not out.requires_grad:
        return [out]
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, direction)]


def _difference(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth.double()).abs().max() / truth.double().abs().max())


def _measured(contest: Contest, size: Size, error: float) -> list[dict[str, Any]]:
    """A row for each rival."""
    on_cpu = contest.inputs[0].device.type == "cpu"
    base = contest.baseline
    backend = fastest_backend(contest.runs[base], contest.ready) if not on_cpu and base == "sdpa" else None
    if backend is not None:
        contest.runs["sdpa"] = by_backend(backend, contest.runs["sdpa"])
    inputs = {name: contest.ready if name == base else contest.inputs for name in contest.runs}
    forward = train = peaks = None
    if not on_cpu or contest.flops <= FORWARD_LIMIT:
        peaks = _peaks(contest, inputs)
        with torch.no_grad():
            forward = _turns({name: partial(run, *inputs[name]) for name, run in contest.runs.items()})
    if contest.trained and (not on_cpu or contest.flops <= TRAIN_LIMIT):
        train = _turns({name: partial(_backward, run, inputs[name]) for name, run in contest.runs.items()})
    rows = []
    for name in contest.runs:
        row = dict.fromkeys([f"{key}{end}" for key in KEYS for end in ("", "_ci")])
        row |= {"method": f"{contest.name} {size} {name}", "operation": contest.name, "size": str(size), "rival": name}
        row["baseline"] = base
        row["backend"] = backend.name if backend is not None and name == "sdpa" else None
        row["error"] = None if name == base else error
        row["peak_mb"] = None if peaks is None else peaks[name]
        for key, ratio, turns in (("forward_ms", "ratio", forward), ("train_ms", "train_ratio", train)):
            if turns is not None:
                row[key], row[ratio] = min(turns[name]), min(turns[name]) / min(turns[base])
                row[f"{key}_ci"] = None if name == base else paired_interval(turns[name], turns[base])
        rows.append(row)
    return rows


def _backward(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    run(*inputs).sum().backward()


def by_backend(backend: SDPBackend, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``run`` with SDPA's choice made for it."""

    def chosen(*inputs: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return run(*inputs)

    return chosen


@torch.no_grad()
def fastest_backend(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> SDPBackend:
    """The one of SDPA's that is quickest here: on a GPU "sdpa" is the best of them, not the first that fits."""
    runs: dict[SDPBackend, Callable[[], Any]] = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        one = by_backend(backend, run)
        try:
            one(*inputs)
        except RuntimeError:  # it is not for this device, type or shape
            continue
        runs[backend] = partial(one, *inputs)
    turns = _turns(runs)
    return min(turns, key=lambda backend: min(turns[backend]), default=SDPBackend.MATH)


@torch.no_grad()
def _peaks(contest: Contest, inputs: dict[str, tuple[Tensor, ...]]) -> dict[str, float]:
    """MB that each rival allocates at its worst moment; the two ways must agree at full size too.

    Raises:
        RuntimeError: they do not.
    """
    results, peaks = {}, {}
    for name, run in contest.runs.items():
        results[name], peaks[name] = allocated_peak(partial(run, *inputs[name]))
    error = _difference(results["ours"], results["literal"])
    if not error <= TOLERANCE[results["ours"].dtype]:
        raise RuntimeError(f"kernels: {contest.name} differs from its literal form by {error:.1e} at full size.")
    return peaks


def _turns(runs: dict[Rival, Callable[[], Any]]) -> dict[Rival, list[float]]:
    """Milliseconds of every round for every rival, in turns."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    now, _ = clock()
    found: dict[Rival, list[float]] = {name: [] for name in runs}
    begun = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() - begun > SECONDS:
            break
        for name, run in runs.items():
            wait()
            start = now()
            run()
            wait()
            found[name].append((now() - start) * 1e3)
    return found


def _memory_fits(measured: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Lines through peak memory over frames, of "ours", where three lengths of clip are known."""
    points: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for row in measured:
        if row["rival"] == "ours" and row["peak_mb"] is not None:
            frames, tokens = map(int, row["size"].split("x"))
            points.setdefault((row["operation"], tokens), []).append((frames, row["peak_mb"]))
    fits = {}
    for (operation, tokens), known in points.items():
        if len(known) > 2:
            frames, peaks = torch.tensor(known, dtype=torch.float64).T
            design = torch.stack([torch.ones_like(frames), frames], dim=1)
            constant, slope = torch.linalg.lstsq(design, peaks[:, None]).solution[:, 0]
            worst = ((constant + slope * frames - peaks) / peaks).abs().max()
            fits[f"{operation}, {tokens} tokens"] = {"mb_per_frame": float(slope), "worst": float(worst)}
    return fits
