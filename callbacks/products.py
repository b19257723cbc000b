"""The library that multiplies a run's matrices on the CPU: chosen at its first gradient step, put back at its end."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from rl_lightning.fast import products

KEY = "products"  # in a checkpoint
NAMES = {products.TORCH: "torch's own", products.ONEDNN: "oneDNN's"}


class Products(Callback):
    """Takes `rl_lightning.fast.products`' fastest library for a run's own products, where there is a choice.

    One line says so if that is another than torch's own. All processes take the first one's choice. A checkpoint has
    it, and a run that goes on from that takes it without measuring; where it cannot, one line says so.

    Attributes:
        chosen: `torch` or `onednn`; None before the first gradient step, unless nothing is to be measured.
    """

    def __init__(self) -> None:
        self.chosen: str | None = None
        self._recorded: str | None = None
        self._held = ExitStack()
        self._measures = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A run has chosen nothing, unless a checkpoint is restored after this."""
        self.chosen = self._recorded = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what is not to be measured."""
        why = why_torch(trainer)
        name = trainer.strategy.broadcast(products.given(self._recorded, why))
        self._measures = name is None
        if name is None:
            return
        if self._recorded not in (None, name):
            because = why or f"{products.VARIABLE}={products.asked()}"
            rank_zero_info(
                f"Products: {NAMES[name]}, {NAMES[self._recorded]} in the checkpoint ({because}): "
                "the run goes on, not to the last bit"
            )
        self._take(trainer, name)

    def on_first_gradients(
        self, trainer: Trainer, pl_module: LightningModule, gradients: Callable[..., Any], batch: tuple[Any, ...]
    ) -> None:
        """Called by learners before a function of gradients is called for the first time; the first of all decides."""
        if not self._measures:
            return
        self._measures = False
        counts = products.products_of(gradients, batch, pl_module.buffers())
        measured = {product: products.measure(product, products.WAYS) for product in counts}
        name, times = trainer.strategy.broadcast(products.fastest(counts, measured))
        if name != products.TORCH:
            rank_zero_info(f"Products: {NAMES[name]}, {times:.1f} times as fast as torch's own on this run's shapes")
        self._take(trainer, name)

    def _take(self, trainer: Trainer, name: str) -> None:
        self.chosen = name
        can = name == products.TORCH or why_torch(trainer) is None  # processes may have different processors
        self._held.enter_context(products.WAYS[name if can else products.TORCH]())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams({KEY: name})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put back what torch takes."""
        self._put_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put back what torch takes; Lightning does not tear down after an error."""
        self._put_back()

    def _put_back(self) -> None:
        self._measures = False
        self._held.close()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the choice."""
        checkpoint[KEY] = self.chosen

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the choice; before there was one, all products were torch's own."""
        self._recorded = checkpoint.get(KEY, products.TORCH)


def why_torch(trainer: Trainer) -> str | None:
    """`rl_lightning.fast.products.why_torch` of a trainer."""
    return products.why_torch(isinstance(trainer.accelerator, CPUAccelerator), trainer.precision)
