"""DataModules: what learners learn from. One file of settings, all of them counted in environment steps."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv
from lightning.pytorch import LightningDataModule

from rl_lightning.data.replay import ReplayBuffer
from rl_lightning.envs import Vectorization, make_env, make_vec_env
from rl_lightning.errors import UsageError, require
from rl_lightning.types import State, Transition

EVAL_NUM_ENVS = 10  # evaluation episodes played at once
VAL_SEED, TEST_SEED, PREDICT_SEED = 1_000_000, 2_000_000, 3_000_000  # first episode's; apart from each other


class ReplayDataModule(LightningDataModule):
    """Minibatches from a replay buffer that `EnvironmentInteraction` fills while the trainer runs.

    One training batch is one iteration of an off-policy algorithm: `train_freq` steps of every environment, then
    `replay_ratio` gradient steps for each environment step just taken.

    Args:
        env_id: a registered Gymnasium environment; ``module:Id`` imports `module` first.
        env_kwargs: arguments of the environment itself, e.g. ``{g: 15}``.
        num_envs: training environments, in each process.
        vectorization: ``sync`` steps them one after the other, ``async`` each in a process of its own.
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
        super().__init__()
        require(num_envs >= 1, "num_envs", num_envs, "give 1 or more")
        require(total_env_steps >= 1, "total_env_steps", total_env_steps, "give 1 or more")
        require(train_freq >= 1, "train_freq", train_freq, "give 1 or more")
        require(batch_size >= 1, "batch_size", batch_size, "give 1 or more")
        require(eval_episodes >= 1, "eval_episodes", eval_episodes, "give 1 or more")
        require(test_episodes >= 1, "test_episodes", test_episodes, "give 1 or more")
        require(
            num_envs <= learning_starts < total_env_steps,
            "learning_starts",
            learning_starts,
            f"give at least num_envs={num_envs} and less than total_env_steps={total_env_steps}",
        )
        require(
            buffer_size >= max(batch_size, num_envs),
            "buffer_size",
            buffer_size,
            f"it must hold a batch; give at least batch_size={batch_size} and num_envs={num_envs}",
        )
        require(vectorization in ("sync", "async"), "vectorization", vectorization, "give sync or async")
        updates = replay_ratio * train_freq * num_envs
        require(
            1 <= updates < math.inf and math.isclose(updates, round(updates)),
            "replay_ratio",
            replay_ratio,
            f"replay_ratio x train_freq x num_envs = {updates:g} gradient steps an iteration; make that a whole number",
        )
        per_iteration = train_freq * num_envs
        if env_steps_per_epoch is None:
            env_steps_per_epoch = max(per_iteration, total_env_steps // 20)
        require(
            env_steps_per_epoch >= per_iteration,
            "env_steps_per_epoch",
            env_steps_per_epoch,
            f"give at least one iteration, train_freq x num_envs = {per_iteration}",
        )
        self.env_id, self.env_kwargs = env_id, dict(env_kwargs or {})
        self.num_envs, self.vectorization = num_envs, vectorization
        self.total_env_steps, self.learning_starts, self.train_freq = total_env_steps, learning_starts, train_freq
        self.updates, self.batch_size, self.buffer_size = round(updates), batch_size, buffer_size
        self.env_steps_per_epoch = env_steps_per_epoch
        self.eval_episodes, self.test_episodes, self.save_buffer = eval_episodes, test_episodes, save_buffer
        probe = make_env(env_id, self.env_kwargs)
        self.observation_space, self.action_space = probe.observation_space, probe.action_space
        probe.close()
        self._buffer: ReplayBuffer | None = None
        self._eval_envs: VectorEnv[Any, Any, Any] | None = None

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

    def train_envs(self) -> VectorEnv[Any, Any, Any]:
        """New training environments."""
        return make_vec_env(self.env_id, self.num_envs, self.vectorization, self.env_kwargs)

    def eval_envs(self) -> VectorEnv[Any, Any, Any]:
        """Environments for evaluation, made once and never those of training."""
        if self._eval_envs is None:
            self._eval_envs = make_vec_env(self.env_id, EVAL_NUM_ENVS, "sync", self.env_kwargs)
        return self._eval_envs

    def train_dataloader(self) -> "ReplayLoader":
        """One epoch of iterations."""
        world_size = self.trainer.world_size if self.trainer else 1
        iterations = max(1, self.env_steps_per_epoch // (self.train_freq * self.num_envs * world_size))
        return ReplayLoader(self.buffer, iterations, self.updates, self.batch_size)

    def val_dataloader(self) -> "EpisodeLoader":
        """The seeds of the evaluation episodes, in batches that are played at once."""
        return self._episodes(VAL_SEED, self.eval_episodes)

    def test_dataloader(self) -> "EpisodeLoader":
        """The seeds of the test's episodes."""
        return self._episodes(TEST_SEED, self.test_episodes)

    def predict_dataloader(self) -> "EpisodeLoader":
        """The seeds of the episodes to record."""
        return self._episodes(PREDICT_SEED, self.eval_episodes)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move transitions; seeds of episodes stay. Lightning's own walks through any collection, at every step."""
        return Transition(*(field.to(device) for field in batch)) if isinstance(batch, Transition) else batch

    def teardown(self, stage: str) -> None:
        """Close the evaluation environments."""
        self._close()

    def on_exception(self, exception: BaseException) -> None:
        """Close the evaluation environments; Lightning does not tear down after an error."""
        self._close()

    def _close(self) -> None:
        if self._eval_envs is not None:
            self._eval_envs.close()
            self._eval_envs = None

    def state_dict(self) -> State:
        """The buffer, unless `save_buffer` is off."""
        return {"buffer": self.buffer.state_dict()} if self.save_buffer and self._buffer is not None else {}

    def load_state_dict(self, state_dict: State) -> None:
        """Take over a saved buffer; evaluation, which has none, ignores it."""
        if self._buffer is not None and "buffer" in state_dict:
            self.buffer.load_state_dict(state_dict["buffer"])

    def _episodes(self, first_seed: int, episodes: int) -> "EpisodeLoader":
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EpisodeLoader(range(first_seed, first_seed + episodes)[rank::world_size], EVAL_NUM_ENVS)


class EpisodeLoader:
    """Seeds of episodes, in batches that are played at once.

    Args:
        seeds: of this process's episodes.
        batch_size: episodes at once.
    """

    def __init__(self, seeds: Sequence[int], batch_size: int) -> None:
        self.seeds, self.batch_size = seeds, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.seeds) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Up to `batch_size` seeds."""
        for start in range(0, len(self.seeds), self.batch_size):
            yield list(self.seeds[start : start + self.batch_size])


class ReplayLoader:
    """An epoch of samples, each drawn when asked for. It has a length, so Lightning never prefetches one.

    Args:
        buffer: to sample from.
        iterations: in an epoch.
        updates: minibatches in a sample.
        batch_size: transitions in a minibatch.
    """

    def __init__(self, buffer: ReplayBuffer, iterations: int, updates: int, batch_size: int) -> None:
        self.buffer, self.iterations, self.updates, self.batch_size = buffer, iterations, updates, batch_size

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[Transition]:
        """Transitions [updates, batch_size, ...]."""
        for _ in range(self.iterations):
            yield self.buffer.sample(self.updates, self.batch_size)
