"""What is reported of evaluation episodes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import CatMetric


class EpisodeStatistics:
    """Mean and deviation of returns, and mean length, of the episodes of all processes.

    No module itself: a learner's modules are its networks, which Lightning lists.
    """

    def __init__(self) -> None:
        self._returns, self._lengths = CatMetric("disable"), CatMetric("disable")

    def update(self, returns: Tensor, lengths: Tensor) -> None:
        """Take in episodes: undiscounted returns and lengths in environment steps, both [E]."""
        for metric, values in ((self._returns, returns), (self._lengths, lengths)):
            metric.to(values.device)
            metric.update(values.float())

    def compute(self) -> dict[str, Any]:
        """By the name that each is logged under, scalars."""
        returns, lengths = torch.as_tensor(self._returns.compute()), torch.as_tensor(self._lengths.compute())
        return {
            "return_mean": returns.mean(),
            "return_std": returns.std(correction=0),
            "episode_length_mean": lengths.mean(),
        }

    def reset(self) -> None:
        """Forget all episodes."""
        self._returns.reset()
        self._lengths.reset()
