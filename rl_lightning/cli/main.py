"""The command line: LightningCLI with every space linked from data to model, and a folder of its own for every run."""

import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import wandb
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from rl_lightning import Algorithm  # and with it every learner, to be listed and known by its name
from rl_lightning.algorithms.shared.precision import check_precision
from rl_lightning.algorithms.shared.trainer_settings import check_trainer
from rl_lightning.callbacks import MetricsCSV
from rl_lightning.checkpoints import local_file
from rl_lightning.cli.changes import Change, changes, check_changes
from rl_lightning.cli.environment_variables import check_environment_variables
from rl_lightning.cli.export import export
from rl_lightning.cli.help.completion import completion
from rl_lightning.cli.light import answered
from rl_lightning.cli.loggers import keep_inside
from rl_lightning.cli.parser import OURS, OneLineErrorParser, config_files_first
from rl_lightning.cli.report import report, save_episodes
from rl_lightning.cli.run_file import note_start
from rl_lightning.cli.run_report.command import write_report
from rl_lightning.cli.runs import Run, find_checkpoint, make, new_folder, note, resumed
from rl_lightning.cli.saved_config import SaveRunConfig
from rl_lightning.cli.several.compare.command import compare
from rl_lightning.cli.several.group import Checked
from rl_lightning.cli.several.seeds import asked_in, train_seeds
from rl_lightning.cli.several.tune.command import tune
from rl_lightning.cli.starting import start_from, start_of_run
from rl_lightning.cli.training.callbacks import as_list, callbacks_of
from rl_lightning.cli.training.settings import OF_PARSER, add_settings, add_subcommands, spelled_out
from rl_lightning.cli.wandb_runs import name_runs, prepare_wandb
from rl_lightning.data.processes import lost_a_process
from rl_lightning.errors import UsageError, require


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
            parser_kwargs=OF_PARSER,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=[*args],
        )

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Add the subcommands that are not LightningCLI's, so that it knows their names."""
        super().setup_parser(*args, **kwargs)
        add_subcommands(self.parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse with flags over config files, wherever on the line they stand; --model.init_from is --init_from too."""
        given = spelled_out(args)
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
        add_settings(parser)

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
        for logger in as_list(config.trainer.logger):
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
            if self.run_dir is not None:
                name_runs(as_list(config.trainer.logger), self.run_dir, self.config[self.subcommand])
            overrides |= callbacks_of(config, self.run_dir)
            if metrics_csv:
                overrides["logger"] = [metrics_csv, *as_list(config.trainer.logger)]  # the first gives the log_dir
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
        start.check_networks(self.model, changed)
        if self.subcommand == "fit":
            self.save_config_kwargs = {"env_steps": start.env_steps}
            self.is_finished = not start.goes_on(self.model, self.datamodule, metrics_csv if self.resumes else None)
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
        print(save_episodes([episode for batch in batches for episode in batch], self.run_dir))


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


OTHERS: dict[str, Callable[[Sequence[str]], None]] = {  # subcommands that make no LightningCLI of their line
    "export": export,
    "report": write_report,
    "compare": compare,
    "tune": lambda args: tune(args, check),
}


def main(args: list[str] | None = None) -> None:
    """The program `rl-lightning`: errors that are the user's to mend end it with one line and exit code 1."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", message="The number of training batches")  # of an epoch; rows count those of all
    warnings.filterwarnings("ignore", message="The dirpath has changed")  # by design: every run has its own folder
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda line: "💡 Tip" not in line.getMessage())
    sys.path.insert(0, os.getcwd())  # class_path and env_id may name the user's own modules
    given = sys.argv[1:] if args is None else args
    try:
        if answered(given):
            return
        check_environment_variables(os.environ)
        if given and given[0] in OTHERS:
            OTHERS[given[0]](given[1:])
        elif asked := asked_in(given):
            train_seeds(asked, check)
        else:
            RLCLI(given)
    except OURS as error:
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
