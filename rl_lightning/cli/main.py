"""The command line: LightningCLI with every space linked from data to model, and a folder of its own for every run."""

import inspect
import logging
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import wandb
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from rl_lightning import Algorithm  # and with it every learner, to be listed and known by its name
from rl_lightning.algorithms.shared.precision import check_precision
from rl_lightning.algorithms.shared.trainer_settings import check_trainer
from rl_lightning.callbacks import Checkpoints, EnvStepsProgressBar, MetricsCSV, VideoRecorder
from rl_lightning.callbacks.model_summary import NetworkSummary
from rl_lightning.checkpoints import check_networks, check_resumable, local_file
from rl_lightning.cli.changes import Change, changes, check_changes
from rl_lightning.cli.environment_variables import check_environment_variables
from rl_lightning.cli.export import export
from rl_lightning.cli.help.completion import completion
from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.light import answered
from rl_lightning.cli.loggers import keep_inside
from rl_lightning.cli.parser import OneLineErrorParser, config_files_first
from rl_lightning.cli.report import report
from rl_lightning.cli.run_file import note_start
from rl_lightning.cli.run_report.command import write_report
from rl_lightning.cli.runs import Run, find_checkpoint, make, new_folder, note, resumed
from rl_lightning.cli.saved_config import SaveRunConfig
from rl_lightning.cli.several.compare.command import compare
from rl_lightning.cli.several.group import Checked
from rl_lightning.cli.several.seeds import asked_in, train_seeds
from rl_lightning.cli.several.tune.command import tune
from rl_lightning.cli.starting import start_from, start_of_run
from rl_lightning.cli.wandb_runs import name_run, prepare_wandb
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.processes import lost_a_process
from rl_lightning.data.replay.datamodule import ReplayDataModule
from rl_lightning.data.rollout_replay import RolloutReplayDataModule
from rl_lightning.errors import Divergence, EnvironmentFault, UsageError, require

DEFAULTS = {
    "trainer.default_root_dir": "runs",
    "trainer.max_epochs": -1,  # the run ends by data.total_env_steps
    "trainer.num_sanity_val_steps": 0,
    "trainer.logger": {"class_path": "rl_lightning.callbacks.WandbRun"},
}

VIDEO = "--trainer.callbacks+=rl_lightning.callbacks.VideoRecorder"  # what predict --video stands for
USAGE = "rl-lightning {} -c CONFIG [--KEY=VALUE ...]"
WHOLE = (
    "{} This is every setting; `rl-lightning {} --help` is the short help. Sections near the end name the settings of "
    "each algorithm and datamodule; --model.help=SAC and --data.help=ReplayDataModule say what they mean."
)
TRAINING = ("fit", "validate", "test", "predict")  # the subcommands of LightningCLI


