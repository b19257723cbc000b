"""A callback that kills its process, for runs in processes of their own."""

import os
import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class KillAt(Callback):
    """Kills its process at the end of a training batch, or as the final test begins."""

    def __init__(self, env_steps: int, in_test: bool = False) -> None:
        self.env_steps, self.in_test = env_steps, in_test

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if pl_module.env_steps >= self.env_steps and not self.in_test:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.in_test:
            os.kill(os.getpid(), signal.SIGKILL)
