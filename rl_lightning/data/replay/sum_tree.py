"""Drawing from a million changing weights in microseconds."""

import numpy as np
import torch
from numpy.typing import NDArray

FAN_OUT = 16  # children of a node; wide, as NumPy is fast on blocks and slow to call
TOP = 4096  # entries of the topmost level, in which one search does for all draws


class SumTree:
    """Weights, and the sums over ever larger blocks of them by which to draw an index in proportion to its weight.

    A level holds the sums of `FAN_OUT` entries of the one below; at the bottom are the weights. Sums are always taken
    anew from a whole block, never moved by a difference, so no error builds up.

    Args:
        size: number of weights, all zero at first.

    Attributes:
        weights: [size] float64; to be changed by `update`.
    """

    def __init__(self, size: int) -> None:
        self._levels = [np.zeros(entries) for entries in _entries(size)]
        self._blocks = [level.reshape(-1, FAN_OUT) for level in self._levels]
        self.weights = self._levels[0][:size]

    def update(self, index: NDArray[np.int64], weight: NDArray[np.float64] | float) -> None:
        """Change weights.

        Args:
            index: [B]; of equal ones the last counts.
            weight: the new ones, not negative, [B] or one for all.
        """
        self.weights[index] = weight
        for below, level in zip(self._blocks, self._levels[1:], strict=False):
            index = index // FAN_OUT
            level[index] = below.take(index, axis=0).sum(axis=1)

    def fill(self, weight: NDArray[np.float64]) -> None:
        """Change all weights, to those of [size]."""
        self.weights[:] = weight
        for below, level in zip(self._blocks, self._levels[1:], strict=False):
            level[: len(below)] = below.sum(axis=1)

    def sample(self, draws: int, generator: torch.Generator) -> NDArray[np.int64]:
        """Indices [draws], each drawn with replacement in proportion to its weight; never one of weight 0."""
        # a number of its own for each level: the remainder of one would lose digits on the way down
        uniform = torch.rand(len(self._levels), draws, generator=generator, dtype=torch.float64).numpy()
        sums = self._levels[-1].cumsum()
        index: NDArray[np.int64] = sums.searchsorted(uniform[-1] * sums[-1], side="right")
        for blocks, number in zip(self._blocks[-2::-1], uniform, strict=False):
            block_sums = blocks.take(index, axis=0).cumsum(axis=1)  # [draws, FAN_OUT]
            within = (block_sums > (number * block_sums[:, -1])[:, None]).argmax(axis=1)
            index = index * FAN_OUT + within
        return index


def bytes_of_tree(size: int) -> int:
    """Bytes that a `SumTree` takes, without making one."""
    return sum(_entries(size)) * np.dtype(np.float64).itemsize


def _entries(size: int) -> list[int]:
    """Of each level, the lowest first."""
    levels = [-(-size // FAN_OUT) * FAN_OUT]
    while levels[-1] > TOP:
        levels.append(-(-levels[-1] // FAN_OUT // FAN_OUT) * FAN_OUT)
    return levels
