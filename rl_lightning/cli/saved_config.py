"""`config.yaml` in a run's folder: the settings that the run has, and those that it had."""

import itertools
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from rl_lightning.callbacks.run_folder import write_whole


class SaveRunConfig(SaveConfigCallback):
    """Saves the resolved `config.yaml` in the run folder, and shows W&B the same settings.

    Where a run goes on with other settings, those it had are kept as `config-ENV_STEPS.yaml`, of the time when they
    changed.

    Args:
        parser: that the settings came from.
        config: the settings.
        env_steps: behind the run already.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, env_steps: int = 0) -> None:
        super().__init__(parser, config)
        self.env_steps = env_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save it where there is a run folder: looking at a checkpoint makes none."""
        if not trainer.loggers or self.already_saved:
            return
        log_dir = trainer.log_dir  # asked of the first process by all
        if trainer.is_global_zero and log_dir is not None:
            path = Path(log_dir) / self.config_filename
            text = self.parser.dump(self.config, skip_unset=False)
            if path.is_file() and yaml.safe_load(path.read_text()) != yaml.safe_load(text):
                write_whole(_free(path.with_stem(f"{path.stem}-{self.env_steps}")), path.read_text())
            write_whole(path, text)
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show W&B the settings that have a value."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                settings = _without_null(yaml.safe_load(self.parser.dump(self.config, skip_unset=False)))
                logger.experiment.config.update(settings, allow_val_change=True)  # where a run goes on with others


def _without_null(settings: Any) -> Any:
    """The same without keys that hold null."""
    if isinstance(settings, list):
        return [_without_null(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    return {key: _without_null(value) for key, value in settings.items() if value is not None}


def _free(path: Path) -> Path:
    """The path, or with a number behind it if there is such a file already."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], numbered) if not name.exists())
