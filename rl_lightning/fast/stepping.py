"""A gradient step with less around it than torch and Lightning put there."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from rl_lightning.fast import switch


def step_of(optimizer: LightningOptimizer, module: LightningModule, trainer: Trainer) -> Callable[[], Any]:
    """The optimizer's `step`, past Lightning's strategy where it would do no more than call it.

    Lightning asks every callback for `on_before_optimizer_step`, which takes longer than a small network's step. Where
    no callback and no learner has that hook, nobody would be asked. Of several processes the gradients are their mean.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    hook = "on_before_optimizer_step"
    asked = is_overridden(hook, module) or any(is_overridden(hook, callback, Callback) for callback in callbacks)
    if asked or not _only_steps(trainer.strategy) or not switch.is_on():
        return optimizer.step
    step = optimizer.optimizer.step  # as schedulers have wrapped it

    def counted() -> None:
        optimizer._on_before_step()  # Lightning's count, trainer.global_step, and its profiler
        step()
        optimizer._on_after_step()

    return counted


def _only_steps(strategy: Strategy) -> bool:
    """Whether a strategy does nothing but step the optimizer, as long as nobody has the hook."""
    if type(strategy) is DDPStrategy:
        return strategy._model_averager is None
    return type(strategy) is SingleDeviceStrategy


def has_bf16_arithmetic() -> bool:
    """Whether this machine's processor multiplies bf16 by itself, instead of in many steps."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
