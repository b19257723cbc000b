"""Every setting of Lightning's Trainer is followed, or refused in one line before anything is made."""

import warnings
from datetime import timedelta

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from toys import LINEAR

from rl_lightning import A2C, SAC, ReplayDataModule, RolloutDataModule, UsageError

QUIET = {
    "accelerator": "cpu",
    "max_epochs": -1,
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}
EPISODES = {"eval_episodes": 12, "test_episodes": 12}


def replay():
    pace = {"learning_starts": 12, "batch_size": 4, "buffer_size": 50, "total_env_steps": 52, "env_steps_per_epoch": 10}
    data = ReplayDataModule("toys:Match-v0", **pace, **EPISODES)
    return SAC(data.observation_space, data.action_space, network=LINEAR, compile=False), data


def rollout():
    data = RolloutDataModule(
        "toys:Match-v0", rollout_steps=2, env_steps_per_epoch=10, total_env_steps=40, num_envs=1, **EPISODES
    )
    return A2C(data.observation_space, data.action_space, network=LINEAR, compile=False), data


both = pytest.mark.parametrize("make", [replay, rollout])

REFUSED = {
    "min_steps": (100_000, "data.total_env_steps"),
    "min_epochs": (50, "data.total_env_steps"),
    "overfit_batches": (1, "gathered anew"),
    "limit_train_batches": (0.5, "data.env_steps_per_epoch"),
    "limit_val_batches": (1, "data.eval_episodes"),
    "limit_test_batches": (0.01, "data.test_episodes"),
    "limit_predict_batches": (3, "data.eval_episodes"),
    "max_epochs": (0, "nothing to learn"),
    "max_steps": (0, "nothing to learn"),
    "check_val_every_n_epoch": (0, "1 or more"),
    "val_check_interval": (6, "an epoch has"),
    "accumulate_grad_batches": (2, "batch_size"),
    "gradient_clip_val": (0.5, "model.max_grad_norm"),
    "gradient_clip_algorithm": ("norm", "model.max_grad_norm"),
    "reload_dataloaders_every_n_epochs": (1, "leave it out"),
    "sync_batchnorm": (True, "leave it out"),
    "use_distributed_sampler": (False, "leave it out"),
}


@both
@pytest.mark.parametrize(("name", "value", "fix"), [(name, *refused) for name, refused in REFUSED.items()])
def test_a_setting_that_would_do_nothing_or_fail_later_is_refused_before_a_logger_makes_its_folder(
    make, name, value, fix, tmp_path
):
    model, data = make()
    if (make, name) == (replay, "val_check_interval"):
        value = 11
    trainer = Trainer(**{**QUIET, "logger": CSVLogger(tmp_path / "logs"), name: value})
    with pytest.raises(UsageError, match=rf"^trainer.{name}={value!r} is not allowed: .*{fix}") as caught:
        trainer.fit(model, data)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stage", "name"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_an_evaluation_of_no_episodes_is_refused_but_left_out_of_a_fit(stage, name):
    model, data = rollout()
    trainer = Trainer(**QUIET, **{f"limit_{name}_batches": 0})
    trainer.fit(model, data)
    with pytest.raises(UsageError, match=f"^trainer.limit_{name}_batches=0 is not allowed: give data.*1 or more"):
        getattr(trainer, stage)(model, data)


def test_anomalies_are_not_looked_for_in_a_compiled_graph_and_found_without():
    data = replay()[1]
    model = SAC(data.observation_space, data.action_space, network=LINEAR, compile=True)
    with pytest.raises(UsageError, match=r"^trainer.detect_anomaly=True is not allowed: .*model.compile=false"):
        Trainer(**QUIET, detect_anomaly=True).fit(model, data)
    model, data = replay()
    seen = []

    class Watched(Callback):
        def on_train_batch_end(self, *_):
            seen.append(torch.is_anomaly_enabled())

    Trainer(**QUIET, detect_anomaly=True, callbacks=[Watched()]).fit(model, data)
    assert set(seen) == {True}


OF_LEARNERS = ["optimizer_step", "configure_gradient_clipping", "backward", "lr_scheduler_step", "on_after_backward"]


@pytest.mark.parametrize("hook", OF_LEARNERS)
def test_a_hook_that_is_never_called_is_refused_by_name(hook):
    def never(self, *_, **__):
        raise AssertionError

    data = replay()[1]
    kind = type("Mine", (SAC,), {hook: never})
    model = kind(data.observation_space, data.action_space, network=LINEAR, compile=False)
    with pytest.raises(UsageError, match=rf"^Mine\.{hook} is never called: .*on_before_optimizer_step"):
        Trainer(**QUIET).fit(model, data)


def test_a_callbacks_hook_that_is_never_called_is_refused_by_name():
    class Norms(Callback):
        def on_after_backward(self, trainer, pl_module):
            raise AssertionError

    model, data = replay()
    with pytest.raises(UsageError, match=r"^Norms\.on_after_backward is never called"):
        Trainer(**QUIET, callbacks=[Norms()]).fit(model, data)


