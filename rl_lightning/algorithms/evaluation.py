"""What is reported of evaluation episodes."""

from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class EpisodeStatistics(Metric):
    """Mean and deviation of returns, and mean length, of the episodes of all processes."""

    full_state_update = False
    returns: list[Tensor]
    lengths: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("returns", [], dist_reduce_fx="cat")
        self.add_state("lengths", [], dist_reduce_fx="cat")

    def update(self, returns: Tensor, lengths: Tensor) -> None:
        """Take in episodes: undiscounted returns and lengths in environment steps, both [E]."""
        self.returns.append(returns)
        self.lengths.append(lengths.float())

    def compute(self) -> dict[str, Any]:
        """By the name that each is logged under, scalars."""
        returns, lengths = dim_zero_cat(self.returns), dim_zero_cat(self.lengths)
        return {
            "return_mean": returns.mean(),
            "return_std": returns.std(correction=0),
            "episode_length_mean": lengths.mean(),
        }
