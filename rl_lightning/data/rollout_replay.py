"""Rollouts of the present policy, and a replay buffer that keeps them: for an off-policy critic next to a rollout."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from rl_lightning.data.replay.buffer import ReplayBuffer
from rl_lightning.data.replay.run_buffer import RunBuffer
from rl_lightning.data.replay.stream import minibatches_of
from rl_lightning.data.rollout import RolloutDataModule
from rl_lightning.environments.collector import Collector
from rl_lightning.environments.make import Vectorization
from rl_lightning.environments.wrappers import EnvWrapper
from rl_lightning.errors import check_overrides, require
from rl_lightning.types import Obs, Rollout, State, Transition, map_obs

AT_ONCE = 32  # minibatches that are sampled together: one gather for many is faster, all of a rollout take memory


class RolloutReplayDataModule(RolloutDataModule):
    """Rollouts as of `RolloutDataModule`; their steps also enter a replay buffer, which gives minibatches beside each.

    Args:
        env_id: a registered Gymnasium environment; ``module:Id`` imports `module` first.
        env_kwargs: arguments of the environment itself, e.g. ``{g: 15}``.
        num_envs: training environments, in each process.
        vectorization: ``sync``, ``async``, ``auto`` or ``envpool``, as of `RolloutDataModule`.
        total_env_steps: length of the run, in environment steps of all environments together.
        env_steps_per_epoch: environment steps from one evaluation and checkpoint to the next; by default a twentieth
            of the run.
        rollout_steps: steps of every environment in one rollout.
        env_steps_per_batch: environment steps of a training batch; by default one rollout.
        eval_episodes: episodes of each evaluation during training.
        test_episodes: episodes of `test`, the evaluation that ends a run.
        env_timeout: seconds that a reset or a step may take, as of `RolloutDataModule`.
        max_env_restarts: environments that may be replaced after a fault, as of `RolloutDataModule`.
        eval_max_episode_steps: steps after which an evaluation episode is cut off, as of `RolloutDataModule`.
        eval_num_envs: evaluation episodes played at once, as of `RolloutDataModule`.
        replay_ratio: minibatches for each environment step of a rollout; a whole number of them in all.
        replay_batch_size: transitions in a minibatch of replay.
        buffer_size: transitions kept, the newest; memory is taken for no more than the run gathers.
        save_buffer: keep the buffer's contents in checkpoints; without them a resumed run has to fill it anew.
        wrappers: put around every environment, as of `RolloutDataModule`.

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
        rollout_steps: int = 128,
        env_steps_per_batch: int | None = None,
        eval_episodes: int = 10,
        test_episodes: int = 100,
        replay_ratio: float = 1.0,
        replay_batch_size: int = 64,
        buffer_size: int = 1_000_000,
        save_buffer: bool = True,
        env_timeout: float | None = None,
        max_env_restarts: int = 0,
        eval_max_episode_steps: int | None = None,
        eval_num_envs: int | None = None,
        wrappers: list[EnvWrapper] | None = None,
    ) -> None:
        require(rollout_steps is not None, "rollout_steps", rollout_steps, "give 1 or more, for rollouts of one size")
        super().__init__(
            env_id,
            env_kwargs,
            num_envs,
            vectorization,
            total_env_steps,
            env_steps_per_epoch,
            rollout_steps,
            env_steps_per_batch,
            eval_episodes,
            test_episodes,
            env_timeout,
            max_env_restarts,
            eval_max_episode_steps,
            eval_num_envs,
            wrappers,
        )
        updates = replay_ratio * rollout_steps * num_envs
        advice = f"replay_ratio x rollout_steps x num_envs = {updates:g} minibatches a rollout; make it a whole number"
        is_whole = 1 <= updates < math.inf and math.isclose(updates, round(updates))
        require(is_whole, "replay_ratio", replay_ratio, advice)
        self.updates = round(updates)  # minibatches beside each rollout
        require(replay_batch_size >= 1, "replay_batch_size", replay_batch_size, "give 1 or more")
        least = max(replay_batch_size, num_envs)
        require(buffer_size >= least, "buffer_size", buffer_size, f"it must hold a minibatch; give {least} or more")
        self.replay_batch_size, self.buffer_size, self.save_buffer = replay_batch_size, buffer_size, save_buffer
        check_overrides(type(self), RolloutReplayDataModule, ("setup", "attach", "state_dict", "load_state_dict"))
        spaces = self.observation_space, self.action_space
        self._run_buffer = RunBuffer(buffer_size, num_envs, *spaces, frame_stack=self.frame_stack)

    def setup(self, stage: str) -> None:
        """Make the replay buffer, in the stage that fills it."""
        if stage == "fit":
            self._run_buffer.begin(self.most_transitions)

    def check_memory(self) -> None:
        """Refuse a buffer larger than memory.

        Raises:
            UsageError: with the bytes that are needed and those that are available.
        """
        self._run_buffer.check_memory(self.most_transitions)

    @property
    def buffer(self) -> ReplayBuffer:
        """The replay buffer; it exists from `setup("fit")` on."""
        assert self._run_buffer.made is not None, "the replay buffer is made by setup('fit')"
        return self._run_buffer.made

    def attach(self, collector: Collector) -> None:
        """Gather from these environments."""
        super().attach(collector)
        if not collector.goes_on:
            self.buffer.end_episodes()

    def rollout(self) -> Rollout:
        """Gather one rollout, [T, num_envs, ...] on the CPU, whose steps enter the buffer."""
        steps = self.collector.collect(self.rollout_steps)
        for step in steps:
            self.buffer.add(*step)
        return self.rollout_of(steps)

    def replayed(self, gamma: float, device: torch.device) -> Iterator[Transition]:
        """`replay_ratio` minibatches [replay_batch_size, ...] for each environment step of a rollout, on the device."""
        for start in range(0, self.updates, AT_ONCE):
            batch, _ = self.buffer.sample(min(AT_ONCE, self.updates - start), self.replay_batch_size, gamma)
            yield from minibatches_of(batch, device)

    def replayed_observations(self, time_steps: int) -> Obs:
        """Observations [time_steps, *obs_shape] of the buffer, on the CPU."""
        batch, _ = self.buffer.sample(1, time_steps, gamma=1.0)
        obs: Obs = map_obs(lambda x: x[0], batch.obs)
        return obs

    @property
    def why_not_exact(self) -> str | None:
        """As of the environments, and of a replay buffer that is not kept."""
        return super().why_not_exact if self.save_buffer else "save_buffer=False keeps replay out of checkpoints"

    def seed(self, seed: int) -> None:
        """Let this process draw other samples than the rest."""
        self.buffer.generator.manual_seed(seed)

    def state_dict(self) -> State:
        """The buffer of every process, unless `save_buffer` is off."""
        return self._run_buffer.state_dict() if self.save_buffer else {}

    def load_state_dict(self, state_dict: State) -> None:
        """Take over a saved buffer; evaluation, which has none, ignores it."""
        if self._run_buffer.made is not None and "buffer" in state_dict:
            self._run_buffer.load_state_dict(state_dict)
