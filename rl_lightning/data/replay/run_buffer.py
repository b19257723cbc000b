"""The replay buffer of a run, which grows with what the run has to hold."""

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from lightning.pytorch.utilities import rank_zero_info

from rl_lightning.data.processes import of_all_processes, of_this_process
from rl_lightning.data.replay.buffer import ReplayBuffer
from rl_lightning.data.replay.memory import (
    bytes_of_buffer,
    check_memory,
    readable,
    transitions_in,
    transitions_to_keep,
)
from rl_lightning.types import State

CPU = torch.device("cpu")


class RunBuffer:
    """A `ReplayBuffer` with room for what a run gathers beside what it began with, and no more.

    Args:
        buffer_size: transitions kept at most.
        num_envs: as of `ReplayBuffer`, like all that follow.
        observation_space: of one environment.
        action_space: of one environment.
        n_step: time steps that a sampled transition spans.
        frame_stack: frames of an observation.
        priority_alpha: exponent of the priorities.

    Attributes:
        made: the buffer, from `begin` on.
    """

    def __init__(
        self,
        buffer_size: int,
        num_envs: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        n_step: int = 1,
        frame_stack: int = 1,
        priority_alpha: float = 0.0,
    ) -> None:
        self.buffer_size, self.num_envs, self.spaces = buffer_size, num_envs, (observation_space, action_space)
        self.n_step, self.frame_stack, self.priority_alpha = n_step, frame_stack, priority_alpha
        self.made: ReplayBuffer | None = None
        self._most, self._device = 0, CPU
        self._file: str | None = None
        self._held = 0  # transitions that it held before the run gathered any

    def begin(self, most: int, device: torch.device = CPU, file: str | None = None, saved: State | None = None) -> None:
        """Have room for a run, which begins with what the last one has left, or with what another one saved.

        Args:
            most: transitions that the run can gather.
            device: where the buffer lives.
            file: for it to live in instead of memory; new where nothing is made yet.
            saved: the state of another run's buffer.

        Raises:
            UsageError: no memory for it, or a file that cannot be made.
        """
        self._most, self._device, self._file = most, device, file
        left = 0 if self.made is None else len(self.made)
        self._held = left if saved is None else transitions_in(saved)
        made = self._with_room()
        if saved is not None:
            made.load_state_dict(saved)
            made.end_episodes()  # nobody goes on with that run's

    def check_memory(self, most: int, device: torch.device = CPU) -> None:
        """Refuse a buffer larger than memory.

        Raises:
            UsageError: with the bytes that are needed and those that are available.
        """
        check_memory(self._bytes_to_come(most), self.buffer_size, device)

    def state_dict(self) -> State:
        """The buffer of every process, and how much it held at the start; empty before `begin`."""
        if self.made is None:
            return {}
        buffers = of_all_processes(self.made.state_dict())
        return {"buffer": buffers[0], "others": buffers[1:], "held": self._held}

    def load_state_dict(self, state: State) -> None:
        """Take over this process's buffer, with as much room as the run had that saved it."""
        saved = of_this_process([state["buffer"], *state.get("others", [])])
        held, in_all = state.get("held", 0), transitions_in(saved)
        # old checkpoints do not say how many a run began with
        self._held = held if in_all <= held + self._most else in_all
        self._with_room().load_state_dict(saved)

    def _transitions(self, most: int) -> int:
        """For how many there is to be room."""
        return transitions_to_keep(self.buffer_size, most, self.frame_stack, self._held)

    def _bytes_to_come(self, most: int) -> int:
        """Of the buffer when it is full."""
        transitions = self._transitions(most)
        return bytes_of_buffer(transitions, self.num_envs, *self.spaces, self.frame_stack, self.priority_alpha)

    def _with_room(self) -> ReplayBuffer:
        """The buffer, made larger where it is too small."""
        left, transitions = self.made, self._transitions(self._most)
        if left is not None and transitions // self.num_envs <= left.rows:
            return left
        if self._file is None:
            self.check_memory(self._most, self._device)
        place, needed = "a file" if self._file else "memory", readable(self._bytes_to_come(self._most))
        rank_zero_info(f"The replay buffer takes {needed} of {place} when it is full")
        # beside the file of what is left, which is read until all is copied
        file = f"{self._file}.new" if self._file and left is not None else self._file
        self.made = made = ReplayBuffer(
            transitions,
            self.num_envs,
            *self.spaces,
            torch.initial_seed(),
            self.n_step,
            self.frame_stack,
            self.priority_alpha,
            self._device,
            file,
        )
        if left is not None:
            made.load_state_dict(left.state_dict())
            for end in ("", ".frames") if file else ():
                if Path(f"{file}{end}").exists():
                    os.replace(f"{file}{end}", f"{self._file}{end}")
        return made
