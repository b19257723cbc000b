"""What asks a run to stop: SIGTERM and SIGUSR1 of a scheduler, SIGINT of a keyboard."""

import signal
import threading
from types import FrameType

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from rl_lightning.callbacks.checkpoints import EXIT_CODES, Checkpoints
from rl_lightning.callbacks.environment_interaction import environment_data
from rl_lightning.errors import EndedBySignal
from rl_lightning.schedules import Clock

NOBODYS = (signal.SIG_DFL, signal.default_int_handler, None)


class Signals(Callback):
    """Ends the process on SIGTERM and SIGUSR1 with code 143, on SIGINT with 130, with a checkpoint where one is due.

    While training with `Checkpoints` a signal is only noted, in the clock: `Checkpoints` saves and ends the process at
    the next safe point. A second SIGINT ends it at once, as any of them does where nothing is to be saved. Lightning
    puts the former handlers back when its run ends. A handler of the user's for SIGUSR1 or SIGINT stays, and so does
    Lightning's requeueing of SLURM jobs.
    """

    def __init__(self) -> None:
        self._clock: Clock | None = None  # where to note a signal

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, before replay takes its random steps: this callback stands before `EnvironmentInteraction`."""
        self._listen(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, unless this is part of training."""
        if trainer.state.fn == "validate":
            self._listen(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._listen(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._listen(trainer)

    def _listen(self, trainer: Trainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may
        saves = any(isinstance(callback, Checkpoints) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        self._clock = environment_data(trainer).clock if saves and trainer.state.fn == "fit" else None
        self._launcher = trainer.strategy.launcher
        taken = {number for number in (signal.SIGUSR1, signal.SIGINT) if self._is_somebodys(number)}
        if signal.SIGUSR1 in taken and SLURMEnvironment.detect():
            taken.add(signal.SIGTERM)  # which comes when the job has been requeued
        for number in EXIT_CODES.keys() - taken:
            signal.signal(number, self._handle)

    def _is_somebodys(self, number: int) -> bool:
        handler = signal.getsignal(number)
        return handler not in NOBODYS and getattr(handler, "__func__", None) is not Signals._handle

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self._clock is not None and self._clock.interrupted == number == signal.SIGINT
        if self._clock is None or again:
            raise EndedBySignal(EXIT_CODES[signal.Signals(number)])
        if self._launcher is not None and not self._clock.interrupted:  # the other processes of this run
            self._launcher.kill(signal.Signals(number))
        self._clock.interrupted = number