class RLCLI(LightningCLI):
    """`rl-lightning fit|validate|test|predict`; see `rl-lightning fit --help`.

    What can be refused is refused before the run folder exists. `fit` ends with an evaluation of the final policy and
    the commands that go on from there; `predict` saves the episodes it records.

    Args:
        args: the command line without the program's name.
        only_checks: refuse what would be refused, create nothing and run nothing.
    """

    def __init__(self, args: Sequence[str], only_checks: bool = False) -> None:
        self.given, self.only_checks = args, only_checks
        self.run_dir: Path | None = None
        self.resumes: Run | None = None  # the run that goes on in its own folder
        self.is_finished = False  # whether all of its environment steps are behind it
        super().__init__(
            Algorithm,
            LightningDataModule,
            save_config_callback=SaveRunConfig,
            parser_class=OneLineErrorParser,
            parser_kwargs={
                "description": "Reinforcement learning under PyTorch Lightning.",
                "parser_mode": "omegaconf",
                "allow_abbrev": False,
                **{
                    name: {"description": WHOLE.format(SUBCOMMANDS[name], name), "usage": USAGE.format(name)}
                    for name in TRAINING
                },
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=[*args],
        )

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Add the subcommands that are not LightningCLI's, so that it knows their names."""
        super().setup_parser(*args, **kwargs)
        assert self.parser._subcommands_action is not None
        for name, text in SUBCOMMANDS.items():
            if name not in TRAINING:
                self.parser._subcommands_action.add_subcommand(name, OneLineErrorParser(), help=text)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse with flags over config files, wherever on the line they stand; --model.init_from is --init_from too."""
        given = ["--help" if arg == "--help=all" else arg for arg in args]
        own = ("init_from", "init_parts")
        given = [f"--{flag}" if (flag := arg.removeprefix("--model.")).startswith(own) else arg for arg in given]
        if given[:1] == ["predict"]:
            given = [VIDEO if arg == "--video" else arg for arg in given]
        if given[:1] == ["resume"]:
            self.resumes, given = resumed(given)
        if given[:1] == ["completion"]:
            print(completion(given[1:], parser))
            parser.exit()
        self.config = parser.parse_args(config_files_first(given))
        seed = self.config[self.config.subcommand].seed_everything
        advice = "give an int from 0 to 2**32 - 1, or true for any"
        require(isinstance(seed, bool) or 0 <= seed < 2**32, "seed_everything", seed, advice)
        if self.only_checks:  # as they were given, before they are told of a folder
            self.settings: dict[str, Any] = yaml.safe_load(parser.dump(self.config, skip_unset=False))["fit"]
        # taken out until Lightning has looked for it: what a checkpoint remembers would override flags
        self.ckpt_path = self.config[self.config.subcommand].pop("ckpt_path")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's own, but for `weights_only`: checkpoints are never read any other way."""
        return {name: skipped | {"weights_only"} for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoint's settings, our defaults, and the links from data to model."""
        # LightningCLI would add its own also with trainer.enable_checkpointing=false
        parser.add_class_arguments(Checkpoints, "checkpoint", fail_untyped=False, sub_configs=True)
        parser.set_defaults(DEFAULTS)
        parser.add_argument(
            "--init_from",
            type=str | None,
            help="A run folder or checkpoint (file or URL) whose networks to start from, with everything else fresh.",
        )
        parser.add_argument(
            "--init_parts",
            type=list[str] | None,
            help="Which of its networks to take, e.g. [policy,normalizers], also of another algorithm; by default all.",
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
        check_precision(config.trainer.precision)
        advice = "rows and checkpoints are kept of a run from the command line; leave it out"
        require(not config.trainer.barebones, "trainer.barebones", True, advice)
        self.checkpoint: str | None = None  # the file to start from
        if self.ckpt_path is not None and not self.resumes:
            self.ckpt_path = find_checkpoint(self.ckpt_path, [str(path) for path in config.config or ()])
            self.checkpoint = str(local_file(self.ckpt_path))
            config.init_from = config.init_parts = None  # the checkpoint holds all that they gave
        advice = "give init_from, whose parts they are, or leave it out"
        require(config.init_parts is None or config.init_from is not None, "init_parts", config.init_parts, advice)
        config.ckpt_path = self.ckpt_path  # for config.yaml
        if self.subcommand != "fit" and self.ckpt_path is None and config.init_from is None:
            raise UsageError(
                f"ckpt_path is missing: `{self.subcommand}` would evaluate random networks; give --ckpt_path=FILE, "
                "like a run's checkpoints/best.ckpt"
            )
        if self.resumes:
            self.run_dir = self.resumes.folder
        elif self.subcommand in ("fit", "predict") and not config.trainer.fast_dev_run:
            self.run_dir = new_folder(config)
        if self.subcommand != "fit" or self.run_dir is None:
            config.trainer.logger = False  # looking at a checkpoint leaves no logs behind
        for logger in _as_list(config.trainer.logger):
            assert self.run_dir is not None
            prepare_wandb(logger, self.run_dir, is_new=self.resumes is None)
            keep_inside(logger, self.run_dir)

    def instantiate_trainer(self, **overrides: Any) -> Trainer:
        """Check the checkpoint against the model; only then make the run folder, and the trainer."""
        assert self.subcommand is not None
        config = self.config_init[self.subcommand]
        self.model.check_data(self.datamodule)
        if self.subcommand == "fit":
            self.datamodule.check_memory()
        metrics_csv = MetricsCSV(self.run_dir) if self.run_dir is not None and self.subcommand == "fit" else None
        if self.resumes and metrics_csv:
            metrics_csv.open()  # before anything in it is read
        try:
            self._check_start(metrics_csv)
            config.ckpt_path = self.checkpoint
            for logger in _as_list(config.trainer.logger):
                if isinstance(logger, WandbLogger) and self.run_dir is not None:
                    name_run(logger, self.run_dir, self.config[self.subcommand])
            callbacks = _as_list(config.trainer.callbacks)
            for callback in callbacks:
                if isinstance(callback, VideoRecorder) and callback.dirpath is None and self.run_dir is not None:
                    callback.dirpath = str(self.run_dir / "videos")
            if config.trainer.enable_progress_bar is not False and not any(
                isinstance(c, ProgressBar) for c in callbacks
            ):
                callbacks = [*callbacks, EnvStepsProgressBar()]
            if config.trainer.enable_model_summary is not False and not any(
                isinstance(c, ModelSummary) for c in callbacks
            ):
                callbacks = [*callbacks, NetworkSummary()]
                overrides["enable_model_summary"] = False  # Lightning's own
            if config.trainer.enable_checkpointing is not False:
                callbacks = [*callbacks, config.checkpoint]
            overrides["callbacks"] = callbacks
            if metrics_csv:
                overrides["logger"] = [metrics_csv, *_as_list(config.trainer.logger)]  # the first gives the log_dir
            trainer = self._make_trainer(overrides)
        except BaseException:
            if metrics_csv:
                metrics_csv.finalize("failed")
            raise
        check_trainer(trainer, self.subcommand, self.model, self.datamodule)
        if self.subcommand == "predict":
            require(trainer.world_size == 1, "trainer.devices", trainer.num_devices, "one process records; give 1")
        if self.only_checks and metrics_csv:
            metrics_csv.finalize("checked")
        elif self.run_dir is not None and getattr(rank_zero_only, "rank", 0) == 0:
            make(self.run_dir)
            if metrics_csv:
                metrics_csv.open()
            note_start(self.run_dir, self.given)
        return trainer

    def _make_trainer(self, overrides: dict[str, Any]) -> Trainer:
        try:
            return super().instantiate_trainer(**overrides)
        except (ValueError, TypeError) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error

    def _check_start(self, metrics_csv: MetricsCSV | None) -> None:
        """Refuse what the run cannot start from, which the trainer would fail on later; end where nothing is left."""
        assert self.subcommand is not None
        config = self.config_init[self.subcommand]
        start = None
        if self.resumes:
            start = start_of_run(self.resumes, self.model)
        elif self.checkpoint is not None:
            start = start_from(self.checkpoint, self.model)
        elif config.init_from is not None:
            self.model.load_weights(config.init_from, config.init_parts)
        if start is None:
            return
        self.checkpoint = start.path
        changed = self._changes_since(start.run) if start.run and self.subcommand == "fit" else {}
        causes = [f"{key}={new} (was {old})" for key, (old, new) in changed.items() if key.startswith("model.")]
        check_networks(start.checkpoint["state_dict"], self.model.state_dict(), start.path, causes)
        if self.subcommand == "fit":
            check_resumable(start.checkpoint, start.path)
            has_buffer = "buffer" in start.checkpoint.get("ReplayDataModule", {})
            if has_buffer:
                self.datamodule.buffer_from = None  # the checkpoint holds what that gave
            self.save_config_kwargs = {"env_steps": start.env_steps}
            total = getattr(self.datamodule, "total_env_steps", math.inf)
            self.is_finished = start.is_finished(total, metrics_csv if self.resumes else None)
            if not self.is_finished:
                self.model.check_learns_on(start.checkpoint, total)
                if isinstance(self.datamodule, ReplayDataModule) and not (has_buffer or self.datamodule.buffer_from):
                    self.datamodule.check_random_steps(start.env_steps)
            if line := check_changes(changed):
                note(line)

    def _changes_since(self, run: Run) -> dict[str, Change]:
        """Settings that are others than in the run's `config.yaml`."""
        its = self.parser.parse_args(["fit", "-c", str(run.config)])["fit"]
        return changes(its, self.config["fit"])

    # Running

    # Checkpoints are data: without `weights_only` Lightning reads one from a URL as a pickle, which can run code

    def fit(self, **arguments: Any) -> None:
        """Train, unless only the final test is left."""
        if not (self.is_finished or self.only_checks):
            self.trainer.fit(**arguments, weights_only=True)

    def validate(self, **arguments: Any) -> None:
        """Evaluate on `data.eval_episodes` episodes."""
        self.trainer.validate(**arguments, weights_only=True)

    def test(self, **arguments: Any) -> None:
        """Evaluate on `data.test_episodes` episodes."""
        self.trainer.test(**arguments, weights_only=True)

    def after_fit(self) -> None:
        """Evaluate the final policy; say what was reached, where it lies, and how to go on from there."""
        if self.run_dir is None or self.only_checks:
            return
        path, result = self.checkpoint if self.is_finished else None, None
        if self.trainer.limit_test_batches:
            [result] = self.trainer.test(self.model, self.datamodule, ckpt_path=path, verbose=False, weights_only=True)
        if self.trainer.is_global_zero:
            print(report(self.run_dir, self.trainer, self.model.env_steps, result))

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


def _as_list(value: Any) -> list[Any]:
    """Lightning's settings that take one item, several, or none (False and True included)."""
    if isinstance(value, list):
        return value
    return [] if value in (None, False, True) else [value]


def check(args: Sequence[str]) -> Checked:
    """Refuse what `rl-lightning` with `args`, of `fit` or `resume`, would refuse; create nothing, run nothing.

    Raises:
        UsageError: naming it.
        SystemExit: what the parser refuses, of which it has printed a line.
    """
    logging.disable(logging.INFO)  # on the seed and the processors: nothing is run
    try:
        checked = RLCLI(args, only_checks=True)
    finally:
        logging.disable(logging.NOTSET)
    return Checked(checked.run_dir, checked.settings, getattr(checked.datamodule, "total_env_steps", math.inf))


def main(args: list[str] | None = None) -> None:
    """The program `rl-lightning`: errors that are the user's to mend end it with one line and exit code 1."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # by design: every run has its own folder
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda line: "💡 Tip" not in line.getMessage())
    sys.path.insert(0, os.getcwd())  # class_path and env_id may name the user's own modules
    given = sys.argv[1:] if args is None else args
    try:
        if answered(given):
            return
        check_environment_variables(os.environ)
        if given[:1] == ["export"]:
            export(given[1:])
        elif given[:1] == ["report"]:
            write_report(given[1:])
        elif given[:1] == ["compare"]:
            compare(given[1:])
        elif given[:1] == ["tune"]:
            tune(given[1:], check)
        elif asked := asked_in(given):
            train_seeds(asked, check)
        else:
            RLCLI(given)
    except (UsageError, EnvironmentFault, Divergence, MisconfigurationException) as error:
        wandb.finish(exit_code=1)
        sys.exit(f"error: {' '.join(str(error).split())}")
    except RuntimeError as error:
        if not lost_a_process(error):
            raise
        wandb.finish(exit_code=1)
        sys.exit("error: another process of this run has ended, so this one does too: what it printed says why")
    except SystemExit as stop:  # a signal, or a mistake in the command line
        wandb.finish(exit_code=stop.code if isinstance(stop.code, int) else 1)
        raise
    except KeyboardInterrupt:  # before or after training
        sys.exit(130)
    wandb.finish()  # the next run in this process, if there is one, is a W&B run of its own


if __name__ == "__main__":
    main()
