"""What every DataModule of a learner has: environments, the run's length, and the episodes of evaluation."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
from gymnasium.vector import VectorEnv
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn

from rl_lightning.environments.collector import Collector
from rl_lightning.environments.make import (
    Vectorization,
    frame_stack_of,
    make_env,
    make_vec_env,
    vector_in_threads,
)
from rl_lightning.environments.state import why_not_restorable
from rl_lightning.environments.vector import Restarts
from rl_lightning.environments.wrappers import EnvWrapper, check_statistics, described
from rl_lightning.errors import check_overrides, require
from rl_lightning.schedules import Clock
from rl_lightning.types import State

EVAL_NUM_ENVS = 10  # evaluation episodes played at once, unless told otherwise
EVAL_MAX_STEPS = 10_000  # of an evaluation episode, in an environment without a time limit, unless told otherwise
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
        env_timeout: seconds that an environment may take for a reset or a step, of training and evaluation, before it
            counts as hanging; None waits for ever. It needs ``vectorization: async``, since nothing can stop an
            environment in the run's own process; evaluation then has processes of its own too.
        max_env_restarts: how often, in each process, an environment that died, hung or broke its contract is replaced
            by a new one: its unfinished episode ends as truncated with the last step that was stored, and counts in
            no return.
        eval_max_episode_steps: steps after which an evaluation episode is cut off, with its return so far; None cuts
            off none in an environment with a time limit of its own, and after 10,000 steps in others, with a warning.
        eval_num_envs: evaluation episodes played at once; None plays up to 10.
        wrappers: put around every environment, of training, evaluation and recording, the first innermost.
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
        env_timeout: float | None,
        max_env_restarts: int,
        eval_max_episode_steps: int | None,
        eval_num_envs: int | None,
        wrappers: Sequence[EnvWrapper] | None,
    ) -> None:
        super().__init__()
        require(total_env_steps >= 1, "total_env_steps", total_env_steps, "give 1 or more")
        require(eval_episodes >= 1, "eval_episodes", eval_episodes, "give 1 or more")
        require(test_episodes >= 1, "test_episodes", test_episodes, "give 1 or more")
        allowed = get_args(Vectorization)
        require(vectorization in allowed, "vectorization", vectorization, f"give one of {allowed}")
        _check_watching(vectorization, env_timeout, max_env_restarts, eval_max_episode_steps, eval_num_envs)
        if env_steps_per_epoch is None:
            env_steps_per_epoch = max(env_steps_per_batch, total_env_steps // 20)
        require(
            env_steps_per_epoch >= env_steps_per_batch,
            "env_steps_per_epoch",
            env_steps_per_epoch,
            f"give at least the environment steps of one batch, {env_steps_per_batch}, or lower env_steps_per_batch",
        )
        check_overrides(type(self), EnvironmentDataModule, ("attach", "detach", "teardown", "on_exception"))
        self.env_id, self.env_kwargs, self.wrappers = env_id, dict(env_kwargs or {}), list(wrappers or ())
        self.num_envs, self.vectorization = num_envs, vectorization
        self.total_env_steps, self.env_steps_per_epoch = total_env_steps, env_steps_per_epoch
        self.env_steps_per_batch = env_steps_per_batch
        self.eval_episodes, self.test_episodes = eval_episodes, test_episodes
        self.env_timeout, self.max_env_restarts = env_timeout, max_env_restarts
        self.eval_max_episode_steps, self.eval_num_envs = eval_max_episode_steps, eval_num_envs
        self.restarts = Restarts(max_env_restarts)
        probe = make_env(env_id, self.env_kwargs, wrappers=self.wrappers)
        check_statistics(probe, env_id)
        self._has_time_limit = probe.spec is not None and probe.spec.max_episode_steps is not None
        self.observation_space, self.action_space = probe.observation_space, probe.action_space
        self.own_action_space = probe.own_action_space
        self.frame_stack = frame_stack_of(probe)
        probe.close()
        if vectorization == "envpool":
            vector_in_threads(probe, self.env_kwargs, num_envs, self.wrappers)  # for what it refuses
        self.clock = Clock(total_env_steps)
        self._collector: Collector | None = None
        self._eval_envs: VectorEnv[Any, Any, Any] | None = None
        self._warned_of_cut_off = False
        self._eval_at_once = 1  # episodes of the evaluation under way

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
        settings = self.vectorization, self.num_envs, self.env_timeout
        return why_not_restorable(self.env_id, self.env_kwargs, *settings, self.wrappers)

    @property
    def described_wrappers(self) -> list[State]:
        """`wrappers` as a config has them: `class_path` and `init_args` of each."""
        return [described(wrapper) for wrapper in self.wrappers]

    def seed(self, seed: int) -> None:
        """Let this process draw other samples than the rest."""

    @property
    def batches_per_epoch(self) -> int:
        """Training batches in an epoch."""
        world_size = self.trainer.world_size if self.trainer else 1
        return max(1, self.env_steps_per_epoch // (self.env_steps_per_batch * world_size))

    @property
    def most_transitions(self) -> int:
        """No fewer than the run can gather in this process; with slack, for what the last batch takes more."""
        return self.total_env_steps + self.env_steps_per_batch + self.num_envs

    def check_memory(self) -> None:
        """Refuse what there is no memory for, before training begins.

        Raises:
            UsageError: with what is needed and what is available.
        """

    def train_envs(self) -> VectorEnv[Any, Any, Any]:
        """New training environments."""
        return self._make(self.num_envs, self.vectorization)

    # Evaluation

    def eval_envs(self) -> VectorEnv[Any, Any, Any]:
        """Environments for evaluation, as many as it plays episodes at once; never those of training."""
        if self._eval_envs is not None and self._eval_envs.num_envs != self._eval_at_once:
            self.close_eval_envs()
        if self._eval_envs is None:
            self._eval_envs = self._make(self._eval_at_once, "sync" if self.env_timeout is None else "async")
        return self._eval_envs

    def _make(self, num_envs: int, vectorization: Vectorization) -> VectorEnv[Any, Any, Any]:
        watched = self.env_timeout, self.restarts
        return make_vec_env(self.env_id, num_envs, vectorization, self.env_kwargs, *watched, self.wrappers)

    @property
    def eval_limit(self) -> int | None:
        """Steps after which an evaluation episode is cut off; None for never."""
        if self.eval_max_episode_steps is None and not self._has_time_limit:
            return EVAL_MAX_STEPS
        return self.eval_max_episode_steps

    def warn_of_cut_off(self, lengths: Sequence[int]) -> None:
        """Say once that evaluation cut episodes off where nobody asked for it, given their lengths in steps."""
        if self.eval_max_episode_steps is None and self.eval_limit in lengths and not self._warned_of_cut_off:
            self._warned_of_cut_off = True
            rank_zero_warn(
                f"an evaluation episode was cut off after {EVAL_MAX_STEPS:,} steps, with its return so far, as "
                f"{self.env_id} has no time limit of its own: data.eval_max_episode_steps=N sets another"
            )

    def val_dataloader(self) -> "EpisodeLoader":
        """The seeds of the evaluation episodes, in batches that are played at once."""
        return self._episodes(VAL_SEED, self.eval_episodes)

    def test_dataloader(self) -> "EpisodeLoader":
        """The seeds of the test's episodes."""
        return self._episodes(TEST_SEED, self.test_episodes)

    def predict_dataloader(self) -> "EpisodeLoader":
        """The seeds of the episodes to record."""
        loader = self._episodes(PREDICT_SEED, self.eval_episodes)
        self._eval_at_once = 1  # they are recorded one after the other
        return loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move what learners learn from; seeds of episodes stay. Lightning's own walks through any collection."""
        return batch

    def teardown(self, stage: str) -> None:
        """Close the evaluation environments."""
        self.close_eval_envs()

    def on_exception(self, exception: BaseException) -> None:
        """Close the evaluation environments; Lightning does not tear down after an error."""
        self.close_eval_envs()

    def close_eval_envs(self) -> None:
        """Let the next evaluation make new ones."""
        if self._eval_envs is not None:
            self._eval_envs.close()
            self._eval_envs = None

    def _episodes(self, first_seed: int, episodes: int) -> "EpisodeLoader":
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        require(episodes >= world_size, "eval_episodes, test_episodes", episodes, f"give {world_size}, one a process")
        seeds = range(first_seed, first_seed + episodes)[rank::world_size]
        self._eval_at_once = self.eval_num_envs or max(1, min(EVAL_NUM_ENVS, len(seeds)))
        return EpisodeLoader(seeds, self._eval_at_once)


def _check_watching(
    vectorization: Vectorization,
    env_timeout: float | None,
    max_env_restarts: int,
    eval_max_episode_steps: int | None,
    eval_num_envs: int | None,
) -> None:
    if env_timeout is not None:
        require(
            0.0 < env_timeout < math.inf, "env_timeout", env_timeout, "give seconds above 0, or null to wait for ever"
        )
        advice = "an environment in the run's own process cannot be stopped; give vectorization=async, or null"
        require(vectorization == "async", "env_timeout", env_timeout, advice)
    require(max_env_restarts >= 0, "max_env_restarts", max_env_restarts, "give 0 or more")
    advice = "an environment of EnvPool cannot be replaced by a new one; give 0, or vectorization=sync or async"
    require(vectorization != "envpool" or not max_env_restarts, "max_env_restarts", max_env_restarts, advice)
    for name, value in (("eval_max_episode_steps", eval_max_episode_steps), ("eval_num_envs", eval_num_envs)):
        require(value is None or value >= 1, name, value, "give 1 or more, or null")


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
