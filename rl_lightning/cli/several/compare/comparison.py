"""What is found where sides are compared: for all tasks together, and for each."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, TypeVar

import numpy as np

from rl_lightning.cli.several.compare.scales import RAW, Scale, Scales
from rl_lightning.cli.several.compare.sides import Side
from rl_lightning.cli.several.compare.statistics import (
    ALPHA,
    Estimate,
    Floats,
    Sample,
    cut,
    estimate,
    holm,
    improvement,
    permutation_p,
    profile,
    resampled_weights,
    seeds_needed,
    trimmed_mean,
    variance_of_one,
    weights_of,
)
from rl_lightning.errors import UsageError

MEASURES = ("IQM", "mean", "median")
STEPS, SECONDS = "environment steps", "training time in seconds"  # the axes of curves
CURVE_POINTS, CURVE_RESAMPLES = 100, 2000
THRESHOLDS = 101

Number = TypeVar("Number", float, Floats)


class Curve(NamedTuple):
    """The IQM over an axis; a band or none. All [K] float64."""

    moments: Floats
    values: Floats
    low: Floats | None
    high: Floats | None


class Result(NamedTuple):
    """Of one side: the measures, the curves by axis where there are any, and the profile at the scope's thresholds."""

    side: Side
    sample: Sample
    measures: dict[str, Estimate]
    curves: dict[str, Curve]
    profile: Curve


class Pair(NamedTuple):
    """Of two sides: the difference of the IQM, first less second, and the probability that the first's run is better.

    `p` is of the permutation test, by Holm where there are several pairs; `seeds` of each side would be needed.
    """

    first: Result
    second: Result
    difference: Estimate
    probability: Estimate
    p: float
    seeds: int | None


class Scope(NamedTuple):
    """One task, or all of them together."""

    name: str
    is_raw: bool
    results: tuple[Result, ...]
    pairs: tuple[Pair, ...]


def common_tasks(sides: Sequence[Side]) -> list[str]:
    """Tasks that every side has runs of.

    Raises:
        UsageError: there are none.
    """
    by_side = {side.name: {run.task for run in side.runs} for side in sides}
    common = sorted(set.intersection(*by_side.values()))
    if not common:
        has = ", ".join(f"{name} {' and '.join(sorted(tasks))}" for name, tasks in by_side.items())
        raise UsageError(f"the sides have no task in common, {has}: compare runs of the same environment")
    return common


def scopes_of(sides: Sequence[Side], tasks: Sequence[str], scales: Scales) -> list[Scope]:
    """All tasks together first; where there are several, each by itself in its own scores too."""
    together = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    scopes = [_scope(together, sides, scales.by_task, scales.are_raw)]
    if len(tasks) > 1:
        scopes += [_scope(task, sides, {task: RAW}, True) for task in tasks]
    return scopes


def _scope(name: str, sides: Sequence[Side], scales: Mapping[str, Scale], is_raw: bool) -> Scope:
    its = [side.of(scales) for side in sides]
    samples = [_sample(side, scales) for side in its]
    # a generator of its own for each side: resamples are independent, and those of a side are always the same
    resampled = [resampled_weights(each.tasks, np.random.default_rng([0, i])) for i, each in enumerate(samples)]
    thresholds = np.linspace(
        min(sample.scores.min() for sample in samples), max(sample.scores.max() for sample in samples), THRESHOLDS
    )
    results = [
        Result(
            side,
            sample,
            {measure: _measure(measure, sample, weights) for measure in MEASURES},
            _curves(side, scales, sample, weights[:CURVE_RESAMPLES]),
            _profile(sample, weights, thresholds),
        )
        for side, sample, weights in zip(its, samples, resampled, strict=True)
    ]
    return Scope(name, is_raw, tuple(results), _pairs(results, resampled))


def _sample(side: Side, scales: Mapping[str, Scale]) -> Sample:
    tasks = sorted(scales)
    scores = [_scaled(run.score, scales[run.task]) for run in side.runs]
    return Sample(np.array(scores), np.array([tasks.index(run.task) for run in side.runs]))


