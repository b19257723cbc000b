"""What a search has found: the table of its best trials, the config of the best one, and what to do with it."""

from datetime import UTC, datetime
from shlex import quote

from optuna.trial import FrozenTrial

from rl_lightning.callbacks.metrics_csv import TEST
from rl_lightning.callbacks.run_folder import write_whole
from rl_lightning.cli.report import decimals, program_name
from rl_lightning.cli.several.tune.checks import Settings
from rl_lightning.cli.several.tune.plan import Folder, Plan
from rl_lightning.cli.several.tune.space import as_text
from rl_lightning.cli.several.tune.study import REASON, RETURNS, Study
from rl_lightning.errors import UsageError

SHOWN = 5  # trials in the table
JUDGES = 5  # fresh seeds of the command that judges the best trial


def write_best(folder: Folder, plan: Plan, study: Study, settings: Settings) -> None:
    """Write `best.yaml`: the settings of the best trial, with a seed that the search has not used.

    Raises:
        UsageError: no trial has been completed; the message has the reason of the last that failed.
    """
    best = study.best(1)
    if not best:
        failed = [trial.user_attrs[REASON] for trial in study.trials() if REASON in trial.user_attrs]
        reason = f"the last one that failed: {failed[-1]}" if failed else "none has ended yet"
        raise UsageError(
            f"no trial of {len(study.trials())} was completed, {reason}; logs: {folder.path}/trial-*/*/output.log"
        )
    [trial] = best
    flags = [*plan.space.flags(trial.params), f"--seed_everything={plan.seeds}"]
    reached = f"{TEST} {trial.value:.{decimals(*trial.user_attrs[RETURNS])}f}"
    seeds = f"the mean of the seeds 0 to {plan.seeds - 1}" if plan.seeds > 1 else "with seed 0"
    head = (
        f"# The best of {len(study.trials())} trials of {folder.path}: trial {trial.number}, written "
        f"{datetime.now(UTC).isoformat(timespec='seconds')}.\n"
        f"# {reached}, {seeds}. It was chosen as the highest, so it is too high: judge the settings by "
        "other seeds.\n"
        f"# Searched: {' '.join(map(quote, plan.space.flags(trial.params)))}\n"
    )
    write_whole(folder.best, head + settings.text(flags))


def table(plan: Plan, trials: list[FrozenTrial]) -> str:
    """A column for each trial: its value, the returns of its seeds, and the settings that were searched."""
    head = ["", *(f"trial {trial.number}" for trial in trials)]
    places = decimals(*(each for trial in trials for each in trial.user_attrs[RETURNS]))
    value = ["mean return", *(f"{trial.value:.{places}f}" for trial in trials)]
    spread = ["of seeds", *(_spread(trial.user_attrs[RETURNS], places) for trial in trials)]
    params = [
        [key.replace(".init_args", ""), *(_short(trial.params[key]) for trial in trials)] for key in plan.space.searched
    ]
    rows = [head, value, *([spread] if plan.seeds > 1 else []), *params]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([f"{row[0]:{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def advice(folder: Folder, plan: Plan, study: Study) -> str:
    """The table, a caution, and commands that go on from there."""
    program, path = program_name("rl-lightning"), quote(str(folder.path))
    count, best = len(study.trials()), study.best(1)[0]
    fresh = f"{plan.seeds}..{plan.seeds + JUDGES - 1}"
    return (
        f"{table(plan, study.best(SHOWN))}\n"
        f"Caution: trial {best.number} is the highest of {count}, so its return is partly luck. Other seeds tell how "
        "good the settings are:\n"
        f"  judge     {program} fit -c {quote(str(folder.best))} --seeds={fresh}\n"
        f"Search folder: {folder.path}\n"
        f"  more      {program} tune --resume {path} --trials={2 * count}"
    )


def _spread(returns: list[float], places: int) -> str:
    return f"{min(returns):.{places}f} to {max(returns):.{places}f}"


def _short(value: float | int | str | bool | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else as_text(value)
