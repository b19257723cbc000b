"""The command line: LightningCLI with every space linked from data to model, and a folder of its own for every run."""

import inspect
import logging
import math
import netrc
import os
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

import torch
import wandb
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from rl_lightning.algorithms.base import Algorithm
from rl_lightning.algorithms.precision import check_precision
from rl_lightning.callbacks import EnvStepsProgressBar
from rl_lightning.checkpoints import KEY, check_resumable, load_checkpoint, local_file, signature
from rl_lightning.cli.parser import OneLineErrorParser, config_files_first
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.rollout_replay import RolloutReplayDataModule
from rl_lightning.errors import EnvironmentFault, UsageError, require

DEFAULTS = {
    "checkpoint.monitor": "val/return_mean",
    "checkpoint.mode": "max",
    "checkpoint.filename": "best",
    "trainer.default_root_dir": "runs",
    "trainer.max_epochs": -1,  # the run ends by data.total_env_steps
    "trainer.num_sanity_val_steps": 0,
    "trainer.logger": {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"offline": True, "project": "rl_lightning"},
    },
}

USAGE = "rl-lightning {} -c CONFIG [--KEY=VALUE ...]"
SETTINGS = (
    " Every key of the config is a flag too, and flags win over files. Sections near the end name the settings of each "
    "algorithm and datamodule; --model.help SAC and --data.help ReplayDataModule say what they mean."
)
DESCRIPTIONS = {
    "fit": "Train, then evaluate the final policy. Makes a folder for the run, with its config, metrics, checkpoints "
    "and offline W&B run." + SETTINGS,
    "validate": "Evaluate a checkpoint (--ckpt_path) on data.eval_episodes episodes." + SETTINGS,
    "test": "Evaluate a checkpoint (--ckpt_path) on data.test_episodes episodes." + SETTINGS,
    "predict": "Record data.eval_episodes episodes of a checkpoint (--ckpt_path) into episodes.pt." + SETTINGS,
}


