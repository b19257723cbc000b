"""Collecting experience: the acting half of every learner."""

import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torchmetrics import MaxMetric, MeanMetric, Metric, SumMetric

from rl_lightning.data import EnvironmentDataModule
from rl_lightning.environments.collector import Collector
from rl_lightning.errors import UsageError


class EnvironmentInteraction(Callback):
    """Opens the training environments, has the DataModule gather from them, ends the run by its clock, and logs.

    A batch gathers its steps with the learner's policy just before it is learned from; replay begins with random ones
    (`learning_starts`). Every `log_every_n_steps` batches one row is logged: mean return and length of the episodes
    that finished since the last row and had no random steps, the metrics of the last gradient step, and the speed.

    Raises:
        UsageError: where the trainer's datamodule is none of ours.
        EnvironmentFault: where an environment or the policy breaks down; the message names the place.
    """

    def __init__(self) -> None:
        self._returns, self._lengths = MeanMetric(), MeanMetric()
        self._longest, self._restarts = MaxMetric(), SumMetric()
        self._data: EnvironmentDataModule | None = None  # while it gathers
        self._rng: dict[str, torch.Tensor] | None = None  # restored, until training starts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the environments; replay takes the random steps that learning starts from."""
        self._data = data = environment_data(trainer)
        self._returns.to(pl_module.device)
        self._lengths.to(pl_module.device)
        self._longest.to(pl_module.device)
        self._restarts.to(pl_module.device)
        # a resumed run, and each process, sees new episodes
        entropy = np.random.SeedSequence([torch.initial_seed(), trainer.global_rank, data.clock.env_steps])
        seeds = [int(seed) for seed in entropy.generate_state(data.num_envs + 1)]
        self._collector = Collector(data.train_envs(), pl_module, data.clock, seeds, trainer.world_size)  # type: ignore[arg-type]
        data.attach(self._collector)
        if self._rng is not None:  # last, since everything above draws numbers
            _set_rng(self._rng)
            self._rng = None
        if trainer.world_size > 1:  # weights are equal by now; noise and samples must not be
            torch.manual_seed(seeds[0])
            data.seed(seeds[0])
        self._row_seconds, self._row_env_steps = 0.0, data.clock.env_steps
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric("*", step_metric="env_steps", step_sync=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock, which runs in batches only: what happens between them is neither collection nor learning."""
        self._batch_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at `total_env_steps`; log when a row is due."""
        if environment_data(trainer).clock.progress >= 1.0:
            trainer.should_stop = True
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        row_is_due = every and ((trainer.fit_loop.total_batch_idx + 1) % every == 0 or trainer.should_stop)
        # read before the clock: this waits until a GPU has learned
        metrics = {name: metric.mean().item() for name, metric in pl_module.metrics.items()} if row_is_due else {}  # type: ignore[operator, union-attr]
        self._row_seconds += time.monotonic() - self._batch_started
        if row_is_due:
            self._log_row(trainer, pl_module, metrics)

    def _log_row(self, trainer: Trainer, learner: LightningModule, metrics: dict[str, float]) -> None:
        env_steps = environment_data(trainer).clock.env_steps
        row = metrics | {"time/env_steps_per_second": (env_steps - self._row_env_steps) / self._row_seconds}
        self._row_seconds, self._row_env_steps = 0.0, env_steps
        finished = self._collector.finished
        returns, lengths = zip(*finished, strict=True) if finished else ((), ())
        finished.clear()
        longest = float(max(self._collector.longest, *lengths, 0))
        row["train/longest_episode"] = self._over_processes(self._longest, longest)
        if (restarts := environment_data(trainer).restarts).allowed:
            row["train/env_restarts"] = self._over_processes(self._restarts, float(restarts.done))
        for name, mean, values in (
            ("train/return", self._returns, returns),
            ("train/episode_length", self._lengths, lengths),
        ):
            # weight 0, so that processes without a finished episode join the exchange
            mean.update(torch.tensor([*values, 0.0]), weight=torch.tensor([*(1.0 for _ in values), 0.0]))
            value = mean.compute().item()
            mean.reset()
            if not np.isnan(value):
                row[name] = value
                learner.log(name, value, prog_bar=name == "train/return", logger=False)  # to be monitored
        for logger in trainer.loggers:
            logger.log_metrics({"env_steps": env_steps, **row}, step=env_steps)
            logger.save()

    @staticmethod
    def _over_processes(metric: Metric, value: float) -> float:
        metric.update(value)
        total: float = metric.compute().item()
        metric.reset()
        return total

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the environments."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the environments; Lightning does not tear down after an error."""
        self._close()

    def _close(self) -> None:
        if self._data is not None:
            self._data.detach()
            self._data = None

    def state_dict(self) -> dict[str, Any]:
        """The state of torch's random number generators."""
        rng = {"cpu": torch.get_rng_state()}
        return {"rng": rng | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rng = state_dict["rng"]


def environment_data(trainer: Trainer) -> EnvironmentDataModule:
    """The trainer's DataModule.

    Raises:
        UsageError: one that is none of ours.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, EnvironmentDataModule):
        raise UsageError(
            f"datamodule={type(data).__name__} is not allowed: EnvironmentInteraction fills a ReplayDataModule or a "
            "RolloutDataModule"
        )
    return data


def _set_rng(rng: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng and torch.cuda.is_available():
        torch.cuda.set_rng_state(rng["cuda"])
