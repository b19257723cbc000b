"""Settings of a trainer, a logger, a callback and a module that they do not show."""

from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger


def hidden_settings(trainer: Trainer) -> dict[str, bool]:
    """By the names that `Trainer` takes them by."""
    connector = trainer._accelerator_connector
    return {
        "detect_anomaly": trainer._detect_anomaly,
        "sync_batchnorm": connector._layer_sync is not None,
        "use_distributed_sampler": connector.use_distributed_sampler,
    }


def settings_of_wandb(logger: WandbLogger) -> dict[str, Any]:
    """What a logger will give to `wandb.init`; changes count until its run has begun."""
    return logger._wandb_init


def train_time_interval_of(callback: ModelCheckpoint) -> timedelta | None:
    """From one checkpoint to the next, where it saves by time."""
    return callback._train_time_interval


def is_compiled(module: LightningModule) -> bool:
    """Whether it was given to the trainer as `torch.compile` returns it."""
    return module._compiler_ctx is not None
