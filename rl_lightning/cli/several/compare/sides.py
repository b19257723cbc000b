"""The sides of a comparison: which runs each has, and what was measured of every run."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rl_lightning.callbacks.metrics_csv import TEST, Row, final_test, read_rows
from rl_lightning.cli.run_report.facts import ABSENT, as_typed, settings
from rl_lightning.cli.several.compare.statistics import Floats
from rl_lightning.errors import UsageError, require

NAMED = 5  # folders that a message names
STEPS, SPEED = "env_steps", "time/env_steps_per_second"  # columns
ENV_KWARGS = "data.env_kwargs."  # how the keys of an environment's own settings begin


class Scored(NamedTuple):
    """A run and what was measured of it.

    Attributes:
        folder: of the run.
        task: the environment's id, with those of its own settings in which runs of one side differ.
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
    read = _by_task([_side(each, metric) for each in given])
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


def unlike(runs: Sequence[Scored], keys: tuple[str, ...]) -> list[str]:
    """Settings in which runs differ, of those whose keys begin so."""
    its = [frozenset((k, as_typed(value)) for k, value in run.settings.items() if k.startswith(keys)) for run in runs]
    return sorted({key for key, _ in frozenset.union(*its) - frozenset.intersection(*its)})


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
    name, paths = _name_and_paths(given)
    folders = [folder for path in paths for folder in run_folders(Path(path))]
    rows = {folder: read_rows(folder / "metrics.csv")[0] for folder in folders}
    scored = {
        folder: _scored(folder, its, last, metric) for folder, its in rows.items() if (last := _last(its, metric))
    }
    if without := [folder for folder in folders if folder not in scored]:
        fix = "leave them out" if metric != TEST else "finish them with `rl-lightning resume RUN`, leave them out, or "
        fix += "--metric=val/return_mean takes the last evaluation" if metric == TEST else ""
        what = "without a final test" if metric == TEST else f"without any {metric}"
        raise UsageError(f"{len(without)} of {len(folders)} runs of {given!r} are {what}, {_few(without)}: {fix}")
    return name, ",".join(paths), [scored[folder] for folder in folders]


def _name_and_paths(given: str) -> tuple[str, list[str]]:
    """What PATH, NAME=PATH or NAME=PATH,PATH says; a path that there is may have any letter in its name."""
    ends = [-1, *(place for place, letter in enumerate(given) if letter == "=")]
    readings = [
        (given[: max(end, 0)], paths) for end in ends for paths in ([given[end + 1 :]], given[end + 1 :].split(","))
    ]
    name, paths = next((each for each in readings if all(map(_is_there, each[1]))), readings[-1])
    require(all(paths), "SIDE", given, "a path of it is empty; give NAME=PATH or NAME=PATH,PATH, without spaces")
    return name, paths


def _is_there(path: str) -> bool:
    return bool(path) and Path(path).exists()


def _by_task(sides: Sequence[tuple[str, str, list[Scored]]]) -> list[tuple[str, str, list[Scored]]]:
    """The same, where runs of one side in environments of one id, but other settings, have tasks of their own."""
    telling: dict[str, set[str]] = {}  # keys, by the environment's id
    for _, _, runs in sides:
        for task in {run.task for run in runs}:
            its = [run for run in runs if run.task == task]
            telling.setdefault(task, set()).update(unlike(its, (ENV_KWARGS,)))
    return [(name, paths, [_with_task(run, sorted(telling[run.task])) for run in runs]) for name, paths, runs in sides]


def _with_task(run: Scored, telling: Sequence[str]) -> Scored:
    values = (f"{key.removeprefix(ENV_KWARGS)}={as_typed(run.settings.get(key, ABSENT))}" for key in telling)
    return run._replace(task=" ".join([run.task, *values]))


def _last(rows: Sequence[Row], metric: str) -> Row | None:
    """The row with a run's score: of the final test, or the last that has the metric."""
    if metric == TEST:
        return final_test(rows)
    return next((row for row in reversed(rows) if metric in row and STEPS in row), None)


def _scored(folder: Path, rows: Sequence[Row], last: Row, metric: str) -> Scored:
    its = settings(folder / "config.yaml")
    score = float(last[metric])
    if not math.isfinite(score):
        raise UsageError(f"run {str(folder)!r} ends with {metric}={score}: it cannot be averaged; leave the run out")
    curve = metric.replace("test/", "val/")
    evaluated = [row for row in rows if curve in row and STEPS in row and math.isfinite(float(row[curve]))]
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
    """Time inside training batches until some environment steps: each row's steps over its speed, added up.

    Steps before the first row may be in no batch of the run: replay's random ones, or those before a checkpoint. So it
    has no more of them than a later row has.
    """
    noted = [(float(row[STEPS]), float(row[SPEED])) for row in rows if SPEED in row and STEPS in row]
    if not noted:
        return None
    steps, speeds = np.array(noted).T
    taken = np.diff(steps, prepend=0.0)
    taken[0] = min(taken[0], taken[1:].max(initial=0.0) or taken[0])
    seconds: Floats = np.interp(env_steps, [steps[0] - taken[0], *steps], [0.0, *np.cumsum(taken / speeds)])
    return seconds


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
