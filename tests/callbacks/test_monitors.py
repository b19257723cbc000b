"""Lightning's callbacks that watch a run: on its clock, and with what its rows have."""

import csv

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from toys import fit, make_trainer, noise_data, tiny_sac

from rl_lightning import MetricsCSV, UsageError


@pytest.mark.parametrize(("interval", "expected"), [("step", range(14, 60, 5)), ("epoch", [10, 30, 50])])
def test_learning_rates_are_logged_on_the_axis_of_environment_steps(tmp_path, interval, expected):
    data = noise_data(total_env_steps=60, env_steps_per_epoch=20, learning_starts=10)
    monitor = LearningRateMonitor(interval)
    trainer = make_trainer([monitor], MetricsCSV(tmp_path), log_every_n_steps=5)
    fit(tiny_sac(data.observation_space, data.action_space), data, trainer)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if any(name.startswith("lr-") and row[name] for name in row)]
    assert [int(row["env_steps"]) for row in rows] == [int(row["step"]) for row in rows] == [*expected]
    assert all(len(rates) == len(rows) for rates in monitor.lrs.values())  # the user's own handle
    assert [type(logger) for logger in trainer.loggers] == [MetricsCSV]


class LogsItsOwn(Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        pl_module.log("mine", float(pl_module.env_steps), on_step=True)
        trainer.logger.log_metrics({"direct": float(pl_module.env_steps)}, step=7)


def test_what_a_users_callback_logs_stands_on_the_axis_of_environment_steps_too(tmp_path):
    data = noise_data(total_env_steps=60, env_steps_per_epoch=20, learning_starts=10)
    logger = MetricsCSV(tmp_path)
    fit(
        tiny_sac(data.observation_space, data.action_space),
        data,
        make_trainer([LogsItsOwn()], logger, log_every_n_steps=5),
    )
    with (tmp_path / "metrics.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert {row["step"] for row in rows} == {row["env_steps"] for row in rows}
    for name in ("mine", "direct"):
        found = [row for row in rows if row[name]]
        assert len(found) >= 10
        assert all(float(row[name]) == int(row["env_steps"]) == int(row["step"]) for row in found)
    assert "log_metrics" not in vars(logger), "after the run the logger has its own steps again"


def test_early_stopping_waits_for_a_training_metric_and_then_stops_by_it(tmp_path):
    data = noise_data(total_env_steps=200, env_steps_per_epoch=20, learning_starts=10)
    stop = EarlyStopping("train/q_loss", patience=1, min_delta=1e9, check_on_train_epoch_end=True)
    trainer = make_trainer([stop], log_every_n_steps=30)  # the first epoch has no row
    fit(tiny_sac(data.observation_space, data.action_space), data, trainer)
    assert data.clock.env_steps == 10 + 3 * 20  # the second epoch's loss is the best one, the third's is no better


def test_early_stopping_on_what_no_row_has_is_refused_by_name(tmp_path):
    data = noise_data(total_env_steps=200, env_steps_per_epoch=20, learning_starts=10)
    stop = EarlyStopping("train/q_los", check_on_train_epoch_end=True)
    with pytest.raises(UsageError) as refusal:
        fit(tiny_sac(data.observation_space, data.action_space), data, make_trainer([stop], log_every_n_steps=5))
    assert "EarlyStopping.monitor='train/q_los' is not allowed: no row has it; give one of " in str(refusal.value)
    assert "train/q_loss" in str(refusal.value)
    assert data.clock.env_steps == 30
