"""Training batches of replay: minibatches that are drawn as they are asked for."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from rl_lightning.data.replay.buffer import ReplayBuffer
from rl_lightning.schedules import Clock
from rl_lightning.types import Rollout, State, Transition, to_device


class Source(Protocol):
    """What a stream draws from: `ReplayDataModule`."""

    clock: Clock
    iterations_per_batch: int
    priority_alpha: float

    @property
    def buffer(self) -> ReplayBuffer:
        """Whose priorities follow learning."""

    @property
    def batches_per_epoch(self) -> int:
        """Training batches in an epoch."""

    def draw(self, gamma: float) -> tuple[Transition, Tensor]:
        """Gather the steps of one iteration, then sample its minibatches, [updates, batch_size, ...]."""

    def unobserved(self) -> Iterator[Rollout]:
        """The time steps that have entered replay since it was last asked, [T, num_envs, ...]."""

    def end_iteration(self) -> None:
        """Its minibatches have been learned from."""


class ReplayStream:
    """One training batch: minibatches of `env_steps_per_batch` environment steps, an iteration after the other.

    Args:
        source: that gathers and samples.

    Attributes:
        device: where minibatches are moved to.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.device = torch.device("cpu")
        self._index: Tensor | None = None  # of the latest minibatch

    def minibatches(
        self, gamma: float, observe: Callable[[Iterator[Rollout]], None] | None = None
    ) -> Iterator[Transition]:
        """Minibatches [batch_size, ...] on the device; fewer where the run comes to its end.

        Args:
            gamma: the learner's discount γ.
            observe: what takes in the time steps that are new in replay, before the first minibatch of each iteration.
        """
        for _ in range(self.source.iterations_per_batch):
            if self.source.clock.progress >= 1.0:
                return
            batch, index = self.source.draw(gamma)
            if observe is not None:
                observe(self.source.unobserved())
            for number, minibatch in zip(index, minibatches_of(batch, self.device), strict=True):
                self._index = number
                yield minibatch
            self.source.end_iteration()

    def prioritize(self, td_error: Tensor | None) -> None:
        """Give the transitions of the latest minibatch the priorities of their TD errors, if replay has priorities.

        Args:
            td_error: any sign, [batch_size].
        """
        if self.source.priority_alpha > 0:
            assert self._index is not None, "no minibatch has been asked for"
            assert td_error is not None, "prioritized replay needs the learner's TD errors"
            self.source.buffer.update_priorities(self._index, td_error)


class ReplayLoader:
    """An epoch of streams. It has a length, so Lightning never prefetches one.

    Args:
        source: whose buffer to sample, and how.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.batches = source, source.batches_per_epoch

    def state_dict(self) -> State:
        """Nothing: batches are gathered as they are learned from, so an epoch goes on wherever it was."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to restore."""

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[ReplayStream]:
        """Streams of `env_steps_per_batch` environment steps."""
        for _ in range(self.batches):
            yield ReplayStream(self.source)


def minibatches_of(batch: Transition, device: torch.device) -> Iterator[Transition]:
    """Minibatches [updates, batch_size, ...] one by one, on a device that they are moved to together."""
    fields = (_unbound(to_device(field, device)) for field in batch)
    return (Transition(*minibatch) for minibatch in zip(*fields, strict=True))


def _unbound(field: Any) -> Iterable[Any]:
    """A tensor's rows, or for a dict of tensors dicts of their rows."""
    if isinstance(field, dict):
        entries = zip(*(_unbound(part) for part in field.values()), strict=True)
        return (dict(zip(field, row, strict=True)) for row in entries)
    rows: tuple[Tensor, ...] = field.unbind()
    return rows
