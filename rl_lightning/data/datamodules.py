"""Learning from replay: minibatches of transitions that any policy may have gathered."""

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import torch

from rl_lightning.data.module import EnvironmentDataModule
from rl_lightning.data.replay import ReplayBuffer
from rl_lightning.envs import Vectorization
from rl_lightning.errors import UsageError, require
from rl_lightning.types import State, Step, Transition


class ReplayDataModule(EnvironmentDataModule):
    """Minibatches from a replay buffer that `EnvironmentInteraction` fills while the trainer runs.

    One training batch is one iteration of an off-policy algorithm: `train_freq` steps of every environment, then
    `replay_ratio` gradient steps for each environment step just taken.

    Args:
        env_id: a registered Gymnasium environment; ``module:Id`` imports `module` first.
        env_kwargs: arguments of the environment itself, e.g. ``{g: 15}``.
        num_envs: training environments, in each process.
        vectorization: ``sync`` steps them one after the other, ``async`` each in a process of its own; ``auto`` takes
            Gymnasium's own vectorized environment where that is faster, else ``sync``.
        total_env_steps: length of the run, in environment steps of all environments together.
        env_steps_per_epoch: environment steps from one evaluation and checkpoint to the next; by default a twentieth
            of the run. The first epoch begins after `learning_starts`.
        learning_starts: environment steps of random actions before the first gradient step.
        train_freq: steps of every environment in one iteration.
        replay_ratio: gradient steps for each environment step (of this process, where there are several).
        batch_size: transitions in one minibatch.
        buffer_size: transitions kept, the newest.
        eval_episodes: episodes of each evaluation during training.
        test_episodes: episodes of `test`, the evaluation that ends a run.
        save_buffer: keep the buffer's contents in checkpoints (the first process's, where there are several); without
            them a resumed run has to fill it anew.

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
        vectorization: Vectorization = "sync",
        total_env_steps: int = 100_000,
        env_steps_per_epoch: int | None = None,
        learning_starts: int = 1_000,
        train_freq: int = 1,
        replay_ratio: float = 1.0,
        batch_size: int = 256,
        buffer_size: int = 1_000_000,
        eval_episodes: int = 10,
        test_episodes: int = 100,
        save_buffer: bool = True,
    ) -> None:
        require(num_envs >= 1, "num_envs", num_envs, "give 1 or more")
        require(train_freq >= 1, "train_freq", train_freq, "give 1 or more")
        super().__init__(
            env_id,
            env_kwargs,
            num_envs,
            vectorization,
            total_env_steps,
            env_steps_per_epoch,
            eval_episodes,
            test_episodes,
            env_steps_per_batch=train_freq * num_envs,
        )
        require(batch_size >= 1, "batch_size", batch_size, "give 1 or more")
        require(
            buffer_size >= max(batch_size, num_envs),
            "buffer_size",
            buffer_size,
            f"it must hold a batch; give at least batch_size={batch_size} and num_envs={num_envs}",
        )
        require(
            num_envs <= learning_starts < total_env_steps,
            "learning_starts",
            learning_starts,
            f"give at least num_envs={num_envs} and less than total_env_steps={total_env_steps}",
        )
        updates = replay_ratio * train_freq * num_envs
        require(
            1 <= updates < math.inf and math.isclose(updates, round(updates)),
            "replay_ratio",
            replay_ratio,
            f"replay_ratio x train_freq x num_envs = {updates:g} gradient steps an iteration; make that a whole number",
        )
        self.learning_starts, self.train_freq = learning_starts, train_freq
        self.updates, self.batch_size, self.buffer_size = round(updates), batch_size, buffer_size
        self.save_buffer = save_buffer
        self._buffer: ReplayBuffer | None = None
        self._fresh = 0  # steps added since the latest sample

    def setup(self, stage: str) -> None:
        """Make the replay buffer, in the stage that fills it."""
        if stage != "fit" or self._buffer is not None:
            return
        obs_space, action_space = self.observation_space, self.action_space
        if not isinstance(obs_space, gym.spaces.Box) or not isinstance(action_space, gym.spaces.Box):
            raise UsageError(
                f"spaces {obs_space} and {action_space} are not supported by ReplayDataModule: it stores Box "
                "observations and Box actions; choose another environment"
            )
        seed = torch.initial_seed()
        self._buffer = ReplayBuffer(self.buffer_size, self.num_envs, obs_space, action_space, seed)

    @property
    def buffer(self) -> ReplayBuffer:
        """The replay buffer; it exists from `setup("fit")` on."""
        assert self._buffer is not None, "the replay buffer is made by setup('fit')"
        return self._buffer

    @property
    def random_steps(self) -> int:  # type: ignore[override]
        """`learning_starts`, unless a checkpoint has filled the buffer."""
        return self.learning_starts if len(self.buffer) == 0 else 0

    def store(self, step: Step) -> None:
        """Add transitions to the buffer."""
        self.buffer.add(step.obs, step.action, step.reward, step.next_obs, step.terminated)
        self._fresh += 1

    def collect_fresh(self) -> None:
        """Have `train_freq` steps of every environment added."""
        self._fresh = 0
        self.collect(lambda: self._fresh == self.train_freq)

    def seed(self, seed: int) -> None:
        """Let this process draw other samples than the rest."""
        self.buffer.generator.manual_seed(seed)

    def train_dataloader(self) -> "ReplayLoader":
        """One epoch of iterations."""
        return ReplayLoader(self)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move transitions; seeds of episodes stay. Lightning's own walks through any collection, at every step."""
        return Transition(*(field.to(device) for field in batch)) if isinstance(batch, Transition) else batch

    def state_dict(self) -> State:
        """The buffer, unless `save_buffer` is off."""
        return {"buffer": self.buffer.state_dict()} if self.save_buffer and self._buffer is not None else {}

    def load_state_dict(self, state_dict: State) -> None:
        """Take over a saved buffer; evaluation, which has none, ignores it."""
        if self._buffer is not None and "buffer" in state_dict:
            self.buffer.load_state_dict(state_dict["buffer"])


class ReplayLoader:
    """An epoch of samples, each drawn after `train_freq` steps of every environment.

    It has a length, so Lightning never prefetches one.

    Args:
        data: whose buffer to sample, and how.
    """

    def __init__(self, data: ReplayDataModule) -> None:
        self.data, self.iterations = data, data.batches_per_epoch

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[Transition]:
        """Transitions [updates, batch_size, ...]."""
        for _ in range(self.iterations):
            self.data.collect_fresh()
            yield self.data.buffer.sample(self.data.updates, self.data.batch_size)
