"""Training batches of replay: minibatches that are drawn as they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rl_lightning.types import Transition, to_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rl_lightning.data.datamodules import ReplayDataModule


class ReplayStream:
    """One training batch: minibatches of `env_steps_per_batch` environment steps, an iteration after the other.

    Args:
        data: that gathers and samples.

    Attributes:
        device: where minibatches are moved to.
        prioritized: whether a minibatch's TD errors are wanted back, by `learned`.
    """

    def __init__(self, data: ReplayDataModule) -> None:
        self.data = data
        self.device = torch.device("cpu")
        self.prioritized = data.priority_alpha > 0
        self._yielded: Tensor | None = None

    def __iter__(self) -> Iterator[Transition]:
        """Minibatches [batch_size, ...] on the device; fewer where the run comes to its end."""
        data = self.data
        for _ in range(data.iterations_per_batch):
            if data.progress >= 1.0:
                return
            data.collect_fresh()
            beta = data.beta if self.prioritized else 1.0
            batch, index = data.buffer.sample(data.updates, data.batch_size, data.gamma, beta)
            fields = (_unbound(to_device(field, self.device)) for field in batch)
            for self._yielded, *minibatch in zip(index, *fields, strict=True):
                yield Transition(*minibatch)

    def learned(self, td_error: Tensor) -> None:
        """Give the transitions of the latest minibatch the priorities of their TD errors, [batch_size]."""
        assert self._yielded is not None, "no minibatch has been asked for"
        self.data.buffer.update_priorities(self._yielded, td_error)


class ReplayLoader:
    """An epoch of streams. It has a length, so Lightning never prefetches one.

    Args:
        data: whose buffer to sample, and how.
    """

    def __init__(self, data: ReplayDataModule) -> None:
        self.data, self.batches = data, data.batches_per_epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[ReplayStream]:
        """Streams of `env_steps_per_batch` environment steps."""
        for _ in range(self.batches):
            yield ReplayStream(self.data)


def _unbound(field: Any) -> Iterable[Any]:
    """A tensor's rows, or for a dict of tensors dicts of their rows."""
    if isinstance(field, dict):
        entries = zip(*(_unbound(part) for part in field.values()), strict=True)
        return (dict(zip(field, row, strict=True)) for row in entries)
    rows: tuple[Tensor, ...] = field.unbind()
    return rows
