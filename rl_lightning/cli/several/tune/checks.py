"""Settings of trials to come, checked as `fit` checks its own: every value of a space, before anything is created."""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from rl_lightning.cli.changes import flat
from rl_lightning.cli.parser import config_files_first
from rl_lightning.cli.several.tune.space import Scalar, Space
from rl_lightning.errors import UsageError, require


class Fit(Protocol):
    """`fit` with its settings, which has made nothing and runs nothing."""

    parser: LightningArgumentParser
    config: Namespace
    run_dir: Path | None


class Settings:
    """Settings of runs, and what `fit` says of others.

    Args:
        fit: makes a `Fit` of a command line.
        configs: config files, or names of those that come with the package.
        flags: besides them.

    Raises:
        SystemExit: a mistake in the command line, which has been printed.
        UsageError: settings that `fit` refuses, or with which there is nothing to compare.
    """

    def __init__(self, fit: Callable[[list[str]], Fit], configs: Sequence[str], flags: Sequence[str]) -> None:
        self._given = ["fit", *(f"--config={config}" for config in configs), *flags]
        its = fit(self._given)
        self._parser, self.config = its.parser, its.config.fit
        self.run_dir = its.run_dir  # where a run would be
        self.configs = [str(path) for path in self.config.config or ()]
        trainer = self.config.trainer
        advice = "a search compares finished runs by their final test; leave it out"
        require(not trainer.fast_dev_run, "trainer.fast_dev_run", trainer.fast_dev_run, advice)
        require(trainer.limit_test_batches != 0, "trainer.limit_test_batches", trainer.limit_test_batches, advice)

    def check(self, space: Space) -> None:
        """Check every value that the space names, and the ends of ranges, each in settings that are otherwise as given.

        Values are tried several settings at once, and one by one where `fit` does not take them so.

        Raises:
            SystemExit: a value of a wrong kind, or for a setting that there is not; the line has been printed.
            UsageError: a value that data or learner refuse.
        """
        ends = {key: domain.ends() for key, domain in space.searched.items()}
        for number in range(max(map(len, ends.values()))):
            together = {key: values[min(number, len(values) - 1)] for key, values in ends.items()}
            if self._takes(space.flags(together)):
                continue
            for key, value in together.items():
                self._make(space.flags({key: value}))

    def params(self, space: Space) -> dict[str, Scalar] | None:
        """The settings that are searched, as they are without the search; None where one of them is not in the space."""
        its = flat(self.config)
        values = {key: its.get(key.replace(".init_args", "")) for key in space.searched}
        if not all(domain.holds(values[key]) for key, domain in space.searched.items()):
            return None
        return {key: domain.param(values[key]) for key, domain in space.searched.items()}

    def dump(self, flags: Sequence[str]) -> str:
        """All settings as YAML, with some of them given as flags."""
        config = self._parse(flags)
        config.fit.pop("config", None)
        text: str = self._parser.dump(config.fit, skip_none=False)
        return text

    def _takes(self, flags: Sequence[str]) -> bool:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                self._make(flags)
        except (UsageError, SystemExit):
            return False
        return True

    def _make(self, flags: Sequence[str]) -> None:
        """Make data and learner, as `fit` does before it makes a folder."""
        config = self._parse(flags)
        config.fit.pop("ckpt_path", None)
        objects: Mapping[str, Any] = self._parser.instantiate_classes(config).fit
        objects["model"].check_data(objects["data"])
        objects["data"].check_memory()

    def _parse(self, flags: Sequence[str]) -> Namespace:
        return self._parser.parse_args(config_files_first([*self._given, *flags]))
