"""`run.json` in a run's folder: by which command it began, with what, and each time that it went on."""

import json
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

from rl_lightning import __version__
from rl_lightning.callbacks.run_folder import write_whole
from rl_lightning.cli.several.processes import available_cores
from rl_lightning.errors import UsageError

PACKAGES = ("torch", "lightning", "gymnasium", "numpy")


class Start(TypedDict):
    """A command that began a run or went on with it; `commit` is that of the folder it was called in, null if none."""

    command: str
    time: str
    python: str
    platform: str
    processor: str
    cores: int
    versions: dict[str, str]
    commit: str | None


def start_of(args: Sequence[str]) -> Start:
    """The command `rl-lightning` with `args`, here and now."""
    return {
        "command": shlex.join(["rl-lightning", *args]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(available_cores()),
        "versions": {"rl_lightning": __version__} | {package: version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def note_start(folder: Path, args: Sequence[str]) -> None:
    """Write the command into a run's `run.json`, behind those that are there."""
    write_whole(folder / "run.json", json.dumps({"starts": [*starts(folder), start_of(args)]}, indent=2) + "\n")


def starts(folder: Path) -> list[Start]:
    """Those noted in a run's folder, the first that began it; none where an older version has run it."""
    path = folder / "run.json"
    found: list[Start] = parsed(path)["starts"] if path.is_file() else []
    return found


def parsed(path: Path) -> Any:
    """What a JSON file of ours holds.

    Raises:
        UsageError: where it is not JSON, as after a disk was full.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}): restore it from a copy; nothing was changed") from None


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Of the working directory, with ``-dirty`` where files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
