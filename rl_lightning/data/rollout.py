"""Learning from rollouts: whatever the present policy has just done, used once and forgotten."""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.environments.make import Vectorization
from rl_lightning.environments.wrappers import EnvWrapper
from rl_lightning.errors import require
from rl_lightning.spaces import to_tensor
from rl_lightning.types import Obs, Rollout, State, Step, Transition, map_obs, to_device

EPISODE_BATCH = 1_000  # environment steps of a training batch of whole episodes, unless told otherwise


class RolloutDataModule(EnvironmentDataModule):
    """Rollouts of the present policy, each gathered at the moment it is asked for.

    One training batch is a stream of rollouts: the learner takes one, learns from it, and takes the next.

    Args:
        env_id: a registered Gymnasium environment; ``module:Id`` imports `module` first.
        env_kwargs: arguments of the environment itself, e.g. ``{g: 15}``.
        num_envs: training environments, in each process.
        vectorization: ``sync`` steps them one after the other, ``async`` each in a process of its own; ``auto`` takes
            Gymnasium's own vectorized environment where that is faster, else ``sync``; ``envpool`` takes those of
            EnvPool, which threads of C++ step.
        total_env_steps: length of the run, in environment steps of all environments together.
        env_steps_per_epoch: environment steps from one evaluation and checkpoint to the next; by default a twentieth
            of the run.
        rollout_steps: steps of every environment in one rollout; None gives one whole episode instead, of one
            environment.
        env_steps_per_batch: environment steps of a training batch, the unit of `log_every_n_steps`, in which rollouts
            follow each other without Lightning's loop in between; by default one rollout, or 1000 of whole episodes.
        eval_episodes: episodes of each evaluation during training.
        test_episodes: episodes of `test`, the evaluation that ends a run.
        env_timeout: seconds that an environment may take for a reset or a step, of training and evaluation, before it
            counts as hanging; None waits for ever. It needs ``vectorization: async``, since nothing can stop an
            environment in the run's own process; evaluation then has processes of its own too.
        max_env_restarts: how often, in each process, an environment that died, hung or broke its contract is replaced
            by a new one: its unfinished episode ends as truncated with the last step that was stored, and counts in
            no return.
        eval_max_episode_steps: steps after which an evaluation episode is cut off, with its return so far; None cuts
            off none in an environment with a time limit of its own, and after 10,000 steps in others, with a warning.
        eval_num_envs: evaluation episodes played at once; None plays up to 10.
        wrappers: put around every environment, of training, evaluation and recording alike, the first of them
            innermost; each is called with an environment. See docs/environments.md.

    Attributes:
        observation_space: of one environment.
        action_space: of one environment, bounded dimensions in [-1, 1].

    Raises:
        UsageError: an environment or a value that cannot work, before anything is created.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: dict[str, Any] | None = None,
        num_envs: int = 1,
        vectorization: Vectorization = "auto",
        total_env_steps: int = 100_000,
        env_steps_per_epoch: int | None = None,
        rollout_steps: int | None = 128,
        env_steps_per_batch: int | None = None,
        eval_episodes: int = 10,
        test_episodes: int = 100,
        env_timeout: float | None = None,
        max_env_restarts: int = 0,
        eval_max_episode_steps: int | None = None,
        eval_num_envs: int | None = None,
        wrappers: list[EnvWrapper] | None = None,
    ) -> None:
        require(num_envs >= 1, "num_envs", num_envs, "give 1 or more")
        if rollout_steps is None:
            require(num_envs == 1, "num_envs", num_envs, "whole episodes come one after the other; give 1")
            rollout_env_steps, default = 1, max(1, min(EPISODE_BATCH, total_env_steps))
        else:
            require(rollout_steps >= 1, "rollout_steps", rollout_steps, "give 1 or more, or null for whole episodes")
            rollout_env_steps = default = rollout_steps * num_envs
        if env_steps_per_batch is None:
            env_steps_per_batch = default
        require(
            env_steps_per_batch >= 1 and env_steps_per_batch % rollout_env_steps == 0,
            "env_steps_per_batch",
            env_steps_per_batch,
            f"give a multiple of rollout_steps x num_envs = {rollout_env_steps}",
        )
        super().__init__(
            env_id,
            env_kwargs,
            num_envs,
            vectorization,
            total_env_steps,
            env_steps_per_epoch,
            eval_episodes,
            test_episodes,
            env_steps_per_batch,
            env_timeout,
            max_env_restarts,
            eval_max_episode_steps,
            eval_num_envs,
            wrappers,
        )
        self.rollout_steps = rollout_steps

    def rollout(self) -> Rollout:
        """Gather one rollout: [T, num_envs, ...], on the CPU."""
        return self.rollout_of(self.collector.collect(self.rollout_steps))

    def rollout_of(self, steps: list[Step]) -> Rollout:
        """Steps of every environment as one rollout [T, num_envs, ...]."""
        obs, action, reward, next_obs, terminated, truncated, _ = (list(field) for field in zip(*steps, strict=True))
        return Rollout(
            obs=to_tensor(map_obs(_stacked, *obs), self.observation_space),
            action=torch.from_numpy(np.stack(action)),
            reward=torch.from_numpy(np.stack(reward)).float(),
            next_obs=to_tensor(map_obs(_stacked, *next_obs), self.observation_space),
            terminated=torch.from_numpy(np.stack(terminated)),
            truncated=torch.from_numpy(np.stack(truncated)),
        )

    def replayed(self, gamma: float, device: torch.device) -> Iterator[Transition]:
        """Minibatches of replay to learn from beside the latest rollout: none, as rollouts are forgotten."""
        return iter(())

    def replayed_observations(self, time_steps: int) -> Obs:
        """Observations of replay, which is not kept here.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a RolloutDataModule keeps no replay: RolloutReplayDataModule does")

    def train_dataloader(self) -> "RolloutLoader":
        """One epoch of streams of rollouts."""
        return RolloutLoader(self)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Have a stream's rollouts moved as they come; seeds of episodes stay."""
        if isinstance(batch, RolloutStream):
            batch.device = device
        return batch


