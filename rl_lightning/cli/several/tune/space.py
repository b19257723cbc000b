"""A search space: which settings are searched, and what each may be. What makes no sense is refused."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rl_lightning.cli.shipped import spaces
from rl_lightning.errors import UsageError, one_line, require

Scalar = float | int | str | bool | None
FIXED = (  # or scores would not be of the same thing
    "seed_everything",
    "init_",
    "ckpt_path",
    "config",
    "checkpoint",
    "trainer.logger",
    "data.env_id",
    "data.env_kwargs",
    "data.wrappers",
    "data.total_env_steps",
    "data.env_steps_per_epoch",
    "data.eval_",
    "data.test_episodes",
)
FORMS = "give {values: [...]}, {min: ..., max: ...}, {min: ..., max: ..., log: true} or {same_as: KEY}"


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included: ints where both are ints. `log` draws their logarithms evenly."""

    low: float
    high: float
    log: bool = False

    def content(self) -> dict[str, Any]:
        """As a file has it."""
        return {"min": self.low, "max": self.high} | ({"log": True} if self.log else {})

    def ends(self) -> tuple[Scalar, ...]:
        """What to try to see whether all of it is allowed."""
        return (self.low, self.high)

    def holds(self, value: object) -> bool:
        """Whether a value is in it."""
        kind = int if isinstance(self.low, int) else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and self.low <= value <= self.high

    def param(self, value: Any) -> Scalar:
        """A value of the setting as the search has it."""
        return type(self.low)(value)


class Choice(NamedTuple):
    """One of several values; lists and mappings as JSON."""

    values: tuple[Scalar, ...]

    def content(self) -> dict[str, Any]:
        """As a file has it."""
        return {"values": [*self.values]}

    def ends(self) -> tuple[Scalar, ...]:
        """All of them."""
        return self.values

    def holds(self, value: object) -> bool:
        """Whether a value is one of them."""
        return _as_scalar(value) in self.values

    def param(self, value: Any) -> Scalar:
        """A value of the setting as the search has it."""
        return _as_scalar(value)


class Same(NamedTuple):
    """The value that another setting of the space has."""

    key: str


Domain = Range | Choice | Same


class Space(NamedTuple):
    """What is searched.

    Attributes:
        searched: settings by their flags, each with what it may be.
        same: settings that get the value of another: its flag by theirs.
    """

    searched: Mapping[str, Range | Choice]
    same: Mapping[str, str]

    def content(self) -> dict[str, Any]:
        """As a file has it."""
        same = {key: {"same_as": other} for key, other in self.same.items()}
        return {key: domain.content() for key, domain in self.searched.items()} | same

    def flags(self, params: Mapping[str, Scalar]) -> list[str]:
        """Flags of `fit` for values of the settings that are searched."""
        copies = {key: params[other] for key, other in self.same.items() if other in params}
        return [f"--{key}={as_text(value)}" for key, value in {**params, **copies}.items()]

    def without(self, flags: list[str]) -> "Space":
        """The space without settings that are given as flags, which win.

        Raises:
            UsageError: nothing is left to search.
        """
        given = {_short(flag.removeprefix("--").partition("=")[0]) for flag in flags}
        searched = {key: domain for key, domain in self.searched.items() if _short(key) not in given}
        same = {key: other for key, other in self.same.items() if other in searched and _short(key) not in given}
        if not searched:
            raise UsageError("nothing is left to search: every setting of the space is given as a flag; leave one out")
        return Space(searched, same)


def read_space(given: str) -> Space:
    """The space in a file, or that comes with the package under a name.

    Raises:
        UsageError: there is none, or something in it makes no sense: the setting, what was given, what can be.
    """
    path = spaces().get(given, Path(given))
    if not path.is_file():
        near = difflib.get_close_matches(given, spaces(), n=1)
        advice = (
            f"did you mean {near[0]}?" if near else f"give the path of a YAML file, or one of {', '.join(spaces())}"
        )
        raise UsageError(f"space={given!r} is not a file that can be read: {advice}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise UsageError(f"space={given!r} cannot be read: {one_line(error)}; mend it there") from error
    is_mapping = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    require(is_mapping and bool(content), "space", given, "it has no settings; give KEY: {values: [...]} and so on")
    assert isinstance(content, dict)
    return space_of(content)


def space_of(content: Mapping[Any, Any]) -> Space:
    """The space that a file's content describes.

    Raises:
        UsageError: as of `read_space`.
    """
    domains = {str(key): _domain(str(key), given) for key, given in content.items()}
    searched = {key: domain for key, domain in domains.items() if not isinstance(domain, Same)}
    same = {key: domain.key for key, domain in domains.items() if isinstance(domain, Same)}
    for key, other in same.items():
        advice = f"it is none of the settings that are searched: {', '.join(searched)}"
        require(other in searched, f"{key}.same_as", other, advice)
    short = [_short(key) for key in domains]
    twice = next((key for key in domains if short.count(_short(key)) > 1), None)
    if twice:
        raise UsageError(f"{twice} is in the space twice, with and without init_args: leave one out")
    return Space(searched, same)


def as_text(value: Scalar) -> str:
    """A value as a flag has it.

    >>> [as_text(value) for value in (1e-05, 64, True, None, "relu", "[64, 64]")]
    ['1e-05', '64', 'true', 'null', 'relu', '[64, 64]']
    """
    return value if isinstance(value, str) else json.dumps(value)


def _domain(key: str, given: Any) -> Domain:
    if key.startswith(FIXED):
        raise UsageError(f"{key} cannot be searched: trials with different ones could not be compared; leave it out")
    kinds = ({"values"}, {"min", "max"}, {"min", "max", "log"}, {"same_as"})
    require(isinstance(given, dict) and {*given} in kinds, key, given, FORMS)
    if "same_as" in given:
        return Same(str(given["same_as"]))
    if "values" in given:
        values = given["values"]
        advice = "give a list of at least two, no two of them alike; a single one is a flag, not a search"
        require(isinstance(values, list), f"{key}.values", values, advice)
        scalars = tuple(_as_scalar(value) for value in values)
        require(len({as_text(value) for value in scalars}) == len(values) >= 2, f"{key}.values", values, advice)
        return Choice(scalars)
    low, high, log = given["min"], given["max"], given.get("log", False)
    for name, value in (("min", low), ("max", high)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
        require(is_number, f"{key}.{name}", value, "give a number")
    require(low < high, f"{key}.min", low, f"give less than max, which is {high}")
    require(isinstance(log, bool), f"{key}.log", log, "give true or false")
    if isinstance(low, int) and isinstance(high, int):
        require(not log, f"{key}.log", log, "ints are drawn evenly; write min and max with a point, or list the values")
        return Range(low, high)
    require(not log or low > 0.0, f"{key}.min", low, "a logarithm needs a number above 0")
    return Range(float(low), float(high), log)


def _as_scalar(value: Any) -> Scalar:
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _short(key: str) -> str:
    """A key as it can be typed too."""
    return key.replace(".init_args", "")
