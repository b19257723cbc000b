"""Prioritized replay: which transitions to learn from, and how much each then counts."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.data.replay.sum_tree import SumTree
from rl_lightning.errors import Divergence
from rl_lightning.types import State

EPSILON = 1e-6  # added to |TD error|, or what is fitted once would never be seen again


class Priorities:
    """Proportional prioritization (Schaul et al. 2016, section 3.3): P(i) ∝ p_i^α with p_i = |δ_i| + ε.

    Args:
        slots: places of transitions in memory, empty at first.
        alpha: the exponent α > 0.

    Attributes:
        largest: the maximum priority so far, which new transitions get; 1 at first.
    """

    def __init__(self, slots: int, alpha: float) -> None:
        self.alpha, self.largest = alpha, 1.0
        self._tree = SumTree(slots)

    def fill(self, slots: NDArray[np.int64]) -> None:
        """New transitions have come to these places."""
        self._tree.update(slots, self.largest**self.alpha)

    def empty(self, slots: NDArray[np.int64]) -> None:
        """What is in these places is not to be drawn any more."""
        self._tree.update(slots, 0.0)

    def sample(self, draws: int, generator: torch.Generator) -> NDArray[np.int64]:
        """Places [draws] of transitions, drawn in proportion to p^α."""
        return self._tree.sample(draws, generator)

    def weights(self, slots: NDArray[np.int64], beta: float) -> Tensor:
        """Of importance sampling, for minibatches [updates, batch_size]: (N P)^-β over its maximum in each; float32."""
        powers = self._tree.weights[slots]  # p^α
        # N and Σ p^α are in every weight, so they cancel
        weight = (powers / powers.min(axis=-1, keepdims=True)) ** -beta
        return torch.from_numpy(weight.astype(np.float32))

    def update(self, slots: NDArray[np.int64], td_error: NDArray[np.float64]) -> None:
        """Give transitions the priorities of their TD errors; both [B]. Of equal places the last counts.

        Raises:
            Divergence: TD errors that are not finite.
        """
        priority = np.abs(td_error) + EPSILON
        if not np.isfinite(priority).all():
            raise Divergence(
                "a TD error is not finite, and cannot be a priority: the network diverged; lower the learning rates "
                "or scale the reward"
            )
        self.largest = max(self.largest, float(priority.max(initial=0.0)))
        self._tree.update(slots, priority**self.alpha)

    def state_dict(self, slots: int) -> State:
        """The priorities in the first places, as p^α; the very memory that they are kept in."""
        return {"powers": torch.from_numpy(self._tree.weights[:slots]), "alpha": self.alpha, "largest": self.largest}

    def load_state_dict(self, state: State | None, here: NDArray[np.int64], there: NDArray[np.int64]) -> None:
        """Take over saved priorities.

        Args:
            state: of `state_dict`; without it, all transitions get the maximum.
            here: places of transitions; there are no others.
            there: their places in the saved ring.
        """
        weights = np.zeros_like(self._tree.weights)
        if state is None:
            weights[here] = self.largest**self.alpha
        else:
            self.largest = float(state["largest"])
            # the same α leaves them as they are, to the last bit
            weights[here] = state["powers"].numpy()[there] ** (self.alpha / state["alpha"])
        self._tree.fill(weights)
