"""The processes of a run, each a learner of its own, which exchange numbers."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from rl_lightning.fast.exchange import mean_of_processes


class Processes:
    """Exchanges tensors between the processes of a run; all of them ask at once.

    Args:
        trainer: of the run; None is one process alone.

    Attributes:
        count: how many they are.
    """

    def __init__(self, trainer: Trainer | None = None) -> None:
        self.count = 1 if trainer is None else trainer.world_size
        if trainer is not None and self.count > 1:
            self._strategy = trainer.strategy
            if trainer.state.fn == "fit":
                self._mean = mean_of_processes(trainer.strategy.root_device, trainer.num_nodes)

    def mean(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The mean of each tensor over all processes, while they train, in one exchange."""
        if self.count == 1:
            return tensors
        # not by Lightning's strategy, whose processes wait for each other before they exchange too
        mean = self._mean([tensor.flatten() for tensor in tensors])
        parts = torch.split(mean, [tensor.numel() for tensor in tensors])
        return tuple(part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))

    def gather(self, tensor: Tensor) -> Tensor:
        """A tensor [...] of this process to those of all processes, [processes, ...]."""
        if self.count == 1:
            return tensor.unsqueeze(0)
        return self._strategy.all_gather(tensor.to(self._strategy.root_device))