def _scaled(value: Number, scale: Scale) -> Number:
    return (value - scale.low) / (scale.high - scale.low)


def _resampled(measure: str, sample: Sample, weights: Floats) -> Floats:
    return trimmed_mean(sample.scores, weights, cut(measure, len(sample.scores)))


def _measure(measure: str, sample: Sample, weights: Floats) -> Estimate:
    value = _resampled(measure, sample, weights_of(sample.tasks))
    return estimate(value, _resampled(measure, sample, weights), sample.can_vary)


def _profile(sample: Sample, weights: Floats, thresholds: Floats) -> Curve:
    shares = profile(sample.scores, weights_of(sample.tasks), thresholds)
    low, high = _band(profile(sample.scores, weights, thresholds)) if sample.can_vary else (None, None)
    return Curve(thresholds, shares, low, high)


def _pairs(results: Sequence[Result], resampled: Sequence[Floats]) -> tuple[Pair, ...]:
    pairs = []
    for (a, a_weights), (b, b_weights) in combinations(zip(results, resampled, strict=True), 2):
        can_vary = a.sample.can_vary and b.sample.can_vary
        a_iqm, b_iqm = (_resampled("IQM", r.sample, w) for r, w in ((a, a_weights), (b, b_weights)))
        values = a.measures["IQM"].value, b.measures["IQM"].value
        difference = 0.0 if math.isclose(*values) else values[0] - values[1]  # but for rounding
        its = [weights_of(side.sample.tasks) for side in (a, b)]
        needed = None
        if can_vary:
            variances = variance_of_one(a.sample, a_iqm) + variance_of_one(b.sample, b_iqm)
            needed = seeds_needed(difference, variances)
        pairs.append(
            Pair(
                a,
                b,
                estimate(difference, a_iqm - b_iqm, can_vary),
                estimate(
                    improvement(a.sample, b.sample, *its),
                    improvement(a.sample, b.sample, a_weights, b_weights),
                    can_vary,
                ),
                permutation_p(a.sample, b.sample, "IQM", np.random.default_rng(0)),
                needed,
            )
        )
    adjusted = holm([pair.p for pair in pairs])
    return tuple(pair._replace(p=p) for pair, p in zip(pairs, adjusted, strict=True))


def _curves(side: Side, scales: Mapping[str, Scale], sample: Sample, weights: Floats) -> dict[str, Curve]:
    """Where every run has been evaluated and none has ended; between evaluations a run keeps its last one."""
    moments = [run.evaluation_steps for run in side.runs]
    if not all(len(its) for its in moments):
        return {}
    begin, end = max(its[0] for its in moments), min(its[-1] for its in moments)
    grid = np.unique(np.concatenate(moments))
    grid = grid[(begin <= grid) & (grid <= end)]
    if len(grid) == 0:
        return {}
    grid = grid[np.unique(np.linspace(0, len(grid) - 1, CURVE_POINTS).round().astype(int))]
    latest = [np.searchsorted(its, grid, side="right") - 1 for its in moments]
    values = np.stack(  # [R, K]
        [_scaled(run.evaluations[at], scales[run.task]) for run, at in zip(side.runs, latest, strict=True)]
    )
    part = cut("IQM", len(values))
    means = np.array([trimmed_mean(column, weights_of(sample.tasks), part) for column in values.T])
    low, high = None, None
    if sample.can_vary:
        low, high = _band(np.stack([trimmed_mean(column, weights, part) for column in values.T], axis=1))
    curves = {STEPS: Curve(grid, means, low, high)}
    taken = [np.interp(grid, run.evaluation_steps, run.seconds) for run in side.runs if run.seconds is not None]
    if len(taken) == len(side.runs):
        of_tasks = [np.median(np.stack(taken)[sample.tasks == task], axis=0) for task in np.unique(sample.tasks)]
        curves[SECONDS] = Curve(np.mean(of_tasks, axis=0), means, low, high)
    return curves


def _band(resampled: Floats) -> tuple[Floats, Floats]:
    """[K] and [K], the ends of the interval of [B, K]."""
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    return low, high