class RLCLI(LightningCLI):
    """`rl-lightning fit|validate|test|predict`; see `rl-lightning fit --help`.

    What can be refused is refused before the run folder exists. `fit` ends with an evaluation of the final policy and
    the commands that go on from there; `predict` saves the episodes it records.

    Args:
        args: the command line without the program's name; by default the process's.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        self.run_dir: Path | None = None
        super().__init__(
            Algorithm,
            LightningDataModule,
            save_config_callback=SaveRunConfig,
            parser_class=OneLineErrorParser,
            parser_kwargs={
                "description": "Reinforcement learning under PyTorch Lightning.",
                "parser_mode": "omegaconf",
                "allow_abbrev": False,
                **{name: {"description": text, "usage": USAGE.format(name)} for name, text in DESCRIPTIONS.items()},
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=args,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse with flags over config files, wherever on the line they stand; --model.init_from is --init_from too."""
        given = sys.argv[1:] if args is None else args
        given = [
            f"--{flag}" if (flag := arg.removeprefix("--model.")).startswith("init_from") else arg for arg in given
        ]
        self.config = parser.parse_args(config_files_first(given))
        # taken out until Lightning has looked for it: what a checkpoint remembers would override flags
        self.ckpt_path = self.config[self.config.subcommand].pop("ckpt_path")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's own, but for `weights_only`: checkpoints are never read any other way."""
        return {name: skipped | {"weights_only"} for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoint's settings, our defaults, and the links from data to model."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(DEFAULTS)
        parser.add_argument(
            "--init_from",
            type=str | None,
            help="A checkpoint (file or URL) whose networks to start from, with everything else fresh.",
        )
        for space in ("observation_space", "action_space"):
            parser.link_arguments(f"data.{space}", f"model.init_args.{space}", apply_on="instantiate")
        learners = sorted(Algorithm.__subclasses__(), key=lambda learner: learner.__name__)
        for learner in learners:
            parser.add_argument_group(f"{learner.__name__}, --model.KEY", _settings_of(learner))
        for data in EnvironmentDataModule.__subclasses__():
            its = ", ".join(learner.__name__ for learner in learners if learner.learns_from is data)
            parser.add_argument_group(f"{data.__name__} (for {its}), --data.KEY", _settings_of(data))
        its = ", ".join(learner.__name__ for learner in learners if learner.takes_critic)
        name = f"{RolloutReplayDataModule.__name__} (for {its} with a critic), --data.KEY"
        parser.add_argument_group(name, _settings_of(RolloutReplayDataModule))

    # Before the run folder exists

    def before_instantiate_classes(self) -> None:
        """Check what needs no objects, and tell the loggers of the folder to come."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        config.ckpt_path = self.ckpt_path
        check_precision(config.trainer.precision)
        if config.ckpt_path is not None:
            config.ckpt_path = str(local_file(config.ckpt_path))
            config.init_from = None  # the checkpoint holds all that it gave
        if self.subcommand in ("fit", "predict") and not config.trainer.fast_dev_run:
            self.run_dir = _new_run_dir(config)
        if self.subcommand != "fit" or self.run_dir is None:
            config.trainer.logger = False  # looking at a checkpoint leaves no logs behind
        for logger in _as_list(config.trainer.logger):
            _check_logger(logger)
            if "save_dir" in logger.init_args:
                # in the run folder, also where the config is another run's
                logger.init_args.save_dir = str(self.run_dir)

    def instantiate_trainer(self, **overrides: Any) -> Trainer:
        """Check the checkpoint against the model; only then make the run folder, and the trainer."""
        assert self.subcommand is not None
        config = self.config_init[self.subcommand]
        self.model.check_data(self.datamodule)
        if self.subcommand == "fit":
            self.datamodule.check_memory()
        if config.ckpt_path is not None:
            self._check_checkpoint(config.ckpt_path)
        if config.init_from is not None:
            self.model.load_weights(config.init_from)
        callbacks = _as_list(config.trainer.callbacks)
        if config.trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks = [*callbacks, EnvStepsProgressBar()]
        # Lightning's save_last saves only together with a new best one: after a long decline it would be an old one
        overrides["callbacks"] = [*callbacks, ModelCheckpoint(filename="last", enable_version_counter=False)]
        csv_logger = CSVLogger(str(self.run_dir), name="", version="")
        if self.run_dir is not None and self.subcommand == "fit":
            overrides["logger"] = [csv_logger, *_as_list(config.trainer.logger)]  # the first gives the log_dir
        try:
            trainer = super().instantiate_trainer(**overrides)
        except (ValueError, TypeError) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error
        if self.subcommand == "predict":
            require(trainer.world_size == 1, "trainer.devices", trainer.num_devices, "one process records; give 1")
        if self.run_dir is not None and getattr(rank_zero_only, "rank", 0) == 0:
            self.run_dir.mkdir(parents=True)
            if self.subcommand == "fit":
                _ = csv_logger.experiment  # opened while the folder is empty, or it warns of old files
        return trainer

    def _check_checkpoint(self, path: str) -> None:
        """Refuse a checkpoint that the trainer would fail on later, with the run folder already made."""
        checkpoint = load_checkpoint(path, signature(self.model, self.model.observation_space, self.model.action_space))
        if self.subcommand != "fit":
            return
        check_resumable(checkpoint, path)
        env_steps = checkpoint[KEY]["env_steps"]
        total = getattr(self.datamodule, "total_env_steps", math.inf)
        require(
            env_steps < total,
            "data.total_env_steps",
            total,
            f"checkpoint {path!r} has {env_steps} environment steps behind it already; give more than that",
        )

    # Running

    # Checkpoints are data: without `weights_only` Lightning reads one from a URL as a pickle, which can run code

    def fit(self, **arguments: Any) -> None:
        """Train."""
        self.trainer.fit(**arguments, weights_only=True)

    def validate(self, **arguments: Any) -> None:
        """Evaluate on `data.eval_episodes` episodes."""
        self.trainer.validate(**arguments, weights_only=True)

    def test(self, **arguments: Any) -> None:
        """Evaluate on `data.test_episodes` episodes."""
        self.trainer.test(**arguments, weights_only=True)

    def after_fit(self) -> None:
        """Evaluate the final policy; say what was reached, where it lies, and how to go on from there."""
        if self.run_dir is None:
            return
        [result] = self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        if self.trainer.is_global_zero:
            print(_report(self.run_dir, self.trainer, result))

    def predict(self, **arguments: Any) -> None:
        """Record episodes and save them as a list of dicts of tensors, where there is a run folder."""
        batches = self.trainer.predict(**arguments, weights_only=True)
        assert batches is not None
        episodes = [episode._asdict() for batch in batches for episode in batch]
        if self.run_dir is None:
            print(f"Recorded {len(episodes)} episodes, saved none: trainer.fast_dev_run leaves nothing behind")
            return
        path = self.run_dir / "episodes.pt"
        torch.save(episodes, path)
        print(f"Recorded {len(episodes)} episodes: {path}\nRead them: torch.load({str(path)!r})")


def _settings_of(owner: type) -> str:
    """Names of the settings of a learner or DataModule; the spaces come from the data."""
    return ", ".join(name for name in inspect.signature(owner).parameters if not name.endswith("_space"))


class SaveRunConfig(SaveConfigCallback):
    """Saves the resolved `config.yaml` in the run folder, and shows W&B the same settings."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save it where there is a run folder: looking at a checkpoint makes none."""
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show W&B the settings."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(yaml.safe_load(self.parser.dump(self.config, skip_none=False)))


def _new_run_dir(config: Namespace) -> Path:
    """A name that no other run has or gets: <root>/<algorithm>-<environment>/<time>-<random>."""
    algorithm = config.model.class_path.rsplit(".", 1)[-1]
    env_id = config.data.init_args.get("env_id", "data").rsplit(":", 1)[-1].replace("/", "-")
    run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Path(config.trainer.default_root_dir) / f"{algorithm}-{env_id}".lower() / run


def _check_logger(logger: Namespace) -> None:
    """Keep W&B from asking for a login, which nobody may be there to answer."""
    if logger.class_path.rsplit(".", 1)[-1] != "WandbLogger":
        return
    if logger.init_args.offline:
        os.environ.setdefault("WANDB_SILENT", "true")  # it would print how to sync; so does the report
    elif os.environ.get("WANDB_MODE", "online") == "online" and not _wandb_credentials():
        raise UsageError(
            "trainer.logger.offline=False is not allowed without W&B credentials: run `wandb login` first or set "
            "WANDB_API_KEY, or leave it offline and `wandb sync` the run later"
        )


def _wandb_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _report(run_dir: Path, trainer: Trainer, result: Mapping[str, float]) -> str:
    """What `fit` prints last."""
    config, metrics = quote(str(run_dir / "config.yaml")), quote(str(run_dir / "metrics.csv"))
    best, last = (quote(str(run_dir / "checkpoints" / name)) for name in ("best.ckpt", "last.ckpt"))
    episodes = trainer.datamodule.test_episodes  # type: ignore[attr-defined]
    total = trainer.datamodule.total_env_steps  # type: ignore[attr-defined]
    lines = [
        f"Return {result['test/return_mean']:.1f} ± {result['test/return_std']:.1f} "
        f"over {episodes} episodes of the final policy, after {int(result['env_steps']):,} environment steps",
        f"Run folder: {run_dir}",
        f"  look      column -s, -t < {metrics} | less -S",
        *(
            f"  W&B       {_program('wandb')} sync {quote(str(path))}"
            for path in sorted(run_dir.glob("wandb/offline-run-*"))
        ),
        f"  resume    {_program('rl-lightning')} fit -c {config} --ckpt_path={last} --data.total_env_steps={2 * total}",
        f"  evaluate  {_program('rl-lightning')} test -c {config} --ckpt_path={best}",
    ]
    return "\n".join(lines)


def _program(name: str) -> str:
    """How to call a program installed beside this one: by name where that finds it, else by its path."""
    installed = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == installed.resolve():
        return name
    return quote(os.path.relpath(installed) if installed.is_relative_to(Path.cwd()) else str(installed))


def _as_list(value: Any) -> list[Any]:
    """Lightning's settings that take one item, several, or none (False and True included)."""
    if isinstance(value, list):
        return value
    return [] if value in (None, False, True) else [value]


def main(args: list[str] | None = None) -> None:
    """The program `rl-lightning`: errors that are the user's to mend end it with one line and exit code 1."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # by design: every run has its own folder
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda line: "💡 Tip" not in line.getMessage())
    sys.path.insert(0, os.getcwd())  # class_path and env_id may name the user's own modules
    try:
        RLCLI(args)
    except (UsageError, EnvironmentFault, MisconfigurationException) as error:
        wandb.finish(exit_code=1)
        sys.exit(f"error: {' '.join(str(error).split())}")
    wandb.finish()  # the next run in this process, if there is one, is a W&B run of its own


if __name__ == "__main__":
    main()
