"""Learning from replay: minibatches of transitions that any policy may have gathered."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_lightning.checkpoints import checkpoint_of_run, local_file, read
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.replay.buffer import ReplayBuffer
from rl_lightning.data.replay.run_buffer import RunBuffer
from rl_lightning.data.replay.saved import is_buffer, replay_in
from rl_lightning.data.replay.stream import ReplayLoader, ReplayStream
from rl_lightning.environments.collector import Collector
from rl_lightning.environments.make import Vectorization
from rl_lightning.environments.wrappers import EnvWrapper
from rl_lightning.errors import UsageError, check_overrides, require
from rl_lightning.types import Rollout, State, Step, Transition


class ReplayDataModule(EnvironmentDataModule):
    """Minibatches from a replay buffer that fills while the trainer runs.

    One iteration of an off-policy algorithm is `train_freq` steps of every environment, then `replay_ratio` gradient
    steps for each environment step just taken. A training batch is a stream of minibatches, of one iteration or more.
    Observations that the environment stacks with `gymnasium.wrappers.FrameStackObservation` are kept frame by frame.

    Args:
        env_id: a registered Gymnasium environment; ``module:Id`` imports `module` first.
        env_kwargs: arguments of the environment itself, e.g. ``{g: 15}``.
        num_envs: training environments, in each process.
        vectorization: ``sync`` steps them one after the other, ``async`` each in a process of its own; ``auto`` takes
            Gymnasium's own vectorized environment where that is faster, else ``sync``; ``envpool`` takes those of
            EnvPool, which threads of C++ step.
        total_env_steps: length of the run, in environment steps of all environments together.
        env_steps_per_epoch: environment steps from one evaluation and checkpoint to the next; by default a twentieth
            of the run. The first epoch begins after `learning_starts`.
        learning_starts: environment steps of random actions before the first gradient step.
        train_freq: steps of every environment in one iteration.
        replay_ratio: gradient steps for each environment step (of this process, where there are several).
        batch_size: transitions in one minibatch.
        buffer_size: transitions kept, the newest; memory is taken for no more than the run gathers.
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
        save_buffer: keep the buffer's contents in checkpoints (the first process's, where there are several); without
            them a resumed run has to fill it anew.
        n_step: time steps that a transition spans: their discounted rewards are summed, and the value bootstrapped
            from is that of the last one's next state. Fewer where an episode ends.
        priority_alpha: exponent of prioritized replay: transitions are drawn in proportion to |TD error|^alpha; 0
            draws uniformly.
        priority_beta: exponent of the weights that make up for it, at the start; it grows linearly to 1 at the end of
            the run.
        clip_rewards: store rewards clipped to [-1, 1]; the reported returns stay raw.
        buffer_on_device: keep the buffer on the learner's device instead of in memory.
        buffer_file: a new file to keep the buffer in instead of in memory; each further process adds ``.1`` and so on.
        buffer_from: a checkpoint (file or URL) whose buffer to start from, a run folder (its last.ckpt or best.ckpt),
            or a file with ``buffer.state_dict()``, instead of `learning_starts` random steps: the first step is the
            policy's.
        env_steps_per_batch: environment steps of a training batch, the unit of `log_every_n_steps`, in which iterations
            follow each other without Lightning's loop in between; rounded up to whole ones, by default one.
        overlap: let the environments take the last step of each iteration while the learner takes its gradient steps,
            which so learn from all steps but that one. It needs ``vectorization: async``, and is for environments whose
            step takes long, where a processor is free.
        wrappers: put around every environment, of training, evaluation and recording alike, the first of them
            innermost; each is called with an environment. See docs/environments.md.

    Attributes:
        observation_space: of one environment.
        action_space: of one environment, bounded dimensions in [-1, 1].
        observed: time steps of the buffer that `unobserved` does not give any more.

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
        n_step: int = 1,
        priority_alpha: float = 0.0,
        priority_beta: float = 0.4,
        clip_rewards: bool = False,
        buffer_on_device: bool = False,
        buffer_file: str | None = None,
        buffer_from: str | None = None,
        env_steps_per_batch: int | None = None,
        env_timeout: float | None = None,
        max_env_restarts: int = 0,
        eval_max_episode_steps: int | None = None,
        eval_num_envs: int | None = None,
        overlap: bool = False,
        wrappers: list[EnvWrapper] | None = None,
    ) -> None:
        require(num_envs >= 1, "num_envs", num_envs, "give 1 or more")
        require(train_freq >= 1, "train_freq", train_freq, "give 1 or more")
        iteration = train_freq * num_envs
        if env_steps_per_batch is None:
            env_steps_per_batch = iteration
        require(env_steps_per_batch >= 1, "env_steps_per_batch", env_steps_per_batch, "give 1 or more")
        env_steps_per_batch = -(-env_steps_per_batch // iteration) * iteration
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
        updates = replay_ratio * iteration
        require(
            1 <= updates < math.inf and math.isclose(updates, round(updates)),
            "replay_ratio",
            replay_ratio,
            f"replay_ratio x train_freq x num_envs = {updates:g} gradient steps an iteration; make that a whole number",
        )
        require(n_step >= 1, "n_step", n_step, "give 1 or more")
        require(0 <= priority_alpha < math.inf, "priority_alpha", priority_alpha, "give 0 (uniform) or more")
        require(0 <= priority_beta <= 1, "priority_beta", priority_beta, "give a number in [0, 1]")
        require(
            not (buffer_on_device and buffer_file),
            "buffer_file",
            buffer_file,
            "with buffer_on_device there is no memory of this machine to replace; give one of the two",
        )
        require(
            vectorization == "async" or not overlap,
            "overlap",
            overlap,
            "only environments in processes of their own step meanwhile; give vectorization=async, or false",
        )
        self.learning_starts, self.train_freq, self.overlap = learning_starts, train_freq, overlap
        self.updates, self.batch_size, self.buffer_size = round(updates), batch_size, buffer_size
        self.iterations_per_batch = env_steps_per_batch // iteration
        self.save_buffer, self.clip_rewards = save_buffer, clip_rewards
        self.n_step, self.priority_alpha, self.priority_beta = n_step, priority_alpha, priority_beta
        self.buffer_on_device, self.buffer_file, self.buffer_from = buffer_on_device, buffer_file, buffer_from
        check_overrides(type(self), ReplayDataModule, ("setup", "attach", "state_dict", "load_state_dict"))
        spaces = self.observation_space, self.action_space
        self._run_buffer = RunBuffer(buffer_size, num_envs, *spaces, n_step, self.frame_stack, priority_alpha)
        self.observed = 0
        self._random_steps_left = 0  # of the run, before it learns

    def setup(self, stage: str) -> None:
        """Make the replay buffer, in the stage that fills it; fill it from `buffer_from`."""
        if stage != "fit":
            return
        is_first = self._run_buffer.made is None
        saved = read_buffer(self.buffer_from) if self.buffer_from is not None and is_first else None
        self._run_buffer.begin(self.most_transitions, self._buffer_device(), self._buffer_file(), saved)
        if saved is not None:
            self.observed = self.buffer.steps
            self.seed(torch.initial_seed())  # this run's, not that of the one which filled it

    def check_memory(self) -> None:
        """Refuse a buffer larger than memory.

        Raises:
            UsageError: with the bytes that are needed and those that are available.
        """
        on_device_to_come = self.buffer_on_device and self.trainer is None
        if self.buffer_file is None and not on_device_to_come:
            self._run_buffer.check_memory(self.most_transitions, self._buffer_device())

    def _buffer_device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.buffer_on_device and self.trainer else torch.device("cpu")

    def _buffer_file(self) -> str | None:
        rank = self.trainer.global_rank if self.trainer else 0
        return f"{self.buffer_file}.{rank}" if self.buffer_file and rank > 0 else self.buffer_file

    @property
    def buffer(self) -> ReplayBuffer:
        """The replay buffer; it exists from `setup("fit")` on."""
        assert self._run_buffer.made is not None, "the replay buffer is made by setup('fit')"
        return self._run_buffer.made

    def attach(self, collector: Collector) -> None:
        """Gather from these environments; first what is left of `learning_starts` random steps."""
        super().attach(collector)
        if not collector.goes_on:
            self.buffer.end_episodes()
        if len(self.buffer) == 0:
            self.check_random_steps(self.clock.env_steps)
            self._random_steps_left = self.learning_starts
        for step in collector.collect_randomly(self._random_steps_left):
            self._store(step)
            self._random_steps_left -= collector.env_steps_per_row

    def check_random_steps(self, env_steps: int) -> None:
        """Refuse to begin an empty buffer where the run would end before anything is learned.

        Args:
            env_steps: of the run so far.

        Raises:
            UsageError: a run that goes on from a checkpoint without a buffer, for no more than `learning_starts`.
        """
        left = self.total_env_steps - env_steps
        advice = (
            f"the checkpoint has no replay buffer, so random steps come first again, and the run has {left} steps "
            "left: nothing would be learned; give more total_env_steps, or buffer_from"
        )
        require(self.learning_starts < left, "learning_starts", self.learning_starts, advice)

    def _store(self, step: Step) -> None:
        reward = np.clip(step.reward, -1.0, 1.0) if self.clip_rewards else step.reward
        self.buffer.add(*step._replace(reward=reward))

    def draw(self, gamma: float) -> tuple[Transition, Tensor]:
        """The minibatches of one iteration: gather `train_freq` steps of every environment, then sample.

        With `overlap` the last of these steps is under way from here to `end_iteration`, and is not sampled.

        Args:
            gamma: the discount that the rewards of several steps are summed with.

        Returns:
            As `ReplayBuffer.sample`: transitions [updates, batch_size, ...] and their numbers.
        """
        for step in self.collector.collect(self.train_freq - 1 if self.overlap else self.train_freq):
            self._store(step)
        if self.overlap:
            self.collector.begin_step()
        beta = self.beta if self.priority_alpha > 0 else 1.0
        return self.buffer.sample(self.updates, self.batch_size, gamma, beta)

    def unobserved(self) -> Iterator[Rollout]:
        """The time steps that have entered the buffer since it was last asked and are still there, as rollouts."""
        first, self.observed = self.observed, self.buffer.steps
        return self.buffer.rollouts(first)

    def end_iteration(self) -> None:
        """Store the step that the environments took meanwhile."""
        if self.overlap:
            self._store(self.collector.end_step())

    @property
    def beta(self) -> float:
        """The exponent of prioritized replay's weights: `priority_beta` at the start of the run, 1 at its end."""
        return self.priority_beta + (1.0 - self.priority_beta) * self.clock.progress

    @property
    def why_not_exact(self) -> str | None:
        """As of the environments, and of a replay buffer that is not kept."""
        return super().why_not_exact if self.save_buffer else "save_buffer=False keeps replay out of checkpoints"

    def seed(self, seed: int) -> None:
        """Let this process draw other samples than the rest."""
        self.buffer.generator.manual_seed(seed)

    def train_dataloader(self) -> ReplayLoader:
        """One epoch of streams of minibatches."""
        return ReplayLoader(self)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Have a stream's minibatches moved as they come; seeds of episodes stay."""
        if isinstance(batch, ReplayStream):
            batch.device = device
        return batch

    def state_dict(self) -> State:
        """The buffer of every process, unless `save_buffer` is off."""
        if not self.save_buffer or self._run_buffer.made is None:
            return {}
        return {
            **self._run_buffer.state_dict(),
            "random_steps_left": self._random_steps_left,
            "observed": self.observed,
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Take over a saved buffer; evaluation, which has none, ignores it."""
        if self._run_buffer.made is not None and "buffer" in state_dict:
            self._run_buffer.load_state_dict(state_dict)
            self._random_steps_left = state_dict.get("random_steps_left", 0)
            self.observed = state_dict.get("observed", self.buffer.steps)


def read_buffer(path: str) -> State:
    """The state of a replay buffer, from a checkpoint, a run folder or a file of its own.

    Raises:
        UsageError: where it is missing, damaged, or holds no replay buffer.
    """
    file = checkpoint_of_run(path, "buffer_from", ("last", "best"))  # the last one has seen more
    try:
        state: Any = read(local_file(file), str(file))
    except UsageError as error:
        raise UsageError(f"buffer_from={path!r} is not allowed: {error}") from error
    if isinstance(state, dict):
        state = replay_in(state) or state
        state = state.get("buffer", state)
    require(
        is_buffer(state),
        "buffer_from",
        path,
        "it holds no replay buffer; give a checkpoint of a run with save_buffer, or a file saved with "
        "torch.save(buffer.state_dict(), path)",
    )
    return dict(state)
