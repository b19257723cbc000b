"""Which of Lightning's settings and hooks a learner cannot follow: refused, where they would do nothing in silence."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from rl_lightning.algorithms.shared.precision import check_precision
from rl_lightning.callbacks import Freeze, VideoRecorder
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.errors import UsageError, require
from rl_lightning.fast.products import check_asked
from rl_lightning.fast.settings import hidden_settings, is_compiled, train_time_interval_of

STAGES = {"validate": "val", "test": "test", "predict": "predict"}  # each with what Lightning calls it in a setting
NEVER_CALLED = ("on_before_zero_grad", "on_before_backward", "on_after_backward")  # gradients are of `autograd.grad`
NEVER_CALLED_OF_LEARNERS = (
    *NEVER_CALLED,
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
)
ONLY = {  # what a setting has to be, and what to do instead
    "min_steps": (None, "a run ends by data.total_env_steps; give that, or more patience to EarlyStopping"),
    "min_epochs": (None, "a run ends by data.total_env_steps; give that, or more patience to EarlyStopping"),
    "overfit_batches": (0.0, "experience is gathered anew for every batch; leave it out"),
    "accumulate_grad_batches": (1, "each minibatch is a gradient step; give a larger batch_size"),
    "gradient_clip_val": (
        None,
        "Lightning clips no gradients here; give model.max_grad_norm where there is one",
    ),
    "gradient_clip_algorithm": (None, "gradients are clipped to a norm; give model.max_grad_norm where there is one"),
    "reload_dataloaders_every_n_epochs": (0, "every epoch gathers anew, nothing is reloaded; leave it out"),
    "sync_batchnorm": (False, "BatchNorm's statistics are of each process; leave it out"),
    "use_distributed_sampler": (True, "processes share the episodes of an evaluation in any case; leave it out"),
}
CANNOT_FOLLOW: dict[type[Callback], str] = {  # Lightning's callbacks, and what to do instead
    BaseFinetuning: "optimizers move the parameters that learn when a run begins; give rl_lightning.Freeze",
    BatchSizeFinder: "its trials are without the callback that gathers experience; give batch_size",
    GradientAccumulationScheduler: "each minibatch is a gradient step; give a larger batch_size",
    LearningRateFinder: "its trials are without the callback that gathers experience; give learning rates",
    ModelPruning: "it exchanges the parameters that gradients are taken of; prune what rl-lightning export writes",
    StochasticWeightAveraging: "swa_lrs would not be followed; give WeightAveraging or EMAWeightAveraging",
}


def check_trainer(trainer: Trainer, stage: str, learner: LightningModule, data: object) -> None:
    """Refuse settings and hooks that a run would pass over in silence, or end in an error by, once it is under way.

    Args:
        trainer: that is to run.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        learner: an `Algorithm`.
        data: the DataModule.

    Raises:
        UsageError: naming setting or hook, and what does the same.
    """
    advice = "a learner compiles its gradients by itself; give it as it is, with compile=True"
    require(not is_compiled(learner), "torch.compile", type(learner).__name__, advice)
    check_precision(trainer.precision)
    if stage == "fit":
        check_asked(isinstance(trainer.accelerator, CPUAccelerator), trainer.precision)
    require(
        isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy),
        "trainer.strategy",
        type(trainer.strategy).__name__,
        "every process has all of the networks; give auto or ddp",
    )
    settings = {name: getattr(trainer, name) for name in ONLY if hasattr(trainer, name)} | hidden_settings(trainer)
    for name, (only, advice) in ONLY.items():
        value = settings[name]
        require((value or None) == (only or None), f"trainer.{name}", getattr(value, "value", value), advice)
    if settings["detect_anomaly"]:
        compiled = getattr(learner, "compile_gradients", False)
        advice = "a compiled graph does not look for anomalies; give model.compile=false with it"
        require(not compiled, "trainer.detect_anomaly", True, advice)
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # which sets limits of its own
        _check_limits(trainer, stage)
        if stage == "fit" and isinstance(data, EnvironmentDataModule):
            _check_lengths(trainer, data)
    _check_hooks(trainer, learner)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        _check_callback(callback)
        if isinstance(callback, Freeze):
            callback.check(learner, data)
        if isinstance(callback, VideoRecorder) and stage in ("fit", "predict"):
            callback.check(data)


def _check_callback(callback: Callback) -> None:
    for kind, advice in CANNOT_FOLLOW.items():
        require(not isinstance(callback, kind), "trainer.callbacks", type(callback).__name__, advice)
    if isinstance(callback, ModelCheckpoint):
        interval = train_time_interval_of(callback)
        advice = "Lightning saves by time only where it steps the optimizers; give Checkpoints(every_minutes=...)"
        require(interval is None, "ModelCheckpoint.train_time_interval", str(interval), advice)


def _check_limits(trainer: Trainer, stage: str) -> None:
    limit: Any = trainer.limit_train_batches
    advice = "an epoch is data.env_steps_per_epoch environment steps; give that"
    require(_is_all(limit), "trainer.limit_train_batches", limit, advice)
    for which, name in STAGES.items():
        limit, episodes = getattr(trainer, f"limit_{name}_batches"), "test" if which == "test" else "eval"
        none, advice = limit == 0 and stage != which, f"give data.{episodes}_episodes"
        advice = f"{advice}, or 0 for no such evaluation in fit" if stage != which else f"{advice}, 1 or more"
        require(_is_all(limit) or none, f"trainer.limit_{name}_batches", limit, advice)


def _is_all(limit: float) -> bool:
    return isinstance(limit, float) and limit == 1.0


def _check_lengths(trainer: Trainer, data: EnvironmentDataModule) -> None:
    for name in ("max_epochs", "max_steps"):
        value = getattr(trainer, name)
        require(value != 0, f"trainer.{name}", value, "it leaves nothing to learn; give 1 or more, or -1 for no limit")
    every, epochs = getattr(trainer, "val_check_interval", None), trainer.check_val_every_n_epoch  # None: it is a time
    require(epochs is None or epochs >= 1, "trainer.check_val_every_n_epoch", epochs, "give 1 or more, or null")
    batches = max(1, data.env_steps_per_epoch // (data.env_steps_per_batch * trainer.world_size))
    advice = f"an epoch has {batches} batches; give no more, or count over epochs: trainer.check_val_every_n_epoch=null"
    require(
        epochs is None or not isinstance(every, int) or every <= batches, "trainer.val_check_interval", every, advice
    )


def _check_hooks(trainer: Trainer, learner: LightningModule) -> None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for owner, hooks in ((learner, NEVER_CALLED_OF_LEARNERS), *((callback, NEVER_CALLED) for callback in callbacks)):
        for hook in hooks:
            if is_overridden(hook, owner):
                raise UsageError(
                    f"{type(owner).__name__}.{hook} is never called: learners find gradients by torch.autograd.grad, "
                    "and step optimizers themselves; override on_before_optimizer_step, or a learner's step"
                )
