"""The hooks that learners call of callbacks beside Lightning's own, and those of Lightning that they take part in."""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from rl_lightning.errors import UsageError

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


def check_overrides(learner: type, base: type) -> None:
    """Refuse a learner that overrides what its base does in a hook, and does not call it.

    Args:
        learner: the class of a learner.
        base: its ancestor, from which on the hooks are ours.

    Raises:
        UsageError: naming the hook.
    """
    kinds = learner.__mro__
    for kind in kinds[: kinds.index(base)]:
        for hook in TAKES_PART_IN:
            code = getattr(unwrap(vars(kind).get(hook)), "__code__", None)  # type: ignore[arg-type]
            if code is not None and hook not in code.co_names:
                raise UsageError(
                    f"{kind.__name__}.{hook} takes the place of what a learner does there: call super().{hook} in it, "
                    "with the same arguments"
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