class RolloutStream:
    """One training batch: rollouts, each gathered when asked for, until they have taken `env_steps`.

    Args:
        data: that gathers them.
        env_steps: of this process; whole episodes may take more.

    Attributes:
        device: where rollouts are moved to.
        taken: environment steps so far.
        has_begun: whether it has been asked for rollouts.
    """

    def __init__(self, data: RolloutDataModule, env_steps: int) -> None:
        self.data, self.env_steps = data, env_steps
        self.device = torch.device("cpu")
        self.taken, self.has_begun = 0, False

    def __iter__(self) -> Iterator[Rollout]:
        """Rollouts [T, num_envs, ...] on the device."""
        self.has_begun = True
        while self.taken < self.env_steps:
            rollout = self.data.rollout()
            self.taken += rollout.reward.numel()
            yield Rollout(*(to_device(field, self.device) for field in rollout))

    def replayed(self, gamma: float) -> Iterator[Transition]:
        """Minibatches of replay [batch_size, ...] beside the latest rollout, on the device, where replay is kept.

        Args:
            gamma: the learner's discount γ.
        """
        return self.data.replayed(gamma, self.device)

    def replayed_observations(self, time_steps: int) -> Obs:
        """Observations of replay [time_steps, *obs_shape], drawn uniformly, on the device."""
        obs: Obs = to_device(self.data.replayed_observations(time_steps), self.device)
        return obs


class RolloutLoader:
    """An epoch of streams. It has a length, so Lightning never prefetches one.

    Args:
        data: that gathers the rollouts.
    """

    def __init__(self, data: RolloutDataModule) -> None:
        self.data, self.batches = data, data.batches_per_epoch
        self._restored = (0, 0)
        self._given, self._excess = 0, 0  # streams of this epoch, and what the latest takes less
        self._stream: RolloutStream | None = None

    def state_dict(self) -> State:
        """Where in the epoch it is, and what the stream to come takes less."""
        stream = self._stream
        if stream is None or not stream.has_begun:
            return {"given": max(0, self._given - 1), "excess": self._excess}
        if self._given == self.batches:
            return {"given": 0, "excess": 0}
        return {"given": self._given, "excess": stream.taken - stream.env_steps}

    def load_state_dict(self, state: State) -> None:
        """Let the next iterator go on from there."""
        self._restored = state["given"], state["excess"]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[RolloutStream]:
        """Streams of `env_steps_per_batch` environment steps; what an episode takes more, the next takes less."""
        (self._given, self._excess), self._restored = self._restored, (0, 0)
        while self._given < self.batches:
            self._given += 1
            self._stream = RolloutStream(self.data, self.data.env_steps_per_batch - self._excess)
            yield self._stream
            self._excess = self._stream.taken - self._stream.env_steps


Samples = TypeVar("Samples", bound=tuple[Any, ...])


def shuffled(samples: Samples, n_epochs: int, batch_size: int | None) -> Iterator[Samples]:
    """Minibatches of time steps, `n_epochs` times all of them, each time in a new order.

    Args:
        samples: a NamedTuple of tensors [B, ...], or dicts of them.
        n_epochs: passes.
        batch_size: time steps in a minibatch; None takes all. The last one of a pass may be smaller.
    """
    tensor = next(field for field in samples if isinstance(field, Tensor))
    size, device = len(tensor), tensor.device
    for _ in range(n_epochs):
        for index in torch.split(torch.randperm(size, device=device), batch_size or size):
            yield type(samples)(*(map_obs(lambda x, index=index: x[index], field) for field in samples))


def check_minibatches(data: object, batch_size: int | None, learner: str) -> None:
    """Refuse whole episodes, and rollouts that minibatches do not divide.

    Args:
        data: a `RolloutDataModule`.
        batch_size: time steps in a minibatch; None takes all.
        learner: for the message.

    Raises:
        UsageError: naming the setting.
    """
    assert isinstance(data, RolloutDataModule)
    needed = f"minibatches of {learner} need rollouts of one size; give 1 or more"
    require(data.rollout_steps is not None, "rollout_steps", data.rollout_steps, needed)
    size = (data.rollout_steps or 0) * data.num_envs
    advice = f"minibatches must divide a rollout of rollout_steps x num_envs = {size}; give a divisor of it"
    require(batch_size is None or size % batch_size == 0, "batch_size", batch_size, advice)


def _stacked(*steps: Any) -> Any:
    return np.stack(steps)
