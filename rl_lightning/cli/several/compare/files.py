"""The raw numbers of a comparison, as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence

from rl_lightning.cli.several.compare.comparison import Curve, Scope
from rl_lightning.cli.several.compare.sides import Side


def runs_csv(sides: Sequence[Side], tasks: Sequence[str]) -> str:
    """A line for each run that is compared; training_seconds is empty where a run has not noted its speed."""
    lines = [
        [
            side.name,
            run.task,
            run.seed,
            run.folder,
            run.score,
            run.env_steps,
            "" if run.seconds is None or not len(run.seconds) else f"{run.seconds[-1]:.3f}",
        ]
        for side in sides
        for run in side.of(tasks).runs
    ]
    return _text(["side", "task", "seed", "folder", "score", "env_steps", "training_seconds"], lines)


def curves_csv(scopes: Sequence[Scope]) -> str:
    """A line for each point of the curves and profiles; low and high are empty where there is no interval."""
    lines = [
        [scope.name, result.side.name, axis, *point]
        for scope in scopes
        for result in scope.results
        for axis, curve in {**result.curves, "runs above the score": result.profile}.items()
        for point in _points(curve)
    ]
    return _text(["scope", "side", "axis", "at", "value", "low", "high"], lines)


def _points(curve: Curve) -> Iterable[tuple[object, ...]]:
    blank = [""] * len(curve.moments)
    low = blank if curve.low is None else curve.low.tolist()
    high = blank if curve.high is None else curve.high.tolist()
    return zip(curve.moments.tolist(), curve.values.tolist(), low, high, strict=True)


def _text(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return text.getvalue()
