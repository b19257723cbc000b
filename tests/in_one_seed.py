"""Callbacks that do something in the run of one seed alone, for runs in processes of their own."""

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Raises(Callback):
    """Raises an error as training begins."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if os.environ["PL_GLOBAL_SEED"] == str(self.seed):
            raise RuntimeError("no luck\nat all")


class WaitsForSignal(Callback):
    """Makes a file and waits for a signal, at so many environment steps; not where the file is there already."""

    def __init__(self, seed: int, env_steps: int, file: str) -> None:
        self.seed, self.env_steps, self.file = seed, env_steps, Path(file)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        clock = trainer.datamodule.clock  # type: ignore[attr-defined]
        is_due = os.environ["PL_GLOBAL_SEED"] == str(self.seed) and clock.env_steps >= self.env_steps
        if is_due and not self.file.exists():
            self.file.touch()
            while not clock.interrupted:
                time.sleep(0.01)
