"""What can be concluded from a comparison, in plain sentences; and what is to be known of it."""

import math
from collections.abc import Sequence

import numpy as np

from rl_lightning.cli.run_report.facts import as_typed
from rl_lightning.cli.several.compare.comparison import Pair, Result, Scope
from rl_lightning.cli.several.compare.sides import Side, unlike
from rl_lightning.cli.several.compare.statistics import ALPHA, FEWEST, Estimate

MANY = 1000  # seeds; a difference that needs more is called too small
BATCHES = 1.05  # by how much runs of one length differ at most, for ending with a whole batch
FEW = 10  # seeds, with which intervals are too narrow
NO_SETTINGS = ("trainer.default_root_dir", "trainer.logger", "ckpt_path", "trainer.enable_progress_bar")
CONDITIONS = ("data.env_kwargs", "data.wrappers", "data.eval_max_episode_steps", "data.test_episodes")


def decimals(scope: Scope) -> int:
    """With which numbers of a scope are written: three digits of the range of its scores."""
    scores = np.concatenate([result.sample.scores for result in scope.results])
    spread = float(np.ptp(scores)) or abs(float(scores[0])) or 1.0
    return max(0, 2 - math.floor(math.log10(spread)))


def text_of(estimate: Estimate, digits: int) -> str:
    """A value with its interval, where it has one."""
    interval = "" if estimate.low is None else f" [{estimate.low:,.{digits}f}, {estimate.high:,.{digits}f}]"
    return f"{estimate.value:,.{digits}f}{interval}"


def seeds_text(result: Result) -> str:
    """How many runs a side has in each task."""
    runs = sorted({*np.bincount(result.sample.tasks).tolist()})
    return str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"


def number_of(seeds: int) -> str:
    """Seeds needed, in two digits: they are no more exact than that."""
    return f"{float(f'{seeds:.2g}'):,.0f}" if seeds <= MANY else f"more than {MANY:,}"


def conclusion(pair: Pair, digits: int) -> str:
    """What two sides' runs show, whether that is enough, and else how many seeds would be."""
    a, b, difference = pair.first, pair.second, pair.difference
    if difference.value < 0:
        a, b = b, a
        low, high = (None, None) if difference.low is None else (-difference.high, -difference.low)  # type: ignore[operator]
        difference = Estimate(-difference.value, low, high)
    counts = [seeds_text(each) for each in (a, b)]
    seeds = f"{counts[0]} {_seeds(counts[0])} each" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]} seeds"
    if difference.value == 0:
        return f"With {seeds}, {a.side.name} and {b.side.name} have the same IQM: nothing says that one is better."
    found = f"With {seeds}, {a.side.name}'s IQM is higher than {b.side.name}'s by {text_of(difference, digits)}"
    test = f"permutation test, p = {pair.p:.2g}"
    if pair.p < ALPHA:
        return f"{found}. This is enough to call {a.side.name} better ({test})."
    never = " No result of so few seeds could be." if _smallest_p(a, b) >= ALPHA else ""
    return f"{found}. This is not enough to call one better ({test}).{never} {_needed(pair)}"


def notes_of(sides: Sequence[Side], tasks: Sequence[str], scopes: Sequence[Scope], scaling: str) -> list[str]:
    """What is to be known of the numbers: scales, tasks left out, unequal lengths, mixed settings, few seeds.

    Args:
        sides: with all their runs.
        tasks: that are compared.
        scopes: what was found.
        scaling: what is to be said of the scales.
    """
    left_out = [f"{s.name}'s {t}" for s in sides for t in sorted({run.task for run in s.runs} - {*tasks})]
    notes = [scaling] if scaling else []
    if left_out:
        notes.append(f"Left out, since not every side has it: {', '.join(left_out)}.")
    compared = [side.of(tasks) for side in sides]
    for task in tasks:
        lengths = {side.name: sorted({run.env_steps for run in side.runs if run.task == task}) for side in compared}
        every = [steps for its in lengths.values() for steps in its]
        if max(every) > BATCHES * min(every):
            each = ", ".join(f"{name} {_range(its)}" for name, its in lengths.items())
            notes.append(f"Scores on {task} are not of the same environment steps: {each}.")
        if keys := unlike([run for side in compared for run in side.runs if run.task == task], CONDITIONS):
            notes.append(f"Runs on {task} are not tested alike: they differ in {', '.join(keys)}.")
    for side in compared:
        if keys := _mixed(side, tasks):
            notes.append(f"Runs of {side.name} on one task differ in more than the seed: {', '.join(keys)}.")
    notes += _of_seeds(scopes[0])
    if len(scopes[0].pairs) > 1:
        notes.append("p values are of all pairs together (Holm): that any of them is below 0.05 by chance has 5 %.")
    return notes


def differing(sides: Sequence[Side]) -> dict[str, list[str]]:
    """Settings in which sides differ, by key: what each side's runs have."""
    keys = sorted(
        {key for side in sides for run in side.runs for key in run.settings if not key.startswith(NO_SETTINGS)}
    )
    found = {}
    for key in keys:
        values = [sorted({as_typed(run.settings.get(key, "")) for run in side.runs}) for side in sides]
        if any(value != values[0] for value in values):
            found[key] = [" or ".join(value) for value in values]
    return found


def _needed(pair: Pair) -> str:
    if pair.seeds is None:
        return "How many seeds would be cannot be said: one run alone shows no spread."
    present = math.floor(max(pair.first.sample.seeds, pair.second.sample.seeds))
    needed = max(pair.seeds, present + 1, FEWEST)
    about = "about " if needed <= MANY else ""
    number = f"{about}{number_of(needed)}"
    return f"Were difference and spread as measured, {number} seeds each would be enough in 8 of 10 comparisons."


def _smallest_p(a: Result, b: Result) -> float:
    """Of the permutation test: one way to deal the runs of all, or two where both sides have as many.

    With one task the IQM of either side is the same where the runs that it leaves out between them, the lowest of the
    better side and the highest of the other, are dealt otherwise.
    """
    of_a, of_b = np.bincount(a.sample.tasks).tolist(), np.bincount(b.sample.tasks).tolist()
    ways = math.prod(math.comb(m + n, m) for m, n in zip(of_a, of_b, strict=True))
    left_out = [counts[0] // 4 if len(counts) == 1 else 0 for counts in (of_a, of_b)]
    return (2 if of_a == of_b else 1) * math.comb(sum(left_out), left_out[0]) / ways


def _of_seeds(scope: Scope) -> list[str]:
    notes = []
    alone = [result.side.name for result in scope.results if not result.sample.can_vary]
    if alone:
        notes.append(f"No intervals of {', '.join(alone)}: there is a task with one run alone.")
    if any(result.sample.can_vary and result.sample.seeds < FEW for result in scope.results):
        notes.append(
            f"Bootstrap intervals of fewer than {FEW} seeds are too narrow, so what is concluded rests on a "
            "permutation test, which is exact with any number."
        )
    return notes


def _mixed(side: Side, tasks: Sequence[str]) -> list[str]:
    mixed = set[str]()
    for task in tasks:
        its = [run.settings for run in side.runs if run.task == task]
        keys = {key for settings in its for key in settings if not key.startswith(NO_SETTINGS)}
        mixed |= {key for key in keys if len({as_typed(settings.get(key, "")) for settings in its}) > 1}
    return sorted(mixed)


def _range(steps: Sequence[int]) -> str:
    return f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"


def _seeds(count: str) -> str:
    return "seed" if count == "1" else "seeds"
