"""Replay memory: a plain preallocated ring."""

import math
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rl_lightning.errors import UsageError
from rl_lightning.types import State, Transition


class Field(NamedTuple):
    """One field of a transition: shape and dtype of a single entry."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a single entry."""
        return math.prod(self.shape) * self.dtype.itemsize


SCALAR = Field((), torch.float32)


class ReplayBuffer:
    """The newest `buffer_size` transitions of `num_envs` environments that step together.

    One row per time step, one column per environment, and all fields of a transition side by side: sampling is then
    one gather, and touches as little memory that is not in the cache with a million transitions as it can. Memory is
    taken once, as pages are first written.

    Args:
        buffer_size: transitions kept, over all environments; rounded down to whole rows.
        num_envs: columns.
        observation_space: gives the observations' shape and dtype; float64 is stored as float32, uint8 as it is.
        action_space: gives the actions' shape; stored as float32.
        seed: of the sampler's own generator.

    Attributes:
        storage: each field of all transitions, [rows, num_envs, ...] views of the same memory.
    """

    def __init__(
        self,
        buffer_size: int,
        num_envs: int,
        observation_space: gym.spaces.Box,
        action_space: gym.spaces.Box,
        seed: int = 0,
    ) -> None:
        self.rows, self.num_envs = buffer_size // num_envs, num_envs
        obs = Field(observation_space.shape, torch_dtype(observation_space))
        # in the order of Transition
        self._fields = [obs, Field(action_space.shape, torch.float32), SCALAR, obs, Field((), torch.bool)]
        self._offsets, row_bytes = _layout(self._fields)
        # numpy asks for huge pages, which random reads of a large memory gain from; torch does not
        self._memory = torch.from_numpy(np.empty((self.rows, num_envs, row_bytes), dtype=np.uint8))
        self.storage = self._typed(self._memory)
        self.next_row = 0  # where the next time step is written
        self.filled_rows = 0
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self.filled_rows * self.num_envs

    @property
    def nbytes(self) -> int:
        """Bytes of the full ring."""
        return self._memory.nbytes

    def add(
        self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray, terminated: np.ndarray
    ) -> None:
        """Copy one time step of every environment in, over the oldest once full. Leading dimension [num_envs]."""
        for field, value in zip(self.storage, (obs, action, reward, next_obs, terminated), strict=True):
            field[self.next_row] = torch.from_numpy(value)
        self.next_row = (self.next_row + 1) % self.rows
        self.filled_rows = min(self.filled_rows + 1, self.rows)

    def sample(self, updates: int, batch_size: int) -> Transition:
        """Transitions drawn uniformly with replacement, [updates, batch_size, ...] copies."""
        index = torch.randint(len(self), (updates * batch_size,), generator=self.generator)
        rows = self._memory.flatten(0, 1).index_select(0, index)  # [updates * batch_size, row_bytes]
        return self._typed(rows.view(updates, batch_size, -1))

    def state_dict(self) -> State:
        """Everything, oldest time step first, and the sampler's generator."""
        start = self.next_row if self.filled_rows == self.rows else 0
        return {
            "storage": {
                name: torch.cat([field[start : self.filled_rows], field[:start]])
                for name, field in self.storage._asdict().items()
            },
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over a saved ring; where it held more rows than fit here, the newest.

        Raises:
            UsageError: where the saved ring has another number of environments, or other shapes.
        """
        saved: dict[str, Tensor] = state["storage"]
        for name, field in self.storage._asdict().items():
            if saved[name].shape[1:] != field.shape[1:]:
                raise UsageError(
                    f"the checkpoint's replay buffer holds {name} of shape {tuple(saved[name].shape[1:])} a time "
                    f"step, this run {tuple(field.shape[1:])}: resume with the num_envs and environment it had"
                )
            kept = saved[name][-self.rows :]
            field[: len(kept)] = kept
        self.filled_rows = min(len(saved["reward"]), self.rows)
        self.next_row = self.filled_rows % self.rows
        self.generator.set_state(state["generator"])

    def _typed(self, memory: Tensor) -> Transition:
        """The fields of packed transitions: [*, row_bytes] uint8 to views [*, ...] of it."""
        views = []
        for field, offset in zip(self._fields, self._offsets, strict=True):
            view = memory[..., offset : offset + field.nbytes].view(field.dtype)
            views.append(view.view(*memory.shape[:-1], *field.shape))
        return Transition(*views)


def _layout(fields: list[Field]) -> tuple[list[int], int]:
    """Each field's offset in a packed row, aligned to its dtype, and the row's bytes."""
    offsets: list[int] = []
    end = 0
    for field in fields:
        offsets.append(_align(end, field.dtype.itemsize))
        end = offsets[-1] + field.nbytes
    return offsets, _align(end, 8)


def _align(offset: int, itemsize: int) -> int:
    return -(-offset // itemsize) * itemsize


_TORCH_DTYPES = {
    name: torch.from_numpy(np.empty(0, dtype=name)).dtype
    for name in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32")
}
_TORCH_DTYPES["float64"] = torch.float32


def torch_dtype(space: gym.Space[Any]) -> torch.dtype:
    """The dtype observations of `space` are stored in: float64 becomes float32, the rest keep theirs."""
    return _TORCH_DTYPES[str(space.dtype)]
