"""Drawings of a comparison: a colour and a dash for each side, the same in all of them."""

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from rl_lightning.cli.pages.figures import INK, SIDES, Drawing
from rl_lightning.cli.several.compare.comparison import Curve, Scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = ("-", "--", "-.", ":")
NAME_LENGTH = 24  # of a side beside its row; a longer one shows its end


def drawings(scope: Scope) -> dict[str, Drawing]:
    """Those that a scope has data for, by what they show."""
    axes = list(dict.fromkeys(axis for result in scope.results for axis in result.curves))
    shown: dict[str, Drawing] = {"scores": partial(_scores, scope)}
    shown |= {f"IQM over {axis}": partial(_curves, scope, axis) for axis in axes}
    shown["performance profile"] = partial(_profiles, scope)
    if scope.pairs:
        shown["probability of improvement"] = partial(_improvement, scope)
    return shown


def _scores(scope: Scope, axes: "Axes") -> None:
    for number, result in enumerate(scope.results):
        colour, iqm = _colour(number), result.measures["IQM"]
        heights = np.full(len(result.sample.scores), number + 0.18)
        axes.plot(result.sample.scores, heights, "o", color=colour, markersize=4, alpha=0.55, markeredgewidth=0)
        if iqm.low is not None and iqm.high is not None:
            axes.plot([iqm.low, iqm.high], [number, number], color=colour, linewidth=5, alpha=0.35)
        axes.plot([iqm.value], [number], "|", color=colour, markersize=16, markeredgewidth=2)
    _rows(axes, [result.side.name for result in scope.results])
    axes.set_xlabel("score" if scope.is_raw else "normalized score", color=INK)


def _curves(scope: Scope, axis: str, axes: "Axes") -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for number, result in enumerate(scope.results):
        if axis in result.curves:
            _line(axes, number, result.side.name, result.curves[axis], None)
    axes.set_xlabel(axis, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _legend(axes)


def _profiles(scope: Scope, axes: "Axes") -> None:
    for number, result in enumerate(scope.results):
        _line(axes, number, result.side.name, result.profile, "post")
    axes.set_xlabel("τ" if scope.is_raw else "τ, normalized", color=INK)
    axes.set_ylabel("runs above τ", color=INK)
    axes.set_ylim(-0.03, 1.03)
    _legend(axes)


def _improvement(scope: Scope, axes: "Axes") -> None:
    for number, pair in enumerate(scope.pairs):
        its = pair.probability
        if its.low is not None and its.high is not None:
            axes.plot([its.low, its.high], [number, number], color=INK, linewidth=5, alpha=0.3)
        axes.plot([its.value], [number], "|", color=INK, markersize=16, markeredgewidth=2)
    axes.axvline(0.5, color=INK, linewidth=1, linestyle=":")
    axes.set_xlim(-0.03, 1.03)
    _rows(axes, [f"{_short(pair.first.side.name)} > {_short(pair.second.side.name)}" for pair in scope.pairs])
    axes.set_xlabel("P(first > second)", color=INK)


def _line(axes: "Axes", number: int, name: str, curve: Curve, step: Literal["post"] | None) -> None:
    colour, dash = _colour(number), DASHES[number % len(DASHES)]
    style = "steps-post" if step else "default"
    axes.plot(
        curve.moments, curve.values, label=_short(name), color=colour, linestyle=dash, linewidth=1.6, drawstyle=style
    )
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.moments, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0, step=step)


def _rows(axes: "Axes", names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _legend(axes: "Axes") -> None:
    axes.legend(frameon=False, labelcolor=INK, fontsize="small")


def _colour(number: int) -> str:
    return SIDES[number % len(SIDES)]


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"
