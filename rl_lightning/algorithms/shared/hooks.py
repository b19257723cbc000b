"""The hooks that learners call of callbacks beside Lightning's own, and those of Lightning that they take part in."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer

TAKES_PART_IN = (  # Lightning's own do nothing, and are overridden without a thought of them
    "setup",
    "configure_callbacks",
    "configure_optimizers",
    "on_fit_start",
    "on_train_start",
    "training_step",
    "on_train_end",
    "on_validation_start",
    "on_validation_epoch_end",
    "on_test_epoch_end",
    "on_save_checkpoint",
    "on_load_checkpoint",
)


class Hooks:
    """Calls a hook of each callback that has it; looked up once, since gradient steps are short.

    Args:
        trainer: whose callbacks; None has none.
        learner: that calls.
    """

    def __init__(self, trainer: Trainer | None = None, learner: LightningModule | None = None) -> None:
        self._trainer, self._learner = trainer, learner
        self._found: dict[str, list[Callable[..., None]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of the run: a copy of a learner would have copies of its trainer, environments and replay."""
        return Hooks().__dict__

    def call(self, name: str, *arguments: Any) -> None:
        """Call the hook of this name with trainer, learner and these arguments."""
        if name not in self._found:
            callbacks = self._trainer.callbacks if self._trainer else []  # type: ignore[attr-defined]
            self._found[name] = [getattr(callback, name) for callback in callbacks if hasattr(callback, name)]
        for hook in self._found[name]:
            hook(self._trainer, self._learner, *arguments)
