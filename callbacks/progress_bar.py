"""One progress bar for the whole run, in environment steps."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm

from rl_lightning.data import EnvironmentDataModule
from rl_lightning.fast import switch

LAYOUTS = (  # from the widest; one is taken if it leaves the bar LEAST columns
    "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]",
    "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]",
    "{desc} {percentage:3.0f}% |{bar}| [{remaining} left{postfix}]",
    "{desc} {percentage:3.0f}% [{remaining} left{postfix}]",
    "{percentage:3.0f}%{postfix}",
)
LEAST = 5


class EnvStepsProgressBar(ProgressBar):
    """Environment steps done and in total, steps per second, time left, latest training and evaluation return.

    A narrow terminal shows less of it; the latest returns go last. Evaluation outside of training shows the episodes
    played. While gradients compile, which takes seconds, the bar says so.

    Args:
        refresh_seconds: at least so long between two drawings.
    """

    def __init__(self, refresh_seconds: float = 0.5) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self._enabled = True
        self._bar: _Bar | None = None

    def disable(self) -> None:
        """Draw nothing (Lightning does this on all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: EnvironmentDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self._clock = data.clock
        self._open("Training", "env step", data.clock.total, data.clock.env_steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._advance_to(self._clock.env_steps)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.fit_loop.total_batch_idx + 1) % every == 0:  # rows count those of all epochs
            self._show_returns(trainer)

    def on_first_gradients(
        self, trainer: Trainer, pl_module: LightningModule, gradients: Callable[..., Any], batch: tuple[Any, ...]
    ) -> None:
        """Called by learners before a function of gradients is called for the first time, which compiles it."""
        if self._bar is not None and pl_module.compile_gradients and switch.is_on():
            self._bar.set_description_str("Compiling gradients")

    def on_first_gradients_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called by learners after it."""
        if self._bar is not None:
            self._bar.set_description_str("Training", refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._advance_to(self._clock.env_steps)
        self._show_returns(trainer)
        self._close()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._show_returns(trainer)
        else:
            self._close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._open("Validating", "episode", trainer.datamodule.eval_episodes)  # type: ignore[attr-defined]

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        if trainer.state.fn == "validate":
            self._advance_by(len(batch))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open("Testing", "episode", trainer.datamodule.test_episodes)  # type: ignore[attr-defined]

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        self._advance_by(len(batch))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open("Recording", "episode", trainer.datamodule.eval_episodes)  # type: ignore[attr-defined]

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        self._advance_by(len(batch))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _open(self, what: str, unit: str, total: int, done: int = 0) -> None:
        if self._enabled:
            self._bar = _Bar(
                desc=what,
                total=total,
                initial=done,
                unit=f" {unit}s",
                mininterval=self.refresh_seconds if sys.stdout.isatty() else 60.0,  # a log file keeps every drawing
                dynamic_ncols=True,
                file=sys.stdout,
            )

    def _advance_by(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)

    def _advance_to(self, done: int) -> None:
        if self._bar is not None:
            self._bar.total = max(self._bar.total or done, done)  # the last batch may go beyond the run's length
            self._bar.update(done - self._bar.n)

    def _show_returns(self, trainer: Trainer) -> None:
        if self._bar is not None:
            metrics = {**trainer.callback_metrics}
            shown = {"return": "train/return", "eval": "val/return_mean"}
            self._bar.set_postfix(
                {label: f"{metrics[name].item():.1f}" for label, name in shown.items() if name in metrics},
                refresh=False,
            )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Bar(tqdm):  # type: ignore[type-arg]
    """tqdm's, in the widest layout that its terminal has room for at each drawing."""

    drawn_columns: int | None = None

    @property
    def format_dict(self) -> Any:
        shown = super().format_dict
        fitting = [layout for layout in LAYOUTS if self._fits(layout, shown)]
        return {**shown, "bar_format": next(iter(fitting), LAYOUTS[-1])}

    def _fits(self, layout: str, shown: Mapping[str, Any]) -> bool:
        if not isinstance(shown["ncols"], int):  # a file, a notebook
            return True
        without_bar = self.format_meter(**{**shown, "ncols": None, "bar_format": layout.replace("{bar}", "")})
        return len(without_bar) + LEAST * ("{bar}" in layout) <= shown["ncols"]

    def display(self, *args: Any, **kwargs: Any) -> Any:
        columns = self.format_dict["ncols"]
        if self.drawn_columns not in (None, columns):  # blanks over the rest of a longer line would break into the next
            self.sp = self.status_printer(self.fp)
            self.fp.write("\r\x1b[K")  # so the terminal erases it
        self.drawn_columns = columns
        return super().display(*args, **kwargs)
