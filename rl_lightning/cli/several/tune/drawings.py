"""Pictures of a search: its history, and the returns over each setting, with how much each matters."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from rl_lightning.cli.several.tune.plan import Plan
from rl_lightning.cli.several.tune.space import Choice, Range, as_text
from rl_lightning.cli.several.tune.study import Study, value_of

DONE, GIVEN_UP, BEST = "#1f77b4", "#999999", "#d62728"
WIDTH, HEIGHT = 4.0, 3.0  # inches of one drawing
ENOUGH = 4  # trials from which importances say something at all


def draw(folder: Path, plan: Plan, study: Study) -> None:
    """Write `history.png` and `settings.png`.

    Args:
        folder: of the search.
        plan: of the search.
        study: with at least one trial that was completed.
    """
    figure = Figure(figsize=(2 * WIDTH, HEIGHT), layout="constrained")
    _history(figure.subplots(), study)
    figure.savefig(folder / "history.png", dpi=120)
    count = len(plan.space.searched)
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    importances = _importances(study)
    keys = sorted(plan.space.searched, key=lambda key: -importances.get(key, 0.0))
    for key, axes in zip(keys, places, strict=False):
        _slice(axes, key, plan.space.searched[key], study)
        share = f": {importances[key]:.0%} of the importance" if key in importances else ""
        axes.set_title(f"{key.replace('.init_args', '')}{share}", fontsize=9)
    for axes in figure.axes[count:]:
        axes.set_axis_off()
    figure.savefig(folder / "settings.png", dpi=120)


def _history(axes: Axes, study: Study) -> None:
    done, given_up = study.trials(TrialState.COMPLETE), study.trials(TrialState.PRUNED)
    axes.scatter([t.number for t in done], [value_of(t) for t in done], color=DONE, s=16, label="completed")
    last = [(t.number, t.intermediate_values[t.last_step]) for t in given_up if t.last_step is not None]
    if last:
        numbers, values = zip(*last, strict=True)
        axes.scatter(numbers, values, color=GIVEN_UP, marker="x", s=16, label="pruned, at its last evaluation")
    bests = [max(value_of(t) for t in done[: place + 1]) for place in range(len(done))]
    axes.step([t.number for t in done], bests, where="post", color=BEST, linewidth=1.2, label="the best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("mean return of the seeds")
    axes.legend(fontsize=8)
    _plain(axes)


def _slice(axes: Axes, key: str, domain: Range | Choice, study: Study) -> None:
    done = study.trials(TrialState.COMPLETE)
    best = study.best(1)[0]
    axes.scatter(_places(domain, key, done), [value_of(t) for t in done], color=DONE, s=16)
    axes.scatter(_places(domain, key, [best]), [value_of(best)], color=BEST, s=30)
    if isinstance(domain, Choice):
        axes.set_xticks(range(len(domain.values)), [as_text(value) for value in domain.values])
        axes.set_xlim(-0.5, len(domain.values) - 0.5)
    else:
        axes.set_xscale("log" if domain.log else "linear")
        axes.set_xlim(domain.low, domain.high)
        axes.xaxis.set_minor_formatter(NullFormatter())  # labels between decades would lie on each other
    axes.set_ylabel("mean return")
    _plain(axes)


def _places(domain: Range | Choice, key: str, trials: Sequence[FrozenTrial]) -> list[float]:
    values = [trial.params[key] for trial in trials]
    return [domain.values.index(value) for value in values] if isinstance(domain, Choice) else values


def _importances(study: Study) -> dict[str, float]:
    """The share that each setting has in what makes a trial one of the best (PED-ANOVA); none of a few trials."""
    done = study.trials(TrialState.COMPLETE)
    if len(done) < ENOUGH or len({trial.value for trial in done}) == 1:
        return {}
    return get_param_importances(study.optuna, evaluator=PedAnovaImportanceEvaluator())


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
