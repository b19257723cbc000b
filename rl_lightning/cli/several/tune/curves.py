"""What the rows of a trial's runs say: evaluations on the way, and the return at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rl_lightning.callbacks.metrics_csv import TEST, final_test, read_rows

EVALUATION = "val/return_mean"


class Evaluations(NamedTuple):
    """Mean returns of a run's evaluations, by environment steps: both of one length, steps ascending."""

    env_steps: list[float]
    returns: list[float]


def evaluations_in(metrics: Path) -> Evaluations:
    """Those that a run has written to its `metrics.csv` so far."""
    rows = [row for row in read_rows(metrics)[0] if EVALUATION in row]
    return Evaluations([float(row["env_steps"]) for row in rows], [float(row[EVALUATION]) for row in rows])


def final_return(metrics: Path) -> float | None:
    """Mean return of the final test's episodes; None where there has been none."""
    row = final_test(read_rows(metrics)[0])
    return float(row[TEST]) if row else None


def means_at(runs: Sequence[Evaluations], every: int) -> dict[int, float]:
    """Mean over runs at multiples of `every` environment steps, at which each has begun and each has arrived.

    Runs whose batches differ are evaluated at different steps, so between two evaluations a run counts as a straight
    line. Before its first evaluation it counts as nothing.

    >>> means_at([Evaluations([100, 200], [1, 3]), Evaluations([150, 250], [5, 7])], every=100)
    {200: 4.5}
    """
    if not runs or not all(run.env_steps for run in runs):
        return {}
    first = max(run.env_steps[0] for run in runs)
    last = min(run.env_steps[-1] for run in runs)
    steps = range(-int(-first // every) * every, int(last) + 1, every)
    return {step: float(np.mean([np.interp(step, *run) for run in runs])) for step in steps}
