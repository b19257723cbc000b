"""Collecting experience: the acting half of every learner."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from torch import nn
from torchmetrics import MeanMetric

from rl_lightning.data.module import EnvironmentDataModule
from rl_lightning.errors import EnvironmentFault, UsageError
from rl_lightning.evaluation import to_numpy, to_tensor
from rl_lightning.types import Step, to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rl_lightning.algorithms.module import Algorithm


class EnvironmentInteraction(Callback):
    """Steps the training environments, stores what comes of it, counts environment steps, and ends the run by them.

    When training starts it takes the random steps that the DataModule wants first (`learning_starts`), and from then on
    a step of the learner's policy whenever a batch asks for one. Every `log_every_n_steps` batches it logs one row:
    mean return and length of the episodes that finished since the last row and had no random steps, the losses of the
    last gradient step, and the speed.

    Attributes:
        env_steps: environment steps taken so far, of all environments in all processes; resets are not steps.

    Raises:
        UsageError: where the trainer's datamodule is none of ours.
        EnvironmentFault: where an environment or the policy breaks down; the message names the place.
    """

    def __init__(self) -> None:
        self.env_steps = 0
        self._returns, self._lengths = MeanMetric(), MeanMetric()
        self._finished: list[tuple[float, float]] = []  # return and length of episodes since the last row
        self._envs: VectorEnv[Any, Any, Any] | None = None
        self._rng: dict[str, torch.Tensor] | None = None  # restored, until training starts

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A run starts at zero, unless a checkpoint is restored after this."""
        if stage == "fit":
            self.env_steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: Algorithm) -> None:  # type: ignore[override]
        """Open the environments, and take the random steps that learning starts from."""
        data = _environment_data(trainer)
        self._returns.to(pl_module.device)
        self._lengths.to(pl_module.device)
        self._envs = data.train_envs()
        # a resumed run, and each process, sees new episodes
        seeds = np.random.SeedSequence([torch.initial_seed(), trainer.global_rank, self.env_steps])
        env_seeds = [int(seed) for seed in seeds.generate_state(data.num_envs + 1)]
        self._envs.action_space.seed(env_seeds.pop())
        self._acting = acting_of(pl_module)
        self._episodes_end = pl_module.episodes_end
        self._obs, _ = self._envs.reset(seed=env_seeds)  # type: ignore[arg-type]
        self._episode_return, self._episode_length = np.zeros(data.num_envs), np.zeros(data.num_envs)
        self._has_random_steps = np.zeros(data.num_envs, dtype=bool)
        self._env_steps_per_row = data.num_envs * trainer.world_size
        for _ in range(-(-data.random_steps // self._env_steps_per_row)):
            self._step(self._envs.action_space.sample(), data)
        # rows are of the exploring policy: without the random episodes, and without those that began at random
        self._finished, self._has_random_steps = [], self._episode_length > 0
        data.collect = partial(self._collect, pl_module, data)
        if self._rng is not None:  # last, since everything above draws numbers
            _set_rng(self._rng)
            self._rng = None
        if trainer.world_size > 1:  # weights are equal by now; noise and samples must not be
            torch.manual_seed(env_seeds[0])
            data.seed(env_seeds[0])
        self._row_seconds, self._row_env_steps = 0.0, self.env_steps
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric("*", step_metric="env_steps", step_sync=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock, which runs in batches only: what happens between them is neither collection nor learning."""
        self._batch_started = time.monotonic()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Algorithm, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at `total_env_steps`; log when a row is due."""
        if self.env_steps >= _environment_data(trainer).total_env_steps:
            trainer.should_stop = True
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        row_is_due = every and ((trainer.fit_loop.total_batch_idx + 1) % every == 0 or trainer.should_stop)
        # read before the clock: this waits until a GPU has learned
        losses = {name: value.mean().item() for name, value in pl_module.losses.items()} if row_is_due else {}
        self._row_seconds += time.monotonic() - self._batch_started
        if row_is_due:
            self._log_row(trainer, pl_module, losses)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the environments."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the environments; Lightning does not tear down after an error."""
        self._close()

    def _close(self) -> None:
        if self._envs is not None:
            self._envs.close()
            self._envs = None

    def state_dict(self) -> dict[str, Any]:
        """The step counter, and the state of torch's random number generators."""
        return {"env_steps": self.env_steps, "rng": _get_rng()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.env_steps, self._rng = state_dict["env_steps"], state_dict["rng"]

    def _collect(self, algorithm: Algorithm, data: EnvironmentDataModule, enough: Callable[[], bool]) -> None:
        """Steps of every environment with the learner's policy, until there are enough."""
        device = algorithm.device
        with self._acting():
            while not enough():
                action = algorithm.act(to_device(to_tensor(self._obs, data.observation_space), device))
                self._step(to_numpy(action), data)

    def _step(self, action: NDArray[Any], data: EnvironmentDataModule) -> None:
        """One step of every environment: store it, then reset the environments that finished."""
        assert self._envs is not None
        if not np.isfinite(action).all():
            raise EnvironmentFault(
                f"the policy's action {action.tolist()} at environment step {self.env_steps} is not finite: "
                "its network diverged; lower the learning rates or scale the reward"
            )
        next_obs, reward, terminated, truncated, _ = self._envs.step(action)
        data.store(Step(self._obs, action, reward, next_obs, terminated, truncated))
        self.env_steps += self._env_steps_per_row
        self._episode_return += reward
        self._episode_length += 1
        done = terminated | truncated
        if done.any():
            counted = done & ~self._has_random_steps
            self._finished.extend(zip(self._episode_return[counted], self._episode_length[counted], strict=True))
            self._has_random_steps &= ~done
            self._episode_return[done], self._episode_length[done] = 0.0, 0
            self._episodes_end(done)
            next_obs, _ = self._envs.reset(options={"reset_mask": done})
        self._obs = next_obs

    def _log_row(self, trainer: Trainer, algorithm: Algorithm, losses: dict[str, float]) -> None:
        row = losses | {"time/env_steps_per_second": (self.env_steps - self._row_env_steps) / self._row_seconds}
        self._row_seconds, self._row_env_steps = 0.0, self.env_steps
        returns, lengths = zip(*self._finished, strict=True) if self._finished else ((), ())
        self._finished = []
        for name, metric, values in (
            ("train/return", self._returns, returns),
            ("train/episode_length", self._lengths, lengths),
        ):
            # weight 0, so that processes without a finished episode join the exchange
            metric.update(torch.tensor([*values, 0.0]), weight=torch.tensor([*(1.0 for _ in values), 0.0]))
            value = metric.compute().item()
            metric.reset()
            if not np.isnan(value):
                row[name] = value
                algorithm.log(name, value, prog_bar=name == "train/return", logger=False)  # to be monitored
        for logger in trainer.loggers:
            logger.log_metrics({"env_steps": self.env_steps, **row}, step=self.env_steps)
            logger.save()


def acting_of(learner: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """A context for acting: eval mode and no gradients inside; afterwards each module is in its mode of before.

    Args:
        learner: whose modules, as they are now, change their modes; by `eval` and `train` if any has its own.
    """
    modules = list(learner.modules())
    if all(_keeps_its_mode_as_torch_does(module) for module in modules):
        return partial(_acting_by_attribute, [vars(module) for module in modules])
    return partial(_acting_by_method, modules)


def _keeps_its_mode_as_torch_does(module: nn.Module) -> bool:
    own = [getattr(method, "__func__", None) for method in (module.train, module.eval)]
    return "training" in vars(module) and own == [nn.Module.train, nn.Module.eval]


@contextmanager
def _acting_by_attribute(modes: list[dict[str, Any]]) -> Iterator[None]:
    """With modes where modules keep them: eval() and train() take 20 times as long, at every step."""
    before = [attributes["training"] for attributes in modes]
    for attributes in modes:
        attributes["training"] = False
    try:
        with torch.no_grad():
            yield
    finally:
        for attributes, training in zip(modes, before, strict=True):
            attributes["training"] = training


@contextmanager
def _acting_by_method(modules: list[nn.Module]) -> Iterator[None]:
    before = [module.training for module in modules]
    modules[0].eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in zip(modules, before, strict=True):  # a parent, which changes its parts too, comes first
            if module.training != training:
                module.train(training)


def _environment_data(trainer: Trainer) -> EnvironmentDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, EnvironmentDataModule):
        raise UsageError(
            f"datamodule={type(data).__name__} is not allowed: EnvironmentInteraction fills a ReplayDataModule or a "
            "RolloutDataModule"
        )
    return data


def _get_rng() -> dict[str, torch.Tensor]:
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state()
    return rng


def _set_rng(rng: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng and torch.cuda.is_available():
        torch.cuda.set_rng_state(rng["cuda"])
