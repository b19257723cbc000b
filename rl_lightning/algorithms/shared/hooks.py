"""The hooks of callbacks that learners call beside Lightning's own."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer


class Hooks:
    """Calls a hook of each callback that has it; looked up once, since gradient steps are short.

    Args:
        trainer: whose callbacks; None has none.
        learner: that calls.
    """

    def __init__(self, trainer: Trainer | None = None, learner: LightningModule | None = None) -> None:
        self._trainer, self._learner = trainer, learner
        self._found: dict[str, list[Callable[..., None]]] = {}

    def call(self, name: str, *arguments: Any) -> None:
        """Call the hook of this name with trainer, learner and these arguments."""
        if name not in self._found:
            callbacks = self._trainer.callbacks if self._trainer else []  # type: ignore[attr-defined]
            self._found[name] = [getattr(callback, name) for callback in callbacks if hasattr(callback, name)]
        for hook in self._found[name]:
            hook(self._trainer, self._learner, *arguments)
