"""Frames laid out in grids and taken out again: pure tensor functions, exact to the last bit."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def to_grid(frames: Tensor, grid: int) -> Tensor:
    """g^2 frames in a row as one picture of g x g of them, row by row.

    Args:
        frames: [n, channels, height, width], n a multiple of g^2.
        grid: g, frames a side.

    Returns:
        [n / g^2, channels, g height, g width].

    Raises:
        ValueError: n is no multiple of g^2.
    """
    n, channels, height, width = frames.shape
    if n % grid**2:
        raise ValueError(f"frames: {n} do not fill grids of {grid}x{grid}; fill them up first.")
    tiles = frames.reshape(n // grid**2, grid, grid, channels, height, width)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(n // grid**2, channels, grid * height, grid * width)


def from_grid(pictures: Tensor, grid: int) -> Tensor:
    """The inverse of ``to_grid``.

    Args:
        pictures: [m, channels, g height, g width].
        grid: g, frames a side.

    Returns:
        [m g^2, channels, height, width].

    Raises:
        ValueError: a side does not divide by g.
    """
    m, channels, height, width = pictures.shape
    if height % grid or width % grid:
        raise ValueError(f"pictures: {height}x{width} is no grid of {grid}x{grid}.")
    tiles = pictures.reshape(m, channels, grid, height // grid, grid, width // grid)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(m * grid**2, channels, height // grid, width // grid)


def permutation(frames: int, seed: int, step: int) -> tuple[int, ...]:
    """The frames in the random order of one step; the same on every machine."""
    drawn = random.Random(f"{seed}:{step}")
    # Python promises that random() stays what it is, but not sample() and shuffle().
    keys = [drawn.random() for _ in range(frames)]
    return tuple(sorted(range(frames), key=keys.__getitem__))


def filled(order: tuple[int, ...], grid: int) -> tuple[int, ...]:
    """An order with frames added until whole grids are full.

    The last grid is filled from the order's own beginning: random frames, each at most once, and none that is in
    that grid already, unless there are fewer frames than it takes.
    """
    missing = -len(order) % grid**2
    return tuple(order[k % len(order)] for k in range(len(order) + missing))
