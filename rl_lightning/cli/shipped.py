"""The configs that come with the package: found by name, and listed by `rl-lightning configs`."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rl_lightning.cli.help.subcommands import SUBCOMMANDS
from rl_lightning.cli.plain_parser import PlainParser

CONFIGS = Path(__file__).parents[1] / "configs"
SPACES = CONFIGS / "sweeps"  # no settings of a run, but what `rl-lightning tune` searches
HEAD = ("config", "environment", "environment steps", "measured return")


def shipped() -> dict[str, Path]:
    """The files by the names that ``-c`` takes, like ``sac/pendulum``."""
    paths = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent != SPACES]
    return {f"{path.parent.name}/{path.stem}": path for path in paths}


def spaces() -> dict[str, Path]:
    """The search spaces by the names that ``tune --space`` takes, like ``sac``."""
    return {path.stem: path for path in sorted(SPACES.glob("*.yaml"))}


def families() -> dict[str, Path]:
    """The files of settings to begin from, by the names that ``-c`` takes, like ``ppo/mujoco``."""
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(CONFIGS.glob("families/*/*.yaml"))}


def names() -> list[str]:
    """All names that ``-c`` takes."""
    return sorted({**shipped(), **families()})


def classes_of(name: str) -> tuple[str, str]:
    """The names of the learner and of the datamodule in the config of that name."""
    config = yaml.safe_load(Path(config_path(name)).read_text(encoding="utf-8"))
    model, data = (config[part]["class_path"].rpartition(".")[2] for part in ("model", "data"))
    return model, data


def config_path(given: str) -> str:
    """The path that ``-c`` means: `given` where that is a file, else the config of that name, if there is one."""
    path = {**shipped(), **families()}.get(given)
    return given if path is None or Path(given).is_file() else str(path)


def nearest_names(given: str) -> list[str]:
    """Up to three names that are like `given`, the likest first."""
    return difflib.get_close_matches(given, names(), n=3)


def measured() -> dict[str, str]:
    """Mean return ± over seeds, and how many, by the config's name."""
    by_file: dict[str, dict[str, str]] = yaml.safe_load((CONFIGS / "results.yaml").read_text(encoding="utf-8"))
    return {name: result for results in by_file.values() for name, result in results.items()}


def table() -> str:
    """A line for each config: its name, environment, length, and what was measured of it."""
    results = measured()
    rows = [
        HEAD,
        *((*_name_and_task(name, path), results.get(name, "not measured")) for name, path in shipped().items()),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{widths[0]}}  {env_id:{widths[1]}}  {steps:>{widths[2]}}  {result}"
        for name, env_id, steps, result in rows
    )


def table_of_families() -> str:
    """A line for each family: its name, its length, and the config that has the same settings."""
    facts: dict[str, Any] = yaml.safe_load((CONFIGS / "families.yaml").read_text(encoding="utf-8"))
    rows = [("family", "environment steps", "same settings as")]
    rows += [
        (name, f"{_data(path)['total_env_steps']:,}", facts[name]["settings_of"] or "no config")
        for name, path in families().items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(f"{name:{widths[0]}}  {steps:>{widths[1]}}  {same}" for name, steps, same in rows)


def list_configs(args: Sequence[str]) -> None:
    """Print the table, what its numbers are, and how a config is used.

    Args:
        args: of the command line, after `configs`; there is nothing to give but ``--help``.
    """
    PlainParser("rl-lightning configs", description=SUBCOMMANDS["configs"], allow_abbrev=False).parse_args(args)
    print(
        f"{table()}\n\nReturns are means of 100 episodes of the final policy, ± over seeds;\n"
        f"the repository's docs/results says of which commit.\n\n{table_of_families()}\n\n"
        "Settings to begin from in another environment: give it with --data.env_id=ID,\n"
        "a game with --data.env_kwargs.game=NAME. What the same settings have reached\n"
        "elsewhere stands in the table above.\n\n"
        "  train     rl-lightning fit -c sac/pendulum\n"
        "  begin     rl-lightning fit -c ppo/mujoco --data.env_id=Hopper-v5\n"
        f"  look      {CONFIGS}"
    )


def _name_and_task(name: str, path: Path) -> tuple[str, str, str]:
    data = _data(path)
    return name, data["env_id"], f"{data['total_env_steps']:,}"


def _data(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]
    return data
