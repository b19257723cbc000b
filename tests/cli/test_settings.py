"""Settings of the Trainer, loggers, seeds and folders from the command line: followed, or refused in one line."""

import contextlib
import csv
import io
import re
from pathlib import Path

import pytest
import torch

from rl_lightning.cli.main import main

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/a2c/cartpole.yaml")
SHORT = [
    "--model.network.hidden_sizes=[8]",
    "--model.compile=false",
    "--data.eval_episodes=1",
    "--data.test_episodes=2",
    "--data.rollout_steps=16",
    "--data.num_envs=2",
    "--data.total_env_steps=64",
    "--data.env_steps_per_epoch=32",
    "--data.env_steps_per_batch=32",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def run(command: str, *flags: str) -> str:
    """What a command prints; without a logger of its own, unless one is given."""
    logger = [] if any("logger" in flag for flag in flags) else ["--trainer.logger=false"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([command, "-c", CONFIG, *SHORT, *logger, *flags])
    return printed.getvalue()


def refusal(capsys, command: str, *flags: str) -> str:
    """The one line that it ends with; nothing was made."""
    before = set(Path().rglob("*"))
    with pytest.raises(SystemExit) as end:
        run(command, *flags)
    made = {path for path in set(Path().rglob("*")) - before if "__pycache__" not in path.parts}
    assert made == set()
    assert end.value.code not in (0, None)
    line = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err.strip().splitlines()[-1]
    assert "\n" not in line
    return line


def folder_of() -> Path:
    [folder] = Path().glob("runs/*/*")
    return folder


def paths_in(report: str) -> list[str]:
    """Files that the report's commands name."""
    return re.findall(r"(?:< |-c |--ckpt_path=|resume +\S*rl-lightning resume )(\S+)", report)


OUTSIDE = "trainer.logger.save_dir=/nowhere"
REFUSED = {
    "--trainer.min_steps=100": "trainer.min_steps=100 is not allowed: a run ends by data.total_env_steps",
    "--trainer.min_epochs=9": "trainer.min_epochs=9 is not allowed: a run ends by data.total_env_steps",
    "--trainer.overfit_batches=1": "trainer.overfit_batches=1 is not allowed: experience is gathered anew",
    "--trainer.limit_train_batches=0": "trainer.limit_train_batches=0 is not allowed: an epoch is data.env_steps_per",
    "--trainer.limit_test_batches=0.01": "trainer.limit_test_batches=0.01 is not allowed: give data.test_episodes",
    "--trainer.val_check_interval=2": "trainer.val_check_interval=2 is not allowed: an epoch has 1 batches",
    "--seed_everything=-1": "seed_everything=-1 is not allowed: give an int from 0 to",
    "--seed_everything=4294967296": "seed_everything=4294967296 is not allowed: give an int from 0 to",
    "--seed_everything=x": "seed_everything='x' is not allowed: give true or false or int",
    "--trainer.default_root_dir=file": "trainer.default_root_dir='file' is not allowed: no run folder can be made",
    "--trainer.default_root_dir=/proc/it": "trainer.default_root_dir='/proc/it' is not allowed: no run folder can be",
    "--trainer.logger.init_args.project=../../x": "trainer.logger.project='../../x' is not allowed: W&B takes none of",
    "--trainer.logger.init_args.id=../../x": "trainer.logger.id='../../x' is not allowed: it leads out of the run",
    f"--trainer.logger=CSVLogger --{OUTSIDE} --trainer.logger.name=../../x": "trainer.logger.name='../../x' is not",
    f"--trainer.logger=CSVLogger --{OUTSIDE} --trainer.logger.version=/x": "trainer.logger.version='/x' is not allowed",
    "--trainer.callbacks=broken.Mine": "SyntaxError in /",
    "--trainer.callbacks=raising.Mine": "raising.Mine cannot be made: 'of mine'; mend it, or its settings",
    "--trainer.logger=raising.MyLogger": "OSError in ",
    "--trainer.callbacks+=raising.Mine": "KeyError in",
    "--trainer.barebones=true": "trainer.barebones=True is not allowed: rows and checkpoints are kept",
}


@pytest.mark.parametrize(("flags", "line"), REFUSED.items())
def test_what_cannot_work_is_refused_in_one_line_before_a_folder_exists(flags, line, capsys):
    Path("file").write_text("")
    Path("broken.py").write_text("class Mine(:\n")
    Path("raising.py").write_text(
        "from lightning.pytorch import Callback\n"
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class MyLogger(CSVLogger):\n"
        "    def __init__(self, save_dir: str = '.'):\n"
        "        raise OSError('no log')\n"
        "class Mine(Callback):\n"
        "    def __init__(self, in_features: int = 1, of_mine: int = 2):\n"
        "        {}['of mine']\n"
    )
    assert refusal(capsys, "fit", *flags.split()).startswith(f"error: {line}")


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_random_networks_are_not_evaluated(command, capsys):
    line = refusal(capsys, command)
    assert line == (
        f"error: ckpt_path is missing: `{command}` would evaluate random networks; give --ckpt_path=FILE, like a run's "
        "checkpoints/best.ckpt"
    )


def test_checkpoints_can_be_turned_off():
    out = run("fit", "--trainer.enable_checkpointing=false")
    assert {path.name for path in folder_of().iterdir()} - {".lock"} == {"config.yaml", "metrics.csv", "run.json"}
    assert "No checkpoint was saved, so this is the last of the policy" in out
    assert "resume" not in out
    assert "--ckpt_path" not in out


@pytest.mark.parametrize(
    ("flag", "evaluated"),
    [
        ("--checkpoint.dirpath=elsewhere", "elsewhere/best.ckpt"),
        ("--trainer.limit_val_batches=0", "last.ckpt"),
        ("--checkpoint.keep_last=2", "best.ckpt"),
        ("--trainer.max_steps=2", "best.ckpt"),
    ],
)
def test_the_report_names_files_that_there_are(flag, evaluated):
    out = run("fit", flag)
    assert "over 2 episodes of the final policy" in out
    *_, best = paths = paths_in(out)
    assert len(paths) == 4
    assert best.endswith(evaluated)
    for path in paths:
        assert Path(path).exists(), path


def test_a_run_without_a_final_test_says_so():
    out = run("fit", "--trainer.limit_test_batches=0")
    assert "Trained, and not evaluated at the end (trainer.limit_test_batches=0), after 64 environment steps" in out
    assert len(paths_in(out)) == 4


def test_files_of_other_loggers_lie_in_the_run_folder_whatever_their_names():
    run("fit", "--trainer.logger=CSVLogger", f"--{OUTSIDE}", "--trainer.logger.name=a/b")
    assert len(list(folder_of().glob("a/b/version_0/metrics.csv"))) == 1
    assert {path.name for path in Path().iterdir()} == {"runs"}


def test_a_diverged_discrete_learner_ends_with_one_line_and_keeps_the_last_good_checkpoint(capsys):
    settings = ["learning_starts=20", "batch_size=8", "train_freq=1", "replay_ratio=1", "env_steps_per_batch=1"]
    pace = ["total_env_steps=400", "env_steps_per_epoch=20", "buffer_size=100", "eval_episodes=1", "test_episodes=1"]
    flags = [f"--data.{setting}" for setting in settings + pace]
    other = ["--model.network.hidden_sizes=[8]", "--model.compile=false", "--trainer.logger=false"]
    huge = ["--model.q_optimizer=torch.optim.SGD", "--model.q_optimizer.lr=1000", "--model.max_grad_norm=null"]
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", str(ROOT / "configs/dqn/cartpole.yaml"), *flags, *other, *huge, "--trainer.accelerator=cpu"])
    message = (
        r"error: (the weights of q are not finite and )?train/q_loss is (nan|inf) at environment step \d+: the learner"
    )
    assert re.match(message, end.value.code)
    assert "lower the learning rates" in end.value.code
    for path in folder_of().glob("checkpoints/*"):
        assert all(tensor.isfinite().all() for tensor in torch.load(path, weights_only=True)["state_dict"].values())
    with (folder_of() / "metrics.csv").open() as file:
        assert [*csv.DictReader(file)]
