"""What a search is told to do, and the folder in which it does it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rl_lightning.callbacks.run_folder import write_whole
from rl_lightning.cli.several.tune.space import Space, space_of
from rl_lightning.errors import UsageError

PRUNERS = ("median", "hyperband", "none")
PLAN = "search.yaml"


class Plan(NamedTuple):
    """The settings of a search, which stay the same when it goes on.

    Attributes:
        space: what is searched.
        flags: of every run, besides those of the space and the seed.
        trials: how many in all.
        seeds: runs of a trial, with the seeds 0, 1, ...
        jobs: runs side by side.
        pruner: one of `PRUNERS`.
        seed: of the search itself.
        env_steps: of a run.
        env_steps_per_epoch: from one evaluation to the next.
    """

    space: Space
    flags: Sequence[str]
    trials: int
    seeds: int
    jobs: int
    pruner: str
    seed: int
    env_steps: int
    env_steps_per_epoch: int


class Folder(NamedTuple):
    """The folder of a search."""

    path: Path

    @property
    def journal(self) -> Path:
        """Optuna's record of all trials."""
        return self.path / "study.journal"

    @property
    def best(self) -> Path:
        """The config of the best trial."""
        return self.path / "best.yaml"

    @property
    def configs(self) -> list[Path]:
        """The config files that the search was given, as they were, in their order."""
        return sorted(self.path.glob("base-*.yaml"), key=lambda path: int(path.stem.removeprefix("base-")))

    def run(self, trial: int, seed: int) -> Path:
        """The folder of a run."""
        return self.path / f"trial-{trial:04}" / f"seed-{seed}"

    def make(self, configs: Sequence[str]) -> None:
        """Make it, with copies of the config files.

        Raises:
            UsageError: it cannot be made.
        """
        texts = [Path(config).read_text(encoding="utf-8") for config in configs]
        try:
            self.path.mkdir(parents=True)
            for number, text in enumerate(texts):
                write_whole(self.path / f"base-{number}.yaml", text)
        except OSError as error:
            raise UsageError(
                f"folder {str(self.path)!r} cannot be made: {error.strerror}; give another --trainer.default_root_dir"
            ) from error

    def write(self, plan: Plan) -> None:
        """Keep the plan."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        head = f"# The settings of a search, written {time}. It goes on by rl-lightning tune --resume {self.path}\n"
        content = plan._asdict() | {"space": plan.space.content(), "flags": [*plan.flags]}
        write_whole(self.path / PLAN, head + yaml.safe_dump(content, sort_keys=False))

    def read(self) -> Plan:
        """The plan.

        Raises:
            UsageError: it is not the folder of a search.
        """
        path = self.path / PLAN
        if not path.is_file():
            raise UsageError(
                f"resume={str(self.path)!r} is not the folder of a search, it has no {PLAN}: give one that has"
            )
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Plan(**content | {"space": space_of(content["space"])})
