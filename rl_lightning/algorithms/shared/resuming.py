"""How a learner and its run go on from a checkpoint."""

from collections.abc import Mapping

from lightning.pytorch import Trainer
from torch import Tensor

from rl_lightning.algorithms.shared.optimizers import Optimizers
from rl_lightning.callbacks.metrics_csv import metrics_csv_of
from rl_lightning.callbacks.monitors import keep_patience
from rl_lightning.checkpoints import KEY, check_networks, check_resumable, check_signature
from rl_lightning.data.replay.saved import replay_in
from rl_lightning.schedules import Clock
from rl_lightning.types import State


def check_fits(checkpoint: State, expected: dict[str, str], own: Mapping[str, Tensor], trainer: Trainer | None) -> None:
    """Refuse a checkpoint of another learner, of other spaces or networks.

    Args:
        checkpoint: to be loaded.
        expected: the learner's `signature`.
        own: the learner's tensors by name.
        trainer: that loads it, if one does.

    Raises:
        UsageError: naming all that differs, or the first tensor that does.
    """
    check_signature(checkpoint.get(KEY, {}), expected, "to load")
    check_networks(checkpoint["state_dict"], own, str(trainer.ckpt_path) if trainer else "to load")


def go_on(checkpoint: State, trainer: Trainer, clock: Clock, optimizers: Optimizers, alone: bool) -> None:
    """Go on where a checkpoint was saved, with the settings of the run at hand; evaluation needs its clock alone.

    Args:
        checkpoint: to be restored by Lightning; changed in place.
        trainer: of the run.
        clock: of the run.
        optimizers: of the learner.
        alone: whether nothing but them moves networks.

    Raises:
        UsageError: in training, a checkpoint without optimizers, one whose schedules have ended, or rows of another run
            in the folder.
    """
    clock.env_steps = checkpoint[KEY]["env_steps"]
    keep_patience(trainer, checkpoint)
    if trainer.state.fn == "fit":
        check_resumable(checkpoint, str(trainer.ckpt_path))
        optimizers.go_on(checkpoint, clock, alone)
        if replay := replay_in(checkpoint):  # a class of another name would be given none
            checkpoint[type(trainer.datamodule).__qualname__] = replay  # type: ignore[attr-defined]
        if (logger := metrics_csv_of(trainer)) and (logged := checkpoint[KEY].get("logged")):
            logger.load_state_dict(logged)
