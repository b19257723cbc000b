"""Figures by matplotlib: in colours of the page around them, and once more as a picture."""

import io
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rl_lightning.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, LINE = "#010203", "#040506"  # stand for the page's own colours
FONT_SIZE = 10
SIDES = ("#1f66c1", "#c2570c", "#1a7f4b", "#8a3fa8", "#8a6d00", "#b3264a")  # stand for --side-0 and so on

Drawing = Callable[["Axes"], None]


def check_drawn(command: str) -> None:
    """Refuse to draw without matplotlib.

    Args:
        command: that draws, for the message.

    Raises:
        UsageError: naming the extra.
    """
    if find_spec("matplotlib") is None:
        raise UsageError(f'{command} needs matplotlib, which is not installed: pip install "rl_lightning[report]"')


def svg(draw: Drawing, name: str, height: float = 2.5) -> str:
    """One drawing as SVG in the colours of the page around it.

    Args:
        draw: on axes.
        name: unlike that of any other on the page.
        height: in inches, of a width of 4.6.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(4.6, height), layout="constrained")
        _draw(draw, figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = re.sub(r"font: [^;\"]*", f"font-size: {FONT_SIZE}px", text)
    for number, colour in enumerate(SIDES):
        text = text.replace(colour, f"var(--side-{number})")
    return text.replace(INK, "currentColor").replace(LINE, "var(--line)")


def png(draws: Mapping[str, Drawing], height: float = 2.7) -> bytes:
    """All drawings in one picture, on white, by their titles.

    Args:
        draws: on axes each.
        height: of one, in inches, of a width of 4.6.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(draws))
    rows = -(-len(draws) // columns)
    figure = Figure(figsize=(4.6 * columns, height * rows), layout="constrained")
    for (title, draw), axes in zip(draws.items(), figure.subplots(rows, columns, squeeze=False).flat, strict=False):
        _draw(draw, axes)
        axes.set_title(title, fontsize=FONT_SIZE)
    for axes in figure.axes[len(draws) :]:
        axes.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _draw(draw: Drawing, axes: "Axes") -> None:
    draw(axes)
    axes.tick_params(colors=INK)
    axes.grid(color=INK, alpha=0.12)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
