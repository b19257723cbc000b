"""The sides of a comparison: which runs each has, and what was measured of every run."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rl_lightning.callbacks.metrics_csv import TEST, Row, read_rows
from rl_lightning.cli.run_report.facts import settings
from rl_lightning.cli.several.compare.statistics import Floats
from rl_lightning.errors import UsageError

NAMED = 5  # folders that a message names
STEPS, SPEED = "env_steps", "time/env_steps_per_second"  # columns


class Scored(NamedTuple):
    """A run and what was measured of it.

    Attributes:
        folder: of the run.
        task: the environment's id.
        seed: as config.yaml has it.
        settings: by their keys, without seed and task.
        score: the metric at the end.
        env_steps: at which it was measured.
        evaluation_steps: [K] float64, environment steps of the evaluations while it trained, ascending.
        evaluations: [K] float64, their values.
        seconds: [K] float64, inside training batches until then; None where the run has not noted its speed.
    """

    folder: Path
    task: str
    seed: object
    settings: dict[str, Any]
    score: float
    env_steps: int
    evaluation_steps: Floats
    evaluations: Floats
    seconds: Floats | None


class Side(NamedTuple):
    """Runs under one name, by task, then by score."""

    name: str
    runs: tuple[Scored, ...]

    def of(self, tasks: Iterable[str]) -> "Side":
        """The same with the runs of some tasks."""
        wanted = {*tasks}
        return Side(self.name, tuple(run for run in self.runs if run.task in wanted))


def sides_of(given: Sequence[str], metric: str) -> list[Side]:
    """The sides that are given, in their order.

    Args:
        given: PATH, NAME=PATH or NAME=PATH,PATH each; a path is that of a run or of a folder of runs.
        metric: the column of `metrics.csv` that is a run's score, higher for a better run.

    Raises:
        UsageError: no runs, one twice, a run without a finite score, or sides of one name.
    """
    read = [_side(each, metric) for each in given]
    learners = [{str(run.settings.get("model.class_path")) for run in runs} for _, _, runs in read]
    sides = []
    for (name, paths, runs), its in zip(read, learners, strict=True):
        only = next(iter(its)) if len(its) == 1 and learners.count(its) == 1 else paths
        ordered = sorted(runs, key=lambda run: (run.task, run.score, str(run.folder)))
        sides.append(Side(name or only, tuple(ordered)))
    names = [side.name for side in sides]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]!r} names {names.count(twice[0])} sides: give each a name of its own, NAME=PATH")
    _check_once(sides)
    return sides


def run_folders(path: Path) -> list[Path]:
    """The runs that a path means: itself, or the folders in it.

    Raises:
        UsageError: there are none.
    """
    if _is_run(path):
        return [path]
    found = sorted(folder for folder in path.glob("*") if _is_run(folder))
    if not found:
        groups = sorted({run.parent.parent for run in path.glob("*/*/metrics.csv") if _is_run(run.parent)})
        where = f"there are some in {_few(groups)}: give one of these" if groups else "give a run, or a folder of runs"
        what = "has no runs in it, with config.yaml and metrics.csv" if path.is_dir() else "is no folder"
        raise UsageError(f"{str(path)!r} {what}: {where}")
    return found


def _side(given: str, metric: str) -> tuple[str, str, list[Scored]]:
    is_path = Path(given).exists()  # whose name may have any letter in it
    name, _, paths = ("", "", given) if is_path else given.rpartition("=")
    folders = [folder for path in ([given] if is_path else paths.split(",")) for folder in run_folders(Path(path))]
    rows = {folder: read_rows(folder / "metrics.csv")[0] for folder in folders}
    without = [folder for folder in folders if not any(metric in row for row in rows[folder])]
    if metric == TEST:
        without = [folder for folder in folders if not _is_tested(rows[folder])]
    if without:
        fix = "leave them out" if metric != TEST else "finish them with `rl-lightning resume RUN`, leave them out, or "
        fix += "--metric=val/return_mean takes the last evaluation" if metric == TEST else ""
        what = "without a final test" if metric == TEST else f"without any {metric}"
        raise UsageError(f"{len(without)} of {len(folders)} runs of {given!r} are {what}, {_few(without)}: {fix}")
    return name, paths, [_scored(folder, rows[folder], metric) for folder in folders]


def _scored(folder: Path, rows: Sequence[Row], metric: str) -> Scored:
    its = settings(folder / "config.yaml")
    last = [row for row in rows if metric in row][-1]
    score = float(last[metric])
    if not math.isfinite(score):
        raise UsageError(f"run {str(folder)!r} ends with {metric}={score}: it cannot be averaged; leave the run out")
    curve = metric.replace("test/", "val/")
    evaluated = [row for row in rows if curve in row and math.isfinite(float(row[curve]))]
    steps = np.array([float(row[STEPS]) for row in evaluated])
    return Scored(
        folder,
        str(its.pop("data.env_id", "data")),
        its.pop("seed_everything", None),
        its,
        score,
        int(float(last[STEPS])),
        steps,
        np.array([float(row[curve]) for row in evaluated]),
        _seconds(rows, steps),
    )


def _seconds(rows: Sequence[Row], env_steps: Floats) -> Floats | None:
    """Time inside training batches until some environment steps: each row's steps over its speed, added up."""
    noted = [(float(row[STEPS]), float(row[SPEED])) for row in rows if SPEED in row]
    if not noted:
        return None
    steps, speeds = np.array([(0.0, 1.0), *noted]).T
    seconds: Floats = np.interp(env_steps, steps, np.cumsum(np.diff(steps, prepend=0.0) / speeds))
    return seconds


def _is_tested(rows: Sequence[Row]) -> bool:
    """Whether the run's end was tested: a run that has gone on since then is under way."""
    tested = [float(row[STEPS]) for row in rows if TEST in row]
    return bool(tested) and tested[-1] == max(float(row[STEPS]) for row in rows if STEPS in row)


def _check_once(sides: Sequence[Side]) -> None:
    folders: dict[Path, str] = {}
    for side in sides:
        seeds: dict[tuple[str, object], Path] = {}
        for run in side.runs:
            where = run.folder.resolve()
            if where in folders:
                raise UsageError(f"run {str(run.folder)!r} is given twice, for {folders[where]} and {side.name}")
            folders[where] = side.name
            other = seeds.setdefault((run.task, run.seed), run.folder)
            if other != run.folder:
                raise UsageError(
                    f"{side.name} has seed {run.seed} twice on {run.task}, in {str(other)!r} and {str(run.folder)!r}: "
                    "runs of one seed do not count as two; give one of them"
                )


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "metrics.csv").is_file()


def _few(folders: Sequence[Path]) -> str:
    more = f" and {len(folders) - NAMED} more" if len(folders) > NAMED else ""
    return ", ".join(str(folder) for folder in folders[:NAMED]) + more
