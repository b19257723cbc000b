"""Replay memory: a plain preallocated ring."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_lightning.data.replay.frames import FrameMemory
from rl_lightning.data.replay.layout import Field, Layout, Stored, action_field, allocate, observation_fields
from rl_lightning.data.replay.priorities import Priorities
from rl_lightning.data.replay.saved import check_described, described, newest, prefix, put, upgraded
from rl_lightning.errors import require
from rl_lightning.types import Rollout, State, Transition, map_obs, to_device

AT_ONCE = 1_024  # time steps of a rollout that is read back


class ReplayBuffer:
    """The newest `buffer_size` transitions of `num_envs` environments that step together.

    One row per time step, one column per environment, and all fields of a transition side by side: sampling is then
    one gather, and touches as little memory that is not in the cache with a million transitions as it can. Memory is
    taken as it is first written.

    Args:
        buffer_size: transitions kept, over all environments; rounded down to whole rows.
        num_envs: columns.
        observation_space: gives the observations' shapes and dtypes; float64 is stored as float32, the rest as it is.
        action_space: gives the actions' shape and dtype; those of a Box are stored as float32.
        seed: of the sampler's own generator.
        n_step: time steps that a sampled transition spans, fewer where an episode or the memory ends.
        frame_stack: more than 1 where observations are stacks of so many frames, each the one before shifted by one,
            and an episode's first is one frame repeated (`gymnasium.wrappers.FrameStackObservation`): each frame is
            then kept once.
        priority_alpha: exponent of the priorities that transitions are drawn by; 0 draws uniformly.
        device: where the memory lives and samples come out.
        file: a new file for the memory to live in; that of frames is beside it, with ``.frames`` at its end.

    Attributes:
        storage: each field of all transitions, [rows, num_envs, ...] views of the same memory.
        steps: time steps ever added; the newest `filled_rows` of them can be sampled.

    Raises:
        UsageError: spaces that cannot be stored, or a file that exists or cannot be made.
    """

    def __init__(
        self,
        buffer_size: int,
        num_envs: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        seed: int = 0,
        n_step: int = 1,
        frame_stack: int = 1,
        priority_alpha: float = 0.0,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (it never changes)
        file: str | None = None,
    ) -> None:
        require(file is None or device.type == "cpu", "buffer_file", file, "a file cannot be memory of a device")
        self.rows, self.num_envs = buffer_size // num_envs, num_envs
        self.n_step, self.device = n_step, device
        obs: Any = observation_fields(observation_space)
        self._frames = None
        if frame_stack > 1:
            frames_file = None if file is None else f"{file}.frames"
            self._frames = FrameMemory(self.rows, num_envs, obs, frame_stack, device, frames_file)
            obs = {}
        self._layout = transition_layout(obs, action_space)
        memory = allocate((self.rows, num_envs, self._layout.row_bytes), device, file)
        self.storage = Stored(**self._layout.views(memory))
        self._memory = memory.flatten(0, 1)  # [slots, row_bytes], slot = row × num_envs + environment
        self._staged, views = self._layout.staging(num_envs)
        self._staged_views = Stored(**views)
        self._priorities = Priorities(len(self._memory), priority_alpha) if priority_alpha > 0 else None
        self.steps = self.filled_rows = 0
        self._ahead = torch.arange(n_step, device=device)[:, None, None]  # [n, 1, 1]
        self._ended = np.ones(num_envs, dtype=bool)  # whether the next row begins an episode
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self.filled_rows * self.num_envs

    @property
    def nbytes(self) -> int:
        """Bytes of the full ring."""
        return self._memory.nbytes + (self._frames.nbytes if self._frames else 0)

    @property
    def next_row(self) -> int:
        """Where the next time step is written."""
        return self.steps % self.rows

    def add(
        self,
        obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        next_obs: Any,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        dropped: NDArray[np.bool_] | None = None,
    ) -> None:
        """Copy one time step of every environment in, over the oldest once full.

        Args:
            obs: [num_envs, *obs_shape], or a dict of them.
            action: [num_envs, *action_shape].
            reward: [num_envs].
            next_obs: as `obs`; at an episode's end its last observation.
            terminated: [num_envs]; true termination.
            truncated: [num_envs]; cut off, by a time limit for example.
            dropped: [num_envs]; where an episode was lost since the time step before, and this one begins another.
        """
        if dropped is not None:
            self.end_episodes(dropped)
        row, staged = self.next_row, self._staged_views
        if self._frames:
            self._frames.add(row, obs, next_obs, self._ended)
        else:
            map_obs(_assign, staged.obs, obs)
            map_obs(_assign, staged.next_obs, next_obs)
        staged.action[...], staged.reward[...] = action, reward
        staged.terminated[...], staged.truncated[...] = terminated, truncated
        np.logical_or(terminated, truncated, out=self._ended)
        first = row * self.num_envs
        self._memory[first : first + self.num_envs].copy_(to_device(self._staged, self.device))
        self.steps += 1
        self.filled_rows = min(self.filled_rows + 1, self.rows)
        if self._priorities:
            self._priorities.fill(np.arange(first, first + self.num_envs))
        self._drop_incomplete()

    def end_episodes(self, which: NDArray[np.bool_] | None = None) -> None:
        """Let the next time step begin new episodes, as it does after a reset that no step tells of.

        Args:
            which: of the environments, [num_envs]; None for all.
        """
        which = np.ones(self.num_envs, dtype=bool) if which is None else which
        if self.filled_rows:
            newest = (self.steps - 1) % self.rows
            self.storage.truncated[newest] |= torch.from_numpy(which).to(self.device) & ~self.storage.terminated[newest]
        self._ended |= which

    def sample(self, updates: int, batch_size: int, gamma: float, beta: float = 1.0) -> tuple[Transition, Tensor]:
        """Draw transitions with replacement.

        Args:
            updates: minibatches.
            batch_size: transitions in each.
            gamma: the discount γ.
            beta: exponent of the weights, where there are priorities.

        Returns:
            Copies [updates, batch_size, ...] on the device, and for `update_priorities` the number of each transition
            among all ever added, int64 on the CPU.
        """
        index = self._draw(updates * batch_size).view(updates, batch_size)
        first = self._transitions(index)
        if self.n_step == 1:
            last, last_index, reward = first, index, first.reward
            discount = torch.full(index.shape, gamma, device=self.device)
        else:
            reward, discount, last_index = self._returns(index, gamma)
            last = self._transitions(last_index)
        obs, next_obs = first.obs, last.next_obs
        if self._frames:
            obs = self._frames.stacks(self._slot(index))
            next_obs = self._frames.stacks(self._slot(last_index).cpu(), ahead=1)
        weight = self._weight(index, beta)
        return Transition(obs, first.action, reward, next_obs, last.terminated, discount, weight), index

    def rollouts(self, first: int) -> Iterator[Rollout]:
        """The time steps from `first` on that can be sampled, the oldest first.

        Args:
            first: its number among all ever added.

        Returns:
            Copies [T, num_envs, ...] on the device, of up to 1,024 time steps each.
        """
        for start in range(max(first, self.steps - self.filled_rows), self.steps, AT_ONCE):
            rows = torch.arange(start, min(start + AT_ONCE, self.steps))
            index = rows[:, None] * self.num_envs + torch.arange(self.num_envs)  # [T, num_envs]
            found = self._transitions(index)
            if self._frames:
                slots = self._slot(index)
                found = found._replace(obs=self._frames.stacks(slots), next_obs=self._frames.stacks(slots, ahead=1))
            yield Rollout(*found)

    def update_priorities(self, index: Tensor, td_error: Tensor) -> None:
        """Let how badly transitions were predicted say how often they are drawn.

        Args:
            index: their numbers, as `sample` gave them, [B]; those that have been overwritten are ignored.
            td_error: any sign, [B].

        Raises:
            UsageError: TD errors that are not finite.
        """
        assert self._priorities is not None, "priority_alpha is 0"
        assert index.shape == td_error.shape, (index.shape, td_error.shape)
        kept = (index >= self._oldest).numpy()
        slots: NDArray[np.int64] = index.numpy()[kept] % len(self._memory)
        self._priorities.update(slots, td_error.detach().cpu().double().numpy()[kept])

    def state_dict(self) -> State:
        """The ring as it lies in memory, and all that what comes next depends on.

        On the CPU it is this very memory, so it changes with the next time step: save it, or copy it.
        """
        written = min(self.steps, self.rows)
        state: State = {
            "memory": prefix(self._memory, written * self.num_envs),  # [written × num_envs, row_bytes]
            "fields": described(self.storage._asdict(), skip=1),
            "rows": self.rows,
            "steps": self.steps,
            "filled_rows": self.filled_rows,
            "ended": torch.from_numpy(self._ended.copy()),
            "generator": self.generator.get_state(),
        }
        if self._frames:
            state["frames"] = self._frames.state_dict(written)
        if self._priorities:
            state["priorities"] = self._priorities.state_dict(written * self.num_envs)
        return state

    def load_state_dict(self, state: State) -> None:
        """Take over a saved ring; one of the same size goes on to the bit, in the middle of episodes too.

        Of one of another size the newest rows that fit are kept. Episodes under way are not ended: where the
        environments begin anew, call `end_episodes`. Without saved priorities, all transitions get the maximum.

        Raises:
            UsageError: where the saved ring has another number of environments, or other shapes.
        """
        if "storage" in state:
            state = upgraded(state)
        check_described(state["fields"], described(self.storage._asdict(), skip=1))
        self.steps, filled, rows = state["steps"], state["filled_rows"], state["rows"]
        self.filled_rows = keep = min(filled, self.rows)
        if rows == self.rows:  # with rows that cannot be sampled any more: sums are taken over their priorities too
            keep = min(self.steps, rows)
        here, there = newest(self.steps, self.rows, keep), newest(self.steps, rows, keep)
        mine, saved = (memory.view(-1, self.num_envs, memory.shape[-1]) for memory in (self._memory, state["memory"]))
        put(mine, here, saved, there)
        self._ended[:] = state["ended"].numpy()
        if self._frames:
            self._frames.load_state_dict(state["frames"], here, there)
        if self._priorities:
            sampled = slice(keep - self.filled_rows, None)  # the rest of the rows have no priority
            places = self._slots_of(here[sampled]), self._slots_of(there[sampled])
            self._priorities.load_state_dict(state.get("priorities"), *places)
        self._drop_incomplete()
        self.generator.set_state(state["generator"])

    @property
    def _oldest(self) -> int:
        """The number of the first transition that can be sampled."""
        return (self.steps - self.filled_rows) * self.num_envs

    def _slot(self, index: Tensor) -> Tensor:
        """Where transitions are, or were, from their numbers."""
        return index % len(self._memory)

    def _slots_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slots of whole rows, [len(rows) × num_envs]."""
        return (rows[:, None] * self.num_envs + np.arange(self.num_envs)).flatten()

    def _drop_incomplete(self) -> None:
        """Stop sampling the oldest rows whose frames have been overwritten."""
        while self._frames and self.filled_rows:
            row = (self.steps - self.filled_rows) % self.rows
            if self._frames.complete(row):
                return
            self.filled_rows -= 1
            if self._priorities:
                self._priorities.empty(self._slots_of(np.array([row])))

    def _draw(self, draws: int) -> Tensor:
        """Numbers of transitions, [draws]."""
        if self._priorities is None:
            return torch.randint(len(self), (draws,), generator=self.generator) + self._oldest
        newest = self.steps * self.num_envs - 1
        slots = self._priorities.sample(draws, self.generator)
        return torch.from_numpy(newest - (newest - slots) % len(self._memory))

    def _weight(self, index: Tensor, beta: float) -> Tensor:
        if self._priorities is None:
            return torch.ones(index.shape, device=self.device)
        weight: Tensor = to_device(self._priorities.weights(self._slot(index).numpy(), beta), self.device)
        return weight

    def _transitions(self, index: Tensor) -> Stored:
        """Copies of single steps, in one gather: [*] on any device to [*, ...] on the buffer's."""
        rows = self._memory.index_select(0, to_device(self._slot(index).flatten(), self.device))
        return Stored(**self._layout.views(rows.view(*index.shape, -1)))

    def _returns(self, index: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over up to n steps from the given ones, as far as an episode goes and the memory is written.

        Args:
            index: transitions to start from, [*].
            gamma: the discount γ.

        Returns:
            Σ_{i<k} γ^i r_{t+i} and γ^k, both [*] float32, and the transitions at t+k-1, [*] int64; on the device, or
            sampling would wait for it.
        """
        index = to_device(index, self.device)
        following = index + self._ahead * self.num_envs  # [n, *]
        slots = self._slot(following).flatten()
        reward, terminated, truncated = (
            field.flatten(0, 1).index_select(0, slots).view(following.shape)
            for field in (self.storage.reward, self.storage.terminated, self.storage.truncated)
        )
        counts = following < self.steps * self.num_envs
        counts[1:] &= (terminated | truncated)[:-1].cumsum(0) == 0
        k = counts.sum(0)
        # what does not count may never have been written, and be NaN
        total = (gamma**self._ahead * reward.where(counts, 0.0)).sum(0)
        return total, gamma**k, index + (k - 1) * self.num_envs


def transition_layout(obs: Any, action_space: gym.Space[Any]) -> Layout:
    """Of a transition with these `Field`s of observations."""
    flag = Field((), torch.bool)
    return Layout(Stored(obs, action_field(action_space), Field((), torch.float32), obs, flag, flag)._asdict())


def _assign(view: NDArray[Any], value: NDArray[Any]) -> None:
    view[...] = value
