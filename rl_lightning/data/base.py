"""What every DataModule of a learner has: environments, the run's length, and the episodes of evaluation."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from lightning.pytorch import LightningDataModule

from rl_lightning.environments.collector import Collector
from rl_lightning.environments.make import Vectorization, frame_stack_of, make_env, make_vec_env
from rl_lightning.environments.state import why_not_restorable
from rl_lightning.errors import require
from rl_lightning.schedules import Clock

EVAL_NUM_ENVS = 10  # evaluation episodes played at once
VAL_SEED, TEST_SEED, PREDICT_SEED = 1_000_000, 2_000_000, 3_000_000  # first episode's; apart from each other


class EnvironmentDataModule(LightningDataModule):
    """The base of `ReplayDataModule` and `RolloutDataModule`, which say what a training batch is.

    A training batch gathers what it needs from the attached `Collector` just before it is learned from, and nothing
    else is gathered.

    Args:
        env_id: a registered Gymnasium environment; ``module:Id`` imports `module` first.
        env_kwargs: arguments of the environment itself.
        num_envs: training environments, in each process.
        vectorization: how they step: see `make_vec_env`.
        total_env_steps: length of the run, in environment steps of all environments together.
        env_steps_per_epoch: environment steps from one evaluation and checkpoint to the next; None is a twentieth of
            the run.
        eval_episodes: episodes of each evaluation during training.
        test_episodes: episodes of `test`.
        env_steps_per_batch: environment steps that one training batch takes, in each process.

    Attributes:
        observation_space: of one environment.
        action_space: of one environment as `make_env` makes it.
        own_action_space: of the environment itself, before its actions are rescaled for learners.
        frame_stack: frames that an observation is stacked from.
        clock: environment steps of the run.

    Raises:
        UsageError: an environment or a value that cannot work.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: dict[str, Any] | None,
        num_envs: int,
        vectorization: Vectorization,
        total_env_steps: int,
        env_steps_per_epoch: int | None,
        eval_episodes: int,
        test_episodes: int,
        env_steps_per_batch: int,
    ) -> None:
        super().__init__()
        require(total_env_steps >= 1, "total_env_steps", total_env_steps, "give 1 or more")
        require(eval_episodes >= 1, "eval_episodes", eval_episodes, "give 1 or more")
        require(test_episodes >= 1, "test_episodes", test_episodes, "give 1 or more")
        allowed = ("auto", "sync", "async")
        require(vectorization in allowed, "vectorization", vectorization, f"give one of {allowed}")
        if env_steps_per_epoch is None:
            env_steps_per_epoch = max(env_steps_per_batch, total_env_steps // 20)
        require(
            env_steps_per_epoch >= env_steps_per_batch,
            "env_steps_per_epoch",
            env_steps_per_epoch,
            f"give at least the environment steps of one batch, {env_steps_per_batch}, or lower env_steps_per_batch",
        )
        self.env_id, self.env_kwargs = env_id, dict(env_kwargs or {})
        self.num_envs, self.vectorization = num_envs, vectorization
        self.total_env_steps, self.env_steps_per_epoch = total_env_steps, env_steps_per_epoch
        self.env_steps_per_batch = env_steps_per_batch
        self.eval_episodes, self.test_episodes = eval_episodes, test_episodes
        probe = make_env(env_id, self.env_kwargs)
        self.observation_space, self.action_space = probe.observation_space, probe.action_space
        self.own_action_space = probe.own_action_space
        self.frame_stack = frame_stack_of(probe)
        probe.close()
        self.clock = Clock(total_env_steps)
        self._collector: Collector | None = None
        self._eval_envs: VectorEnv[Any, Any, Any] | None = None

    # Experience

    def attach(self, collector: Collector) -> None:
        """Gather experience from these training environments."""
        self._collector = collector

    def detach(self) -> None:
        """Gather no more, and close the training environments."""
        if self._collector is not None:
            self._collector.close()
            self._collector = None

    @property
    def collector(self) -> Collector:
        """What gathers experience while training.

        Raises:
            RuntimeError: where nothing is attached.
        """
        if self._collector is None:
            raise RuntimeError("no Collector is attached: EnvironmentInteraction attaches one as training starts")
        return self._collector

    @property
    def why_not_exact(self) -> str | None:
        """Why a run that goes on from a checkpoint differs from one that was never stopped; None where it does not."""
        return why_not_restorable(self.env_id, self.env_kwargs, self.vectorization, self.num_envs)

    def seed(self, seed: int) -> None:
        """Let this process draw other samples than the rest."""

    @property
    def batches_per_epoch(self) -> int:
        """Training batches in an epoch."""
        world_size = self.trainer.world_size if self.trainer else 1
        return max(1, self.env_steps_per_epoch // (self.env_steps_per_batch * world_size))

    def train_envs(self) -> VectorEnv[Any, Any, Any]:
        """New training environments."""
        return make_vec_env(self.env_id, self.num_envs, self.vectorization, self.env_kwargs)

    # Evaluation

    def eval_envs(self) -> VectorEnv[Any, Any, Any]:
        """Environments for evaluation, made once and never those of training."""
        if self._eval_envs is None:
            self._eval_envs = make_vec_env(self.env_id, EVAL_NUM_ENVS, "sync", self.env_kwargs)
        return self._eval_envs

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
        """Move what learners learn from; seeds of episodes stay. Lightning's own walks through any collection."""
        return batch

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

    def _episodes(self, first_seed: int, episodes: int) -> "EpisodeLoader":
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        require(episodes >= world_size, "eval_episodes, test_episodes", episodes, f"give {world_size}, one a process")
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
