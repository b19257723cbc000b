"""Settings of trials to come, checked as `fit` checks its own: every value of a space, before anything is created."""

import contextlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rl_lightning.cli.several.group import Check, Checked
from rl_lightning.cli.several.seeds import check_apart
from rl_lightning.cli.several.tune.space import Scalar, Space
from rl_lightning.errors import UsageError, require


class Settings:
    """Settings of runs, and what `fit` says of others.

    Args:
        check: refuses what `rl-lightning` would refuse, and creates nothing.
        configs: config files.
        flags: besides them.

    Raises:
        SystemExit: a mistake in the command line, which has been printed.
        UsageError: settings that `fit` refuses, or with which there is nothing to compare.
    """

    def __init__(self, check: Check, configs: Sequence[str], flags: Sequence[str]) -> None:
        self._check, self._given = check, ["fit", *(f"--config={config}" for config in configs), *flags]
        checked = self._checked()
        self._its = checked.settings
        check_apart(checked)
        value, advice = self.value("trainer.limit_test_batches"), "a search compares final tests; leave it out"
        require(value in (None, 1, 1.0), "trainer.limit_test_batches", value, advice)
        assert checked.folder is not None
        self.run_dir: Path = checked.folder  # where a run would be

    def value(self, key: str) -> Any:
        """The value of a setting by its flag, with or without init_args; None where there is no such setting."""
        value: Any = self._its
        for part in key.replace(".init_args", "").split("."):
            inner = value if isinstance(value, dict) else {}
            value = inner[part] if part in inner else (inner.get("init_args") or {}).get(part)
        return value

    def check(self, space: Space) -> None:
        """Check every value that the space names, and the ends of ranges, each in settings that are otherwise as given.

        Several settings are tried at once, and one by one where `fit` does not take them so.

        Raises:
            SystemExit: a value of a wrong kind, or a setting that there is not; the line has been printed.
            UsageError: a value that data or learner refuse.
        """
        ends = {key: domain.ends() for key, domain in space.searched.items()}
        for number in range(max(map(len, ends.values()))):
            together = {key: values[min(number, len(values) - 1)] for key, values in ends.items()}
            if self._takes(space.flags(together)):
                continue
            for key, value in together.items():
                self._checked(*space.flags({key: value}))

    def params(self, space: Space) -> dict[str, Scalar] | None:
        """The settings that are searched, as they are without a search; None where one of them is not in the space."""
        values = {key: self.value(key) for key in space.searched}
        copies_differ = any(self.value(key) != values[other] for key, other in space.same.items())
        if copies_differ or not all(domain.holds(values[key]) for key, domain in space.searched.items()):
            return None
        return {key: domain.param(values[key]) for key, domain in space.searched.items()}

    def text(self, flags: Sequence[str]) -> str:
        """All settings as YAML, with some of them given as flags."""
        settings = self._checked(*flags).settings
        return yaml.safe_dump({key: value for key, value in settings.items() if key != "config"}, sort_keys=False)

    def _takes(self, flags: Sequence[str]) -> bool:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                self._checked(*flags)
        except (UsageError, SystemExit):
            return False
        return True

    def _checked(self, *flags: str) -> Checked:
        """What Lightning tells of a run's start is of no run here."""
        loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning.pytorch")]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            return self._check([*self._given, *flags])
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
