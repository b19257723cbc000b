"""Statistics of few runs, after Agarwal et al. 2021 (arXiv:2108.13264).

Each statistic is a function of scores and of what every run weighs. Tasks weigh the same, and so do the runs of a task.
A bootstrap resample or a relabelling of the runs changes the weights alone, so thousands of them are one product.

R is the number of runs of all tasks, B the number of resamples. Weights add up to 1 over the runs.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

RESAMPLES = 20_000
LEVEL = 0.95
ALPHA = 1 - LEVEL
Z_ALPHA, Z_POWER = 1.959964, 0.841621  # standard normal quantiles at 1 - 0.05/2, and at a power of 0.8
FEWEST = 5  # runs of each side: with one task no relabelling of 3 is rarer than 2 of 20, of 4 than 4 of 70


class Estimate(NamedTuple):
    """A value with its 95 % interval; none where a task has one run alone."""

    value: float
    low: float | None = None
    high: float | None = None


class Sample(NamedTuple):
    """Runs of one side in tasks that all sides have.

    Attributes:
        scores: [R] float64, in ascending order within each task, so that their order is nobody's choice.
        tasks: [R] the number of each run's task, from 0.
    """

    scores: Floats
    tasks: Ints

    @property
    def can_vary(self) -> bool:
        """Whether every task has two runs or more."""
        return bool(np.bincount(self.tasks).min() > 1)

    @property
    def seeds(self) -> float:
        """Runs of a task, on average."""
        return len(self.tasks) / len(np.bincount(self.tasks))


def cut(measure: str, runs: int) -> float:
    """The share of runs that a measure leaves out at either end: "IQM", "mean" or "median"."""
    return {"IQM": runs // 4, "mean": 0, "median": (runs - 1) // 2}[measure] / runs


def weights_of(tasks: Ints) -> Floats:
    """[R] what each run weighs."""
    runs = np.bincount(tasks)
    return 1 / (runs[tasks] * len(runs))


def resampled_weights(tasks: Ints, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """[B, R] what each run weighs in bootstrap resamples, which draw within each task."""
    runs = np.bincount(tasks)
    weights = np.zeros((resamples, len(tasks)))
    for task, n in enumerate(runs):
        weights[:, tasks == task] = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / (n * len(runs))
    return weights


def trimmed_mean(scores: Floats, weights: Floats, cut: float) -> Floats:
    """The mean without the lowest and the highest `cut` of the weight.

    Args:
        scores: [R].
        weights: [..., R], which add up to 1.
        cut: below 0.5.

    Returns:
        [...]
    """
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(weights[..., order], axis=-1).clip(cut, 1 - cut)
    inside = np.diff(below, axis=-1, prepend=cut)
    means: Floats = inside @ scores[order] / (1 - 2 * cut)
    return means


def profile(scores: Floats, weights: Floats, thresholds: Floats) -> Floats:
    """[..., K] the weight of the runs whose score is above each of [K] thresholds, with weights [..., R]."""
    shares: Floats = weights @ (scores[:, None] > thresholds).astype(np.float64)
    return shares


def improvement(a: Sample, b: Sample, a_weights: Floats, b_weights: Floats) -> Floats:
    """[...] P(A > B), ties half, of one run of each side in the same task; the mean over tasks.

    This is the U of Mann and Whitney over the number of pairs.
    """
    wins = (a.scores[:, None] > b.scores) + 0.5 * (a.scores[:, None] == b.scores)
    wins = wins * (a.tasks[:, None] == b.tasks) * len(np.bincount(a.tasks))
    probabilities: Floats = ((a_weights @ wins) * b_weights).sum(axis=-1)
    return probabilities


def estimate(value: float | Floats, resampled: Floats, can_vary: bool) -> Estimate:
    """A value with the percentile interval of [B] resampled ones."""
    if not can_vary:
        return Estimate(float(value))
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2])
    return Estimate(float(value), float(low), float(high))


def permutation_p(a: Sample, b: Sample, measure: str, rng: np.random.Generator) -> float:
    """The probability of a difference at least as large as between A and B, if sides were only names.

    Runs of a task are dealt to the two sides at random, `RESAMPLES` times. The smallest possible value is that of the
    number of ways to deal them: 0.1 for one task with three runs of each side.
    """
    scores, tasks = np.concatenate([a.scores, b.scores]), np.concatenate([a.tasks, b.tasks])
    dealt = [np.zeros((RESAMPLES, len(scores))), np.zeros((RESAMPLES, len(scores)))]
    shares = [weights_of(side.tasks) for side in (a, b)]
    for task in np.unique(tasks):
        members = rng.permuted(np.tile(np.flatnonzero(tasks == task), (RESAMPLES, 1)), axis=1)
        parts = np.split(members, [np.count_nonzero(a.tasks == task)], axis=1)
        for weights, part, side, share in zip(dealt, parts, (a, b), shares, strict=True):
            np.put_along_axis(weights, part, share[side.tasks == task][0], axis=1)
    found = np.subtract(
        *(trimmed_mean(scores, w, cut(measure, len(side.scores))) for w, side in zip(dealt, (a, b), strict=True))
    )
    here = np.subtract(
        *(trimmed_mean(s.scores, w, cut(measure, len(s.scores))) for s, w in zip((a, b), shares, strict=True))
    )
    rounding = 1e-9 * np.ptp(scores)
    return float((1 + np.count_nonzero(np.abs(found) >= abs(here) - rounding)) / (RESAMPLES + 1))


def holm(p_values: list[float]) -> list[float]:
    """The same for several tests together: the chance that any of them errs stays below 5 %."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def variance_of_one(sample: Sample, resampled: Floats) -> float:
    """What one seed's share in the variance of a measure is: that of the mean, σ² of the scores.

    Args:
        sample: the runs.
        resampled: [B] the measure of bootstrap resamples; theirs is too small by (n - 1) / n with n seeds.
    """
    n = sample.seeds
    return float(np.var(resampled)) * n * n / (n - 1)


def seeds_needed(difference: float, variances: float) -> int | None:
    """Seeds of each side with which a difference is found at 5 % in 8 of 10 comparisons.

    The normal approximation of Welch's test with the correction of Guenther (1981) for the spread's being estimated;
    see Colas et al. 2018, arXiv:1806.08295. It takes the difference and the spread for the true ones.

    Args:
        difference: between the sides.
        variances: of one seed, added up over both sides.

    Returns:
        None without a difference.
    """
    if difference == 0:
        return None
    n = (Z_ALPHA + Z_POWER) ** 2 * variances / difference**2 + Z_ALPHA**2 / 4
    return max(FEWEST, math.ceil(n))
