"""What a run's folder says of the run, besides its rows: settings, versions, time, films."""

import inspect
import re
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from rl_lightning.cli.run_file import Start
from rl_lightning.cli.runs import NAME, Run
from rl_lightning.cli.shipped import CONFIGS
from rl_lightning.cli.training.settings import DEFAULTS

ABSENT = "<unset>"


def settings(config: Path) -> dict[str, Any]:
    """The settings of a config file by the keys that they are typed by; a class by its last name."""
    return flat(OmegaConf.to_container(OmegaConf.load(config), resolve=True))


def flat(nested: Any) -> dict[str, Any]:
    """Settings that lie within each other, likewise."""
    found: dict[str, Any] = {}

    def note(key: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                note(key if name == "init_args" else f"{key}.{name}".lstrip("."), inner)
        else:
            found[key] = value.rpartition(".")[2] if key.endswith("class_path") and value else value

    note("", nested)
    return found


def as_typed(value: object) -> str:
    """A value as configs and flags spell it."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def shipped_config(its: dict[str, Any], folder: Path = CONFIGS) -> tuple[str, dict[str, tuple[Any, Any]]] | None:
    """The shipped config of the same algorithm and environment that a run is nearest to.

    Args:
        its: the run's settings.
        folder: of the shipped configs.

    Returns:
        Its name, and the settings that it names and the run has otherwise: (shipped, the run's). Those of the trainer
        that it does not name are compared with their defaults. None where there is none.
    """
    same = ("model.class_path", "data.env_id")
    # a setting, or what stands in the place of the whole that it belongs to, like false for the logger
    defaults = {key: value for key, value in _of_trainer().items() if {key, key.rpartition(".")[0]} & its.keys()}
    found = []
    for path in sorted(folder.glob("*/*.yaml")):
        shipped = settings(path)
        if all(key in shipped and shipped[key] == its.get(key) for key in same):
            differ = {key: (value, its.get(key, ABSENT)) for key, value in (defaults | shipped).items()}
            differ = {key: pair for key, pair in differ.items() if pair[0] != pair[1]}
            found.append((f"configs/{path.relative_to(folder)}", differ))
    return min(found, key=lambda each: len(each[1]), default=None)


def _of_trainer() -> dict[str, Any]:
    """What the trainer has where no config says otherwise; not where the run lies, which differs for every one."""
    lightnings = {f"trainer.{name}": each.default for name, each in inspect.signature(Trainer).parameters.items()}
    ours = flat(lightnings | DEFAULTS)
    return {key: value for key, value in ours.items() if key != "trainer.default_root_dir"}


def versions(start: Start) -> dict[str, str]:
    """Of Python and packages, under which a command has run."""
    return {"Python": start["python"], **start["versions"]}


def wall_seconds(run: Run) -> float | None:
    """From the folder's name to the last row; pauses of an interrupted run count. None where the name says no time."""
    name = run.folder.resolve().name
    if not NAME.fullmatch(name):
        return None
    begun = time.mktime(time.strptime(name[:15], "%Y%m%d-%H%M%S"))
    return (run.folder / "metrics.csv").stat().st_mtime - begun


def films(run: Run) -> list[Path]:
    """In `videos/`, by environment steps, then by episode."""
    return sorted(
        run.folder.glob("videos/*.mp4"), key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)]
    )
