"""The curves of a run's rows, in groups."""

import math
import re
from collections.abc import Sequence

from rl_lightning.callbacks.metrics_csv import Row
from rl_lightning.cli.run_report.drawings import Curve

GROUPS = {  # by the names of metrics; the first that fits
    "Returns": r"(train/return|(val|test)/return_mean)$",
    "Losses": r"train/\w*loss$",
    "Learning": r"train/(?!episode_length|longest_episode|env_restarts)",
    "Episodes": r"(train|val|test)/",
    "Speed": r"time/",
    "Others": r"",
}
NO_CURVES = ("env_steps", "step", "epoch", "val/return_std", "test/return_std")


def curves_of(rows: Sequence[Row]) -> dict[str, list[Curve]]:
    """Metrics over environment steps, by group; values that are not finite are left out, and so are empty groups.

    The mean return of an evaluation has the deviation of its episodes as its spread. The final test is no curve.
    """
    metrics = sorted({name for row in rows for name in row} - {*NO_CURVES})
    grouped: dict[str, list[Curve]] = {name: [] for name in GROUPS}
    for metric in metrics:
        group = next(name for name, pattern in GROUPS.items() if re.match(pattern, metric))
        curve = _curve(rows, metric)
        if curve.values and not metric.startswith("test/"):
            grouped[group].append(curve)
    return {name: curves for name, curves in grouped.items() if curves}


def evaluations(rows: Sequence[Row]) -> list[Row]:
    """Rows of evaluations, those of the final test among them."""
    return [row for row in rows if "val/return_mean" in row or "test/return_mean" in row]


def _curve(rows: Sequence[Row], metric: str) -> Curve:
    its = [row for row in rows if _is_finite(row.get("env_steps")) and _is_finite(row.get(metric))]
    deviation = metric.replace("_mean", "_std")
    has_spread = deviation != metric and all(_is_finite(row.get(deviation)) for row in its)
    return Curve(
        metric,
        [float(row["env_steps"]) for row in its],
        [float(row[metric]) for row in its],
        [float(row[deviation]) for row in its] if has_spread else None,
    )


def _is_finite(value: str | None) -> bool:
    try:
        return value is not None and math.isfinite(float(value))
    except ValueError:
        return False
