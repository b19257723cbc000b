"""Folders of runs: what lies in one, which checkpoint is meant, and from which one a run goes on."""

import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import yaml
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from rl_lightning.checkpoints import KEY, fault_of, load_checkpoint
from rl_lightning.errors import UsageError, require
from rl_lightning.types import State

NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")  # of a folder that this program has made
FOLDER = "RL_LIGHTNING_RUN_FOLDER"  # a variable: the folder of the run to begin, in place of a new name
OFFERED = 5  # files or runs that a message names


class Run(NamedTuple):
    """The folder of a run, with its `config.yaml`, `metrics.csv` and `checkpoints/`."""

    folder: Path

    @property
    def config(self) -> Path:
        """Its settings."""
        return self.folder / "config.yaml"

    def checkpoints(self) -> list[Path]:
        """Those that there are, `last.ckpt` first and then the newest."""
        folders = [self.folder / "checkpoints"]
        if self.config.is_file() and (dirpath := _setting(self.config, "checkpoint", "dirpath")):
            folders.append(Path(dirpath))
        found = {path for folder in folders for path in folder.glob("*.ckpt")}
        return sorted(found, key=lambda path: (path.name != "last.ckpt", -path.stat().st_mtime_ns))

    def checkpoint(self, name: str) -> Path:
        """The one that is called `last` or `best`.

        Raises:
            UsageError: naming those that there are.
        """
        found = self.checkpoints()
        named = [path for path in found if path.stem == name]
        if not named:
            raise UsageError(f"run {str(self.folder)!r} has no checkpoint {name}.ckpt: {_offer(found)}")
        return named[0]

    def newest_valid(self) -> tuple[Path, State]:
        """The checkpoint to go on from: `last.ckpt`, or where that is damaged the one with most environment steps.

        Raises:
            UsageError: there is none that can be read.
        """
        found, faults, read = self.checkpoints(), [], list[tuple[Path, State]]()
        for path in found:
            try:
                read.append((path, load_checkpoint(path, {})))
            except UsageError as error:
                fault = fault_of(path)  # the error offers another file, which is taken here
                faults.append(f"checkpoint {str(path)!r} {fault}" if fault else str(error))
            if read and path.name == "last.ckpt":
                return read[0]
        if not read:
            reason = f"{faults[0]}; " if faults else ""
            raise UsageError(
                f"run {str(self.folder)!r} has no checkpoint to go on from: {reason}begin it anew with "
                f"rl-lightning fit -c {quote(str(self.config))}"
            )
        path, checkpoint = max(read, key=lambda each: each[1][KEY]["env_steps"])
        why = faults[0] if faults else f"run {str(self.folder)!r} has no last.ckpt"
        note(f"{why}. It goes on from {str(path)!r}, of {checkpoint[KEY]['env_steps']:,} environment steps")
        return path, checkpoint


def run_in(folder: str) -> Run:
    """The run whose folder is given.

    Raises:
        UsageError: it is not there, or not the folder of a run; the message names those that there are.
    """
    run = Run(Path(folder))
    if not run.folder.is_dir():
        raise UsageError(f"run {folder!r} does not exist: {_offer_runs()}")
    if not run.config.is_file():
        raise UsageError(f"run {folder!r} is not the folder of a run, it has no config.yaml: {_offer_runs(run.folder)}")
    return run


def task_of(config: Namespace) -> str:
    """What a run of these settings is named after: `<algorithm>-<environment>`."""
    algorithm = config.model.class_path.rsplit(".", 1)[-1]
    env_id = config.data.init_args.get("env_id", "data").rsplit(":", 1)[-1].replace("/", "-")
    return f"{algorithm}-{env_id}".lower()


def new_folder(config: Namespace) -> Path:
    """A folder that no other run has or gets, `<root>/<task>/<time>-<random>`; or the one that `FOLDER` names.

    Raises:
        UsageError: that one is a run's already.
    """
    if given := os.environ.pop(FOLDER, None):  # another process of the run would take it for its own
        advice = "it is the folder of a run already; give another, or resume that run"
        require(not (Path(given) / "metrics.csv").exists(), FOLDER, given, advice)
        return Path(given)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Path(config.trainer.default_root_dir) / task_of(config) / name


