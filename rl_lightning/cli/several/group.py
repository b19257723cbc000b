"""The folder of a group, the runs of several seeds: `group.json`, `settings.yaml`, and a run's folder for each seed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rl_lightning.callbacks.metrics_csv import TEST, Row, final_test, read_rows
from rl_lightning.callbacks.run_folder import write_whole
from rl_lightning.cli.run_file import Start, parsed
from rl_lightning.cli.runs import Run

GROUP = "group.json"


class Checked(NamedTuple):
    """A command line that nothing refuses.

    Attributes:
        folder: that a run of it would have; None where it would have none.
        settings: all of them, as a config file holds them.
        total_env_steps: environment steps of the run.
    """

    folder: Path | None
    settings: dict[str, Any]
    total_env_steps: float


Check = Callable[[Sequence[str]], Checked]  # of a command line of `fit` or `resume`


class Test(NamedTuple):
    """The final test of a run: mean return and its deviation over episodes."""

    mean: float
    std: float


@dataclass
class Group:
    """What `group.json` keeps of the runs of several seeds.

    Attributes:
        folder: where it lies.
        seeds: of the runs.
        total_env_steps: environment steps of each run.
        jobs: how many runs are trained at once; None for as many as there are cores.
        seconds: by seed, how long its run has been trained and tested, so far.
        starts: the commands that began the group and went on with it.
    """

    folder: Path
    seeds: list[int]
    total_env_steps: float
    jobs: int | None
    seconds: dict[int, float]
    starts: list[Start]

    @property
    def settings(self) -> Path:
        """The settings that all runs have, but for the seed."""
        return self.folder / "settings.yaml"

    def run(self, seed: int) -> Run:
        """The run of a seed, whether it has begun or not."""
        return Run(self.folder / f"seed-{seed}")

    def log(self, seed: int) -> Path:
        """What the run of a seed has printed."""
        return self.run(seed).folder / "output.log"

    def test(self, seed: int) -> Test | None:
        """The final test of a seed's run; None where it has none, or has gone on since."""
        row = self._final_test(seed)
        return Test(float(row[TEST]), float(row["test/return_std"])) if row else None

    def is_finished(self, seed: int) -> bool:
        """Whether a seed's run has its final test behind it, after all environment steps."""
        row = self._final_test(seed)
        return row is not None and float(row["env_steps"]) >= self.total_env_steps

    def _final_test(self, seed: int) -> Row | None:
        return final_test(read_rows(self.run(seed).folder / "metrics.csv")[0])

    def save(self, settings: Mapping[str, Any] | None = None) -> None:
        """Write it down; with the settings, where they are given."""
        if settings is not None:
            write_whole(self.settings, yaml.safe_dump(dict(settings), sort_keys=False))
        kept = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_whole(self.folder / GROUP, json.dumps(kept, indent=2) + "\n")


def group_in(folder: Path) -> Group:
    """The group whose folder is given."""
    kept = parsed(folder / GROUP)
    seconds = {int(seed): value for seed, value in kept.pop("seconds").items()}
    return Group(folder, seconds=seconds, **kept)
