"""Curves and equations, drawn by matplotlib."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rl_lightning.cli.pages.figures import FONT_SIZE, INK, LINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MATHTEXT = (  # of TeX, what matplotlib says otherwise
    (r"\\tfrac", r"\\frac"),
    (r"\\frac(\w)(\w)", r"\\frac{\1}{\2}"),
    (r"\\[Bb]ig[lr]?(?![a-z])", ""),
    (r"\\le(?![a-z])", r"\\leq"),
    (r"\\[lr]vert", "|"),
    (r"\\[lr]?Vert", r"\\|"),
    (r"\^\\text\{(\w+)\}", r"^{\\mathrm{\1}}"),
    (r"\\text\{", r"\\mathrm{"),
    (r"\\(mathbb|mathcal|bar|hat|tilde) ?(\w|\\[a-z]+)(?![\w{])", r"\\\1{\2}"),
)


class Curve(NamedTuple):
    """A metric over environment steps; a spread of its value or none."""

    metric: str
    env_steps: Sequence[float]
    values: Sequence[float]
    spread: Sequence[float] | None = None


def equation(tex: str) -> str | None:
    """TeX as SVG that stands in a line of text; None where matplotlib cannot set it."""
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    for pattern, ours in MATHTEXT:
        tex = re.sub(pattern, ours, tex)
    try:
        path = TextPath((0, 0), f"${tex}$", size=FONT_SIZE)
    except ValueError:
        return None
    box, letters = path.get_extents(), {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    strokes = "".join(
        letters[code] + " ".join(f"{number:.2f}" for number in points * ([1, -1] * (len(points) // 2)))
        if code in letters
        else "Z"
        for points, code in path.iter_segments(curves=True, simplify=False)
    )
    em = 1 / FONT_SIZE
    return (
        f'<svg class="tex" viewBox="{box.x0:.2f} {-box.y1:.2f} {box.width:.2f} {box.height:.2f}" style="width:'
        f'{box.width * em:.2f}em;height:{box.height * em:.2f}em;vertical-align:{box.y0 * em:.2f}em">'
        f'<path d="{strokes}" fill="currentColor"/></svg>'
    )


def draw(curve: Curve, axes: "Axes") -> None:
    """The values over environment steps, with their spread as a band."""
    is_short = len(curve.values) < 30
    axes.plot(curve.env_steps, curve.values, color=LINE, linewidth=1.4, marker="o" if is_short else None, markersize=3)
    if curve.spread is not None:
        low = [value - spread for value, spread in zip(curve.values, curve.spread, strict=True)]
        high = [value + spread for value, spread in zip(curve.values, curve.spread, strict=True)]
        axes.fill_between(curve.env_steps, low, high, color=LINE, alpha=0.2, linewidth=0)
    axes.set_xlabel("environment steps", color=INK)