def make(folder: Path) -> None:
    """Make the folder of a run, or of several.

    Raises:
        UsageError: where that is not allowed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        root = str(folder.parent.parent)
        advice = f"no run folder can be made in it ({error.strerror}); give a folder that can be written to"
        raise UsageError(f"trainer.default_root_dir={root!r} is not allowed: {advice}") from error


def resumed(args: Sequence[str]) -> tuple[Run, list[str]]:
    """The run that `resume RUN --KEY=VALUE ...` goes on with, and the same as arguments of `fit`.

    Args:
        args: the command line without the program's name.

    Raises:
        UsageError: no run, or a checkpoint beside it.
    """
    if len(args) < 2 or args[1].startswith("-"):
        raise UsageError(f"resume has no run: give its folder right behind it, like {_example()}; {_offer_runs()}")
    run, flags = run_in(args[1]), list(args[2:])
    if given := next((flag for flag in flags if flag.startswith(("--ckpt_path", "--init_from"))), None):
        raise UsageError(
            f"{given} is not allowed beside resume, which goes on from the run's last checkpoint: from another one a "
            f"new run begins, with rl-lightning fit -c {quote(str(run.config))} {given}"
        )
    return run, ["fit", "-c", str(run.config), *flags]


def find_checkpoint(given: str, configs: Sequence[str]) -> str:
    """The path or URL of the checkpoint that `--ckpt_path` means.

    Args:
        given: a file, a URL, a run's folder, or `last` or `best` of the run whose config is given.
        configs: the config files that are given.

    Raises:
        UsageError: there is none; the message names those that there are.
    """
    if given.startswith(("http://", "https://")):
        return given
    path = Path(given)
    if given in ("last", "best"):
        runs = [run for config in configs if (run := Run(Path(config).parent)).checkpoints()]
        if not runs:
            raise UsageError(
                f"ckpt_path={given!r} is not allowed without a run's config, which says where to look: give one with "
                f"-c RUN/config.yaml, or a file; {_offer_runs()}"
            )
        return str(runs[-1].checkpoint(given))
    if path.is_dir():
        run = Run(path.parent if path.name == "checkpoints" else path)
        return str(run.checkpoint("last"))
    if not path.is_file():
        beside = sorted(path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        raise UsageError(f"checkpoint {given!r} does not exist: {_offer(beside) if beside else _offer_runs()}")
    return given


def run_of(checkpoint: str) -> Run | None:
    """The run whose folder a checkpoint lies in; None where it lies elsewhere."""
    run = Run(Path(checkpoint).resolve().parent.parent)
    return run if run.config.is_file() else None


def note(text: str) -> None:
    """Say something in one line on the standard error stream, once for all processes."""
    if getattr(rank_zero_only, "rank", 0) == 0:
        print(f"note: {text}", file=sys.stderr)


def _setting(config: Path, *keys: str) -> Any:
    value = yaml.safe_load(config.read_text())
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _offer(paths: Sequence[Path]) -> str:
    if not paths:
        return "there are none yet"
    return f"give {' or '.join(quote(str(path)) for path in paths[:OFFERED])}"


def _offer_runs(folder: Path | None = None) -> str:
    """The latest runs inside a folder of several, or else where they lie by default."""
    found = [*folder.glob("*/config.yaml")] if folder else []
    found = found or [*Path("runs").glob("*/*/config.yaml"), *Path("runs").glob("*/*/seed-*/config.yaml")]
    folders = [path.parent for path in sorted(found, key=lambda path: -path.stat().st_mtime_ns)]
    return f"runs that there are: {', '.join(map(str, folders[:OFFERED]))}" if folders else "there are none under runs/"


def _example() -> str:
    return f"rl-lightning resume runs/sac-pendulum-v1/{time.strftime('%Y%m%d-%H%M%S')}-1a2b"