class Unfreezes(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        raise AssertionError

    def finetune_function(self, pl_module, epoch, optimizer):
        raise AssertionError


@both
@pytest.mark.parametrize(
    ("make_callback", "fix"),
    [
        (Unfreezes, "rl_lightning.Freeze"),
        (BatchSizeFinder, "give batch_size"),
        (lambda: GradientAccumulationScheduler({0: 2}), "larger batch_size"),
        (LearningRateFinder, "give learning rates"),
        (lambda: ModelPruning("l1_unstructured"), "rl-lightning export"),
        (lambda: StochasticWeightAveraging(0.1), "EMAWeightAveraging"),
    ],
)
def test_a_callback_that_a_learner_cannot_follow_is_refused_with_what_to_do_instead(make, make_callback, fix, tmp_path):
    model, data = make()
    callback = make_callback()
    trainer = Trainer(**{**QUIET, "logger": CSVLogger(tmp_path / "logs")}, callbacks=[callback])
    with pytest.raises(UsageError, match=rf"^trainer.callbacks='{type(callback).__name__}' is not allowed: .*{fix}"):
        trainer.fit(model, data)
    assert list(tmp_path.iterdir()) == []


def test_a_learner_that_torch_has_compiled_is_refused():
    model, data = replay()
    with pytest.raises(UsageError, match=r"^torch.compile='SAC' is not allowed: .*give it as it is"):
        Trainer(**QUIET).fit(torch.compile(model), data)


def test_checkpoints_by_time_that_would_never_be_saved_are_refused(tmp_path):
    model, data = replay()
    saves = ModelCheckpoint(tmp_path / "saved", train_time_interval=timedelta(minutes=5))
    with pytest.raises(UsageError, match=r"^ModelCheckpoint.train_time_interval='0:05:00' is .*every_minutes"):
        Trainer(**{**QUIET, "enable_checkpointing": True}, callbacks=[saves]).fit(model, data)
    assert list(tmp_path.iterdir()) == []


class Evaluated(Callback):
    """Notes at which environment steps; and the modes of evaluation."""

    def __init__(self):
        self.at, self.inference = [], []

    def on_validation_epoch_end(self, trainer, pl_module):
        self.at.append(pl_module.env_steps)
        self.inference.append(torch.is_inference_mode_enabled())


def run(make, **settings):
    """Environment steps of the run, and at which of them it was evaluated."""
    model, data = make()
    evaluated = Evaluated()
    trainer = Trainer(**{**QUIET, "callbacks": [evaluated], **settings})
    trainer.fit(model, data)
    return model.env_steps, evaluated.at


FOLLOWED = {
    "max_epochs": (2, (32, [22, 32]), (20, [10, 20])),
    "max_time": (timedelta(0), (0, []), (0, [])),
    "limit_val_batches": (0, (52, []), (40, [])),
    "check_val_every_n_epoch": (2, (52, [32, 52]), (40, [20, 40])),
    "num_sanity_val_steps": (-1, (52, [0, 22, 32, 42, 52]), (40, [0, 10, 20, 30, 40])),
    "log_every_n_steps": (0, (52, [22, 32, 42, 52]), (40, [10, 20, 30, 40])),
    "profiler": ("simple", (52, [22, 32, 42, 52]), (40, [10, 20, 30, 40])),
    "barebones": (True, (52, [22, 32, 42, 52]), (40, [10, 20, 30, 40])),
    "benchmark": (True, (52, [22, 32, 42, 52]), (40, [10, 20, 30, 40])),
    "inference_mode": (False, (52, [22, 32, 42, 52]), (40, [10, 20, 30, 40])),
}


@pytest.mark.parametrize(("name", "value", "of_replay", "of_rollout"), [(k, *v) for k, v in FOLLOWED.items()])
def test_a_setting_that_can_be_followed_is(name, value, of_replay, of_rollout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(replay, **{name: value}) == of_replay
    assert run(rollout, **{name: value}) == of_rollout


def test_evaluations_may_fall_within_epochs_or_count_batches_over_them():
    assert run(replay, val_check_interval=5) == (52, [17, 22, 27, 32, 37, 42, 47, 52])
    assert run(rollout, val_check_interval=0.4) == (40, [4, 8, 14, 18, 24, 28, 34, 38, 40])
    assert run(replay, val_check_interval=25, check_val_every_n_epoch=None) == (52, [37, 52])
    assert run(rollout, val_check_interval=timedelta(0)) == (40, [*range(2, 41, 2)])


def test_gradient_steps_of_all_optimizers_are_counted_by_max_steps():
    assert run(replay, max_steps=6)[0] == 12 + 2
    assert run(rollout, max_steps=6)[0] == 3 * 2


def test_a_run_of_a_few_batches_makes_nothing_and_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for make, env_steps in ((replay, 12 + 1), (rollout, 2 * 2)):  # 3 steps of all optimizers together, at least
        model, data = make()
        Trainer(**{**QUIET, "logger": None, "enable_checkpointing": None}, fast_dev_run=3).fit(model, data)
        assert model.env_steps == env_steps
    assert list(tmp_path.iterdir()) == []


def test_a_learner_that_was_neither_trained_nor_loaded_is_evaluated_with_a_warning(tmp_path):
    model, data = rollout()
    trainer = Trainer(**QUIET)
    with pytest.warns(UserWarning, match="^A2C is evaluated with the random weights it was made with: train it"):
        trainer.test(model, data, verbose=False)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    fresh, data = rollout()
    for evaluate in (
        lambda: trainer.test(model, data, verbose=False),
        lambda: trainer.test(rollout()[0], data, ckpt_path=tmp_path / "it.ckpt", verbose=False, weights_only=True),
        lambda: trainer.test(fresh, data, verbose=False),
    ):
        fresh.load_weights(tmp_path / "it.ckpt")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*random weights")
            evaluate()
