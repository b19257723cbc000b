"""Collecting experience: the acting half of every learner."""

import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from torchmetrics import MaxMetric, MeanMetric, Metric, SumMetric

from rl_lightning.callbacks.monitors import check_watched, let_wait, on_clock, publish
from rl_lightning.callbacks.random_numbers import random_numbers, set_random_numbers
from rl_lightning.data import EnvironmentDataModule
from rl_lightning.data.processes import of_all_processes, of_this_process
from rl_lightning.environments.collector import Collector
from rl_lightning.errors import UsageError
from rl_lightning.types import State

KEY = "environment_interaction"  # in a checkpoint


class EnvironmentInteraction(Callback):
    """Opens the training environments, has the DataModule gather from them, ends the run by its clock, and logs.

    A batch gathers its steps with the learner's policy just before it is learned from; replay begins with random ones
    (`learning_starts`). Every `log_every_n_steps` batches one row is logged: mean return and length of the episodes
    that finished since the last row and had no random steps, the metrics of the last gradient step, and the speed.
    A checkpoint gets what a run that goes on from it needs to be the same run: random numbers, and the episodes under
    way where the environments can be restored. One line at the start says whether they can.

    Raises:
        UsageError: where the trainer's datamodule is none of ours.
        EnvironmentFault: where an environment breaks down; the message names the place.
        Divergence: where the learner has diverged, found at the latest with the next row.
    """

    def __init__(self) -> None:
        self._returns, self._lengths = MeanMetric(), MeanMetric()
        self._longest, self._restarts = MaxMetric(), SumMetric()
        self._data: EnvironmentDataModule | None = None  # while it gathers
        self._saved: State = {}  # in the checkpoint that the run goes on from, until training starts
        self._why_not_exact: str | None = None
        self._rows = ExitStack()  # puts loggers back to their own clock

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put all rows on the run's clock. Say how exactly a checkpoint will resume, before a progress bar is drawn."""
        self._rows.enter_context(on_clock(trainer.loggers, environment_data(trainer).clock))
        self._say_what_resumes(trainer, environment_data(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the environments, where a checkpoint left them; replay takes the random steps that come first."""
        self._data = data = environment_data(trainer)
        self._returns.to(pl_module.device)
        self._lengths.to(pl_module.device)
        self._longest.to(pl_module.device)
        self._restarts.to(pl_module.device)
        saved, self._saved = self._saved, {}
        # a run whose episodes do not go on, and each process, sees new ones
        entropy = np.random.SeedSequence([torch.initial_seed(), trainer.global_rank, data.clock.env_steps])
        seeds = [int(seed) for seed in entropy.generate_state(data.num_envs + 1)]
        collector = Collector(data.train_envs(), pl_module, data.clock, seeds, trainer.world_size)  # type: ignore[arg-type]
        self._row_seconds, self._batches = 0.0, 0
        batches = trainer.fit_loop.epoch_loop.batch_progress.total  # a batch that a checkpoint saw ready comes again
        batches.ready = batches.started  # type: ignore[attr-defined]
        own = of_this_process(saved["processes"]) if saved else None
        if own is None and trainer.world_size > 1:  # weights are equal by now; noise and samples must not be
            torch.manual_seed(seeds[0])
            data.seed(seeds[0])
        let_wait(trainer)
        if own is not None:
            collector.load_state_dict(own["collector"])
            self._row_env_steps, self._batches = own["row_env_steps"], own["batches"]
            pl_module.load_acting_state(own["acting"], collector.goes_on)  # type: ignore[operator]
        before = data.clock.env_steps
        data.attach(collector)
        if own is None or data.clock.env_steps > before:  # random steps are in no row
            self._row_env_steps = data.clock.env_steps
        if own is not None:  # last, since everything above may draw numbers
            set_random_numbers(own["random_numbers"])
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric("*", step_metric="env_steps", step_sync=True)

    def _say_what_resumes(self, trainer: Trainer, data: EnvironmentDataModule) -> None:
        """Say in one line how exactly a checkpoint of this run will resume, and what has changed since an older one."""
        saved, now = self._saved, _settings(trainer, data)
        if trainer.ckpt_path and not saved:
            rank_zero_info(
                f"checkpoint {str(trainer.ckpt_path)!r} has neither episodes nor random numbers, as it was saved after "
                "its run had ended or met an error, or by an older version: new episodes begin"
            )
        before = {"wrappers": repr([])} | saved["settings"] if saved else now  # older checkpoints know of none
        if before != now:
            changed = [f"{key}={now[key]!r} was {before[key]!r}" for key in now if now[key] != before[key]]
            rank_zero_info(f"{', '.join(changed)}: the episodes under way in the checkpoint end, new ones begin")
            for own in saved["processes"]:
                own["collector"].pop("episodes", None)
        if not trainer.checkpoint_callbacks:
            self._why_not_exact = "no checkpoints are kept"
            return
        self._why_not_exact = data.why_not_exact
        if self._why_not_exact is None:
            rank_zero_info("Checkpoints resume exactly: with the environments as they were")
        else:
            rank_zero_info(
                "Checkpoints resume consistently, not exactly: episodes under way end as truncated "
                f"({self._why_not_exact})"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock, which runs in batches only: what happens between them is neither collection nor learning."""
        self._batch_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at `total_env_steps`; log when a row is due."""
        if environment_data(trainer).clock.progress >= 1.0:
            trainer.should_stop = True
        self._batches += 1
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        row_is_due = every and (self._batches % every == 0 or trainer.should_stop)
        # read before the clock: this waits until a GPU has learned
        metrics = {name: metric.mean().item() for name, metric in pl_module.metrics.items()} if row_is_due else {}  # type: ignore[operator, union-attr]
        self._row_seconds += time.monotonic() - self._batch_started
        if row_is_due:
            self._log_row(trainer, pl_module, metrics)
            pl_module.check_finite()  # type: ignore[operator]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse callbacks that watch what is never logged."""
        check_watched(trainer, pl_module)

    def _log_row(self, trainer: Trainer, learner: LightningModule, metrics: dict[str, float]) -> None:
        env_steps = environment_data(trainer).clock.env_steps
        row = metrics | {"time/env_steps_per_second": (env_steps - self._row_env_steps) / self._row_seconds}
        self._row_seconds, self._row_env_steps = 0.0, env_steps
        collector = environment_data(trainer).collector
        finished = collector.finished
        returns, lengths = zip(*finished, strict=True) if finished else ((), ())
        finished.clear()
        longest = float(max(collector.longest, *lengths, 0))
        row["train/longest_episode"] = self._over_processes(self._longest, longest)
        if (restarts := environment_data(trainer).restarts).allowed:
            row["train/env_restarts"] = self._over_processes(self._restarts, float(restarts.done))
        for name, mean, values in (
            ("train/return", self._returns, returns),
            ("train/episode_length", self._lengths, lengths),
        ):
            # weight 0, so that processes without a finished episode join the exchange
            weight = torch.tensor([*(1.0 for _ in values), 0.0], device=learner.device)
            mean.update(torch.tensor([*values, 0.0], device=learner.device), weight=weight)
            value = mean.compute().item()
            mean.reset()
            if not np.isnan(value):
                row[name] = value
                learner.log(name, value, prog_bar=name == "train/return", logger=False)  # to be monitored
        publish(trainer, row)
        for logger in trainer.loggers:
            logger.log_metrics(row)

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
        self._rows.close()
        if self._data is not None:
            self._data.detach()
            self._data = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what acting goes on from, of every process; nothing once the environments are closed."""
        if self._data is None:
            return
        own = {
            "random_numbers": random_numbers(),
            "collector": self._data.collector.state_dict(with_envs=self._why_not_exact is None),
            "acting": pl_module.acting_state(),  # type: ignore[operator]
            "row_env_steps": self._row_env_steps,
            "batches": self._batches,
        }
        checkpoint[KEY] = {"settings": _settings(trainer, self._data), "processes": of_all_processes(own)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._saved = checkpoint.get(KEY, {})
        loops = checkpoint["loops"]["fit_loop"]
        batches = loops["epoch_loop.batch_progress"]["current"]
        if (
            batches["ready"] > batches["started"]
        ):  # saved at the start of a batch: Lightning would count the one before twice
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


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


def _settings(trainer: Trainer, data: EnvironmentDataModule) -> State:
    """What must be as it was for episodes under way to go on."""
    return {
        "env_id": data.env_id,
        "env_kwargs": repr(data.env_kwargs),
        "wrappers": repr(data.described_wrappers),
        "num_envs": data.num_envs,
        "processes": trainer.world_size,
    }
