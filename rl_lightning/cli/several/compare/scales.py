"""Scales of scores: returns of different tasks are never averaged as they are."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from rl_lightning.cli.several.compare.sides import Side
from rl_lightning.errors import UsageError

POOLED = "pooled"  # what --normalize says for the range of the compared runs


class Scale(NamedTuple):
    """What counts as 0 and as 1 in a task; raw scores are on the scale of 0 and 1."""

    low: float
    high: float


RAW = Scale(0.0, 1.0)


class Scales(NamedTuple):
    """A scale for each task, and what is to be said of them."""

    by_task: Mapping[str, Scale]
    note: str

    @property
    def are_raw(self) -> bool:
        """Whether scores stand as they were measured."""
        return {*self.by_task.values()} == {RAW}


def scales_of(normalize: str | None, sides: Sequence[Side], tasks: Sequence[str]) -> Scales:
    """The scale of every task.

    Args:
        normalize: a YAML file with `TASK: [SCORE_OF_0, SCORE_OF_1]`, "pooled", or None: raw for one task, pooled for
            several.
        sides: whose runs make the range.
        tasks: that are compared.

    Raises:
        UsageError: the file lacks a task or is no such file; a range is empty.
    """
    if normalize is None and len(tasks) == 1:
        return Scales({tasks[0]: RAW}, "")
    if normalize in (None, POOLED):
        scales = {task: _range(sides, task) for task in tasks}
        note = (
            "Scores are normalized: in each task 0 is the lowest and 1 the highest of all evaluations of the compared "
            "runs. They change with what is compared; --normalize=FILE fixes them."
        )
    else:
        assert normalize is not None
        scales = _read(Path(normalize), tasks)
        note = f"Scores are normalized by {normalize}."
    for task, scale in scales.items():
        if not scale.low < scale.high:
            raise UsageError(
                f"scores of {task} cannot be normalized from {scale.low:g} to {scale.high:g}: give --normalize=FILE "
                f"with the line `{task}: [LOW, HIGH]`, the second above the first"
            )
    ranges = ", ".join(f"{task} {scale.low:g} to {scale.high:g}" for task, scale in scales.items())
    return Scales(scales, f"{note} Ranges: {ranges}.")


def _range(sides: Sequence[Side], task: str) -> Scale:
    runs = [run for side in sides for run in side.runs if run.task == task]
    values = [value for run in runs for value in (run.score, *run.evaluations.tolist())]
    return Scale(min(values), max(values))


def _read(path: Path, tasks: Sequence[str]) -> dict[str, Scale]:
    example = f"a YAML file has a line for each task, `{tasks[0]}: [LOW, HIGH]`"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"the file cannot be read ({error.strerror}); give {POOLED!r} or a file"
        raise UsageError(f"normalize={str(path)!r} is not allowed: {reason}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"normalize={str(path)!r} is not allowed: it is no YAML; {example}") from error
    if not isinstance(found, dict) or not all(_is_range(value) for value in found.values()):
        raise UsageError(f"normalize={str(path)!r} is not allowed: {example}")
    if missing := [task for task in tasks if task not in found]:
        raise UsageError(f"normalize={str(path)!r} has no line for {', '.join(missing)}: {example}")
    return {task: Scale(*map(float, found[task])) for task in tasks}


def _is_range(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, int | float) and math.isfinite(each) for each in value)
    )
