"""Curves and equations, drawn by matplotlib: in colours of the page, and once more as a picture."""

import io
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from rl_lightning.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, LINE = "#010203", "#040506"  # stand for the page's own colours
FONT_SIZE = 10
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


def check_drawn() -> None:
    """Refuse to draw without matplotlib.

    Raises:
        UsageError: naming the extra.
    """
    if find_spec("matplotlib") is None:
        raise UsageError('report needs matplotlib, which is not installed: pip install "rl_lightning[report]"')


def svg(curve: Curve) -> str:
    """One curve as SVG in the colours of the page around it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": curve.metric}):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        _draw(curve, figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r"font: [^;\"]*", f"font-size: {FONT_SIZE}px", text)
    return text.replace(INK, "currentColor").replace(LINE, "var(--line)")


def png(curves: Sequence[Curve]) -> bytes:
    """All curves in one picture, black on white."""
    from matplotlib.figure import Figure

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.6 * columns, 2.7 * rows), layout="constrained")
    for curve, axes in zip(curves, figure.subplots(rows, columns, squeeze=False).flat, strict=False):
        _draw(curve, axes)
        axes.set_title(curve.metric, fontsize=FONT_SIZE)
    for axes in figure.axes[len(curves) :]:
        axes.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


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


def _draw(curve: Curve, axes: "Axes") -> None:
    is_short = len(curve.values) < 30
    axes.plot(curve.env_steps, curve.values, color=LINE, linewidth=1.4, marker="o" if is_short else None, markersize=3)
    if curve.spread is not None:
        low = [value - spread for value, spread in zip(curve.values, curve.spread, strict=True)]
        high = [value + spread for value, spread in zip(curve.values, curve.spread, strict=True)]
        axes.fill_between(curve.env_steps, low, high, color=LINE, alpha=0.2, linewidth=0)
    axes.set_xlabel("environment steps", color=INK)
    axes.tick_params(colors=INK)
    axes.grid(color=INK, alpha=0.12)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
