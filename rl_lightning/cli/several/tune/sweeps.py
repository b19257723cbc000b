"""A search space as a sweep of W&B, whose agents run `rl-lightning fit`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rl_lightning.callbacks.metrics_csv import TEST
from rl_lightning.cli.several.tune.space import Choice, Range, Space, as_text
from rl_lightning.errors import UsageError

HEAD = """\
# A sweep of W&B over the same space as `rl-lightning tune` has. An agent runs one seed at a time, online:
#   wandb sweep {path}
#   wandb agent SWEEP
"""
SAME = "# W&B knows no setting that has another's value, so these are searched by themselves: {keys}\n"
ONLINE = "--trainer.logger.init_args.offline=false"


def sweep(space: Space, configs: Sequence[str], flags: Sequence[str], seeds: int) -> dict[str, Any]:
    """What the file of a sweep says: Bayesian search for the highest return of the final test.

    Args:
        space: what is searched.
        configs: of the runs, as `fit` takes them.
        flags: of all runs.
        seeds: of the runs, 0, 1, ...; one of them is drawn for each run.
    """
    domains = {**space.searched, **{key: space.searched[other] for key, other in space.same.items()}}
    return {
        "program": "rl-lightning",
        "method": "bayes",
        "metric": {"name": TEST, "goal": "maximize"},
        "parameters": {key: _parameter(domain) for key, domain in domains.items()}
        | {"seed_everything": {"values": [*range(seeds)]}},
        "command": [
            "${env}",
            "rl-lightning",
            "fit",
            *(f"--config={config}" for config in configs),
            ONLINE,
            *flags,
            "${args}",
        ],
    }


def write_sweep(path: Path, space: Space, configs: Sequence[str], flags: Sequence[str], seeds: int) -> None:
    """Write the file, and say how it is used.

    Raises:
        UsageError: there is one already, or it cannot be written.
    """
    head = HEAD.format(path=path) + (SAME.format(keys=", ".join(space.same)) if space.same else "")
    content = yaml.safe_dump(sweep(space, configs, flags, seeds), sort_keys=False)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(head + content)
    except OSError as error:
        raise UsageError(f"wandb-sweep={str(path)!r} cannot be written: {error.strerror}; give another file") from error
    print(f"Sweep: {path}\n  begin     wandb sweep {path}\n  run       wandb agent SWEEP, which the first one names")


def _parameter(domain: Range | Choice) -> dict[str, Any]:
    """Nulls, which W&B would hand to the command line as None, and booleans are written as flags have them."""
    if isinstance(domain, Choice):
        numbers = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in domain.values]
        return {"values": [*domain.values] if all(numbers) else [as_text(value) for value in domain.values]}
    kind = "int_uniform" if isinstance(domain.low, int) else "log_uniform_values" if domain.log else "uniform"
    return {"distribution": kind, "min": domain.low, "max": domain.high}
