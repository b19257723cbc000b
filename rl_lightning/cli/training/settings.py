"""The settings of a run that are not LightningCLI's own, and the short ways to give them."""

import inspect
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from rl_lightning import Algorithm  # and with it every learner, to be listed and known by its name
from rl_lightning.callbacks import Checkpoints
from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.parser import OneLineErrorParser
from rl_lightning.data.base import EnvironmentDataModule
from rl_lightning.data.rollout_replay import RolloutReplayDataModule

TRAINING = ("fit", "validate", "test", "predict")  # the subcommands of LightningCLI
DEFAULTS = {
    "trainer.default_root_dir": "runs",
    "trainer.max_epochs": -1,  # the run ends by data.total_env_steps
    "trainer.num_sanity_val_steps": 0,
    "trainer.logger": {"class_path": "rl_lightning.callbacks.WandbRun"},
}

VIDEO = "--trainer.callbacks+=rl_lightning.callbacks.VideoRecorder"  # what predict --video stands for
WHOLE = (
    "{} This is every setting; `rl-lightning {} --help` is the short help. Sections near the end name the settings of "
    "each algorithm and datamodule; --model.help=SAC and --data.help=ReplayDataModule say what they mean."
)
OF_PARSER: dict[str, Any] = {
    "prog": "rl-lightning",  # under python -m too
    "description": "Reinforcement learning under PyTorch Lightning.",
    "parser_mode": "omegaconf",
    "allow_abbrev": False,
    **{
        name: {
            "description": WHOLE.format(SUBCOMMANDS[name], name),
            "usage": f"rl-lightning {name} -c CONFIG [--KEY=VALUE ...]",
        }
        for name in TRAINING
    },
}


def spelled_out(args: Sequence[str]) -> list[str]:
    """A command line without its short ways: `--help=all`, `predict --video`, and --model.init_from for --init_from."""
    given, own = ["--help" if arg == "--help=all" else arg for arg in args], ("init_from", "init_parts")
    given = [f"--{flag}" if (flag := arg.removeprefix("--model.")).startswith(own) else arg for arg in given]
    return [VIDEO if arg == "--video" else arg for arg in given] if given[:1] == ["predict"] else given


def add_subcommands(parser: LightningArgumentParser) -> None:
    """Add those that are not LightningCLI's."""
    assert parser._subcommands_action is not None
    for name, text in SUBCOMMANDS.items():
        if name not in TRAINING:
            parser._subcommands_action.add_subcommand(name, OneLineErrorParser(), help=text)


def add_settings(parser: LightningArgumentParser) -> None:
    """Add the checkpoint's settings, our defaults, the links from data to model, and lists of what classes take."""
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


def _settings_of(owner: type) -> str:
    """Names of the settings of a learner or DataModule; the spaces come from the data."""
    return ", ".join(name for name in inspect.signature(owner).parameters if not name.endswith("_space"))
