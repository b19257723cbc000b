"""Replay memory: a plain preallocated ring."""

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rl_lightning.errors import UsageError
from rl_lightning.types import State, Transition


class ReplayBuffer:
    """The newest `buffer_size` transitions of `num_envs` environments that step together.

    Memory is taken once, as pages are first written: one row per time step, one column per environment.

    Args:
        buffer_size: transitions kept, over all environments; rounded down to whole rows.
        num_envs: columns.
        observation_space: gives the observations' shape and dtype; float64 is stored as float32, uint8 as it is.
        action_space: gives the actions' shape; stored as float32.
        seed: of the sampler's own generator.
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
        shape = (self.rows, num_envs)
        obs_dtype = torch_dtype(observation_space)
        self.storage = Transition(
            obs=torch.empty(*shape, *observation_space.shape, dtype=obs_dtype),
            action=torch.empty(*shape, *action_space.shape),
            reward=torch.empty(shape),
            next_obs=torch.empty(*shape, *observation_space.shape, dtype=obs_dtype),
            terminated=torch.empty(shape, dtype=torch.bool),
        )
        self.next_row = 0  # where the next time step is written
        self.filled_rows = 0
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self.filled_rows * self.num_envs

    @property
    def nbytes(self) -> int:
        """Bytes of the full ring."""
        return sum(field.nbytes for field in self.storage)

    def add(
        self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray, terminated: np.ndarray
    ) -> None:
        """Copy one time step of every environment in, over the oldest once full. Leading dimension [num_envs]."""
        row = Transition(obs, action, reward, next_obs, terminated)  # type: ignore[arg-type]
        for field, value in zip(self.storage, row, strict=True):
            field[self.next_row] = torch.from_numpy(value)
        self.next_row = (self.next_row + 1) % self.rows
        self.filled_rows = min(self.filled_rows + 1, self.rows)

    def sample(self, updates: int, batch_size: int) -> Transition:
        """Transitions drawn uniformly with replacement, [updates, batch_size, ...] copies."""
        index = torch.randint(len(self), (updates * batch_size,), generator=self.generator)
        return Transition(
            *(
                field.flatten(0, 1).index_select(0, index).unflatten(0, (updates, batch_size))
                for field in self.storage
            )
        )

    def state_dict(self) -> State:
        """Everything, oldest time step first, and the sampler's generator."""
        order = self._oldest_first()
        return {
            "storage": {name: field[order] for name, field in self.storage._asdict().items()},
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
                    f"the checkpoint's replay buffer holds {name} of shape {tuple(saved[name].shape[1:])} per time step, "
                    f"this run needs {tuple(field.shape[1:])}: resume with the num_envs and environment it was made with"
                )
            kept = saved[name][-self.rows :]
            field[: len(kept)] = kept
        self.filled_rows = min(len(saved["reward"]), self.rows)
        self.next_row = self.filled_rows % self.rows
        self.generator.set_state(state["generator"])

    def _oldest_first(self) -> Tensor:
        start = self.next_row if self.filled_rows == self.rows else 0
        return (torch.arange(self.filled_rows) + start) % self.rows


def torch_dtype(space: gym.spaces.Box) -> torch.dtype:
    """The dtype observations of `space` are stored in: float64 becomes float32, the rest keep theirs."""
    if space.dtype == np.float64:
        return torch.float32
    return torch.from_numpy(np.empty(0, dtype=space.dtype)).dtype
