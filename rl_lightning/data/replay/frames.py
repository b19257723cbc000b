"""Stacks of frames, each frame kept once."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.data.replay.layout import Field, Layout, allocate
from rl_lightning.data.replay.saved import check_described, described, newest, prefix, put
from rl_lightning.types import State, map_obs, to_device


class FrameMemory:
    """The observations of the newest `rows` time steps, where each is the one before shifted by a new frame.

    A ring of frames for each environment. An episode of T steps has T + 1 frames: that of its reset, and one of each
    step's next observation. Frames are numbered in the order in which they come, so the next observation's newest is
    the one after the observation's. Since short episodes need more frames than steps, the rings have some slack; where
    that does not do, the oldest time steps lose their frames: see `complete`.

    Args:
        rows: time steps.
        num_envs: environments.
        fields: `Field`s of the stacked observations, the leading dimension that of the stack.
        frame_stack: frames in an observation.
        device: where frames live.
        file: of the frames, instead of memory.
    """

    def __init__(
        self, rows: int, num_envs: int, fields: Any, frame_stack: int, device: torch.device, file: str | None
    ) -> None:
        self.rows, self.num_envs, self.frame_stack, self.device = rows, num_envs, frame_stack, device
        self.capacity = _capacity(rows, frame_stack)
        self._layout = _layout(fields)
        self._memory = allocate((num_envs, self.capacity, self._layout.row_bytes), device, file)
        self._flat = self._memory.flatten(0, 1)
        self._staged, self._staged_views = self._layout.staging(num_envs)
        self._written = np.zeros(num_envs, dtype=np.int64)  # frames so far
        # of each time step's observation, for every environment
        self._newest = np.zeros((rows, num_envs), dtype=np.int64)  # number of its newest frame
        self._age = np.zeros((rows, num_envs), dtype=np.int16)  # frames of its episode before that, as far as stacked
        self._envs = np.arange(num_envs)

    @property
    def nbytes(self) -> int:
        """Bytes of the full rings."""
        return self._memory.nbytes + self._newest.nbytes + self._age.nbytes

    def add(self, row: int, obs: Any, next_obs: Any, begins: NDArray[np.bool_]) -> None:
        """Keep one time step's new frames.

        Args:
            row: of the time step.
            obs: stacks [num_envs, frame_stack, ...].
            next_obs: stacks [num_envs, frame_stack, ...].
            begins: [num_envs]; where `obs` is the first of an episode.
        """
        if begins.any():
            self._write(obs, self._envs[begins])
        self._newest[row] = self._written - 1
        age = np.minimum(self._age[row - 1] + 1, self.frame_stack - 1)
        self._age[row] = np.where(begins, 0, age)
        self._write(next_obs, self._envs)

    def _write(self, obs: Any, envs: NDArray[np.int64]) -> None:
        def stage(view: NDArray[Any], stacks: NDArray[Any]) -> None:
            view[: len(envs)] = stacks[envs, -1]

        map_obs(stage, self._staged_views["obs"], obs)
        slots = torch.from_numpy(envs * self.capacity + self._written[envs] % self.capacity)
        staged = self._staged[: len(envs)]
        self._flat.index_copy_(0, to_device(slots, self.device), to_device(staged, self.device))
        self._written[envs] += 1

    def complete(self, row: int) -> bool:
        """Whether all frames of a time step's stacks are still there, in every environment."""
        return bool((self._newest[row] - self._age[row] >= self._written - self.capacity).all())

    def stacks(self, slots: Tensor, ahead: int = 0) -> Any:
        """Observations [*, frame_stack, ...] of transitions.

        Args:
            slots: [*] int64, row × num_envs + environment, on the CPU.
            ahead: 0 for their observations, 1 for their next ones.
        """
        at = slots.numpy()
        back = np.arange(self.frame_stack - 1, -1, -1)
        age = self._age.reshape(-1)[at][..., None] + ahead
        number = self._newest.reshape(-1)[at][..., None] + ahead - np.minimum(back, age)  # [*, frame_stack]
        place = (at % self.num_envs)[..., None] * self.capacity + number % self.capacity
        frames = self._flat.index_select(0, to_device(torch.from_numpy(place).flatten(), self.device))
        return self._layout.views(frames.view(*place.shape, -1))["obs"]

    def state_dict(self, rows: int) -> State:
        """The rings of frames as they lie in memory, and what the first `rows` rows have of them."""
        used = np.minimum(self._written, self.capacity)
        return {
            "memory": [prefix(ring, held) for ring, held in zip(self._memory, used, strict=True)],
            "fields": described(self._frames, skip=2, name="frames"),
            "capacity": self.capacity,
            "written": torch.from_numpy(self._written.copy()),
            "newest": torch.from_numpy(self._newest[:rows]),
            "age": torch.from_numpy(self._age[:rows]),
        }

    def load_state_dict(self, state: State, here: NDArray[np.int64], there: NDArray[np.int64]) -> None:
        """Take over saved frames, the newest where not all fit, and what these of the saved rows have of them.

        Args:
            state: of `state_dict`.
            here: rows to be taken.
            there: the same time steps in the saved ring.

        Raises:
            UsageError: where the saved frames have other shapes.
        """
        check_described(state["fields"], described(self._frames, skip=2, name="frames"))
        put(self._newest, here, state["newest"].numpy(), there)
        put(self._age, here, state["age"].numpy(), there)
        self._written[:] = state["written"].numpy()
        capacity = state["capacity"]
        for ring, saved, written in zip(self._memory, state["memory"], self._written.tolist(), strict=True):
            keep = min(written, capacity, self.capacity)
            put(ring, newest(written, self.capacity, keep), saved, newest(written, capacity, keep))

    @property
    def _frames(self) -> Any:
        return self._layout.views(self._memory)["obs"]  # [num_envs, capacity, ...]


def bytes_of_frames(rows: int, num_envs: int, fields: Any, frame_stack: int) -> int:
    """Bytes that a full `FrameMemory` takes, without making one."""
    book_keeping = np.dtype(np.int64).itemsize + np.dtype(np.int16).itemsize
    total: int = num_envs * (_capacity(rows, frame_stack) * _layout(fields).row_bytes + rows * book_keeping)
    return total


def _capacity(rows: int, frame_stack: int) -> int:
    return rows + rows // 20 + frame_stack + 1


def _layout(fields: Any) -> Layout:
    """Of one frame of stacks with these `Field`s."""
    return Layout(map_obs(lambda field: Field(field.shape[1:], field.dtype), {"obs": fields}))
