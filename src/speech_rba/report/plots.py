"""Plots as inline SVG: the page's CSS sets colours and fonts, so that one plot fits light and dark pages."""

import html
import io
import re
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from speech_rba.report.results import Style

# Placeholders for the CSS variables that set the colours. Systems are #fe0000, #fe0001, ...
INK, MUTED, GRID = "#fe00a0", "#fe00a1", "#fe00a2"
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"}
MARKERS = "os^DvPX*"  # colour alone is not accessible to every reader
GLYPHS = "●■▲◆▼✚✖★"
STYLE: dict = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # else a dollar in a name starts a formula
    "svg.hashsalt": "speech-rba",  # the same plot gives the same bytes
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
}

Estimate = tuple[float, float, float]  # mean, low, high
Values = Sequence[float] | np.ndarray


def colour(index: int) -> str:
    """The placeholder for the colour of the `index`-th system."""
    return f"#fe00{index % len(MARKERS):02d}"


def points(
    estimates: dict[int, dict[str, Estimate]], categories: Sequence[str], style: Style, text: Estimate | None
) -> str:
    """SVG: dots with intervals, one row for each category; `estimates` are by system index and category.

    `text`, the text system's score, is a dashed line over a band.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 0.55 + len(categories) * (0.16 + 0.1 * len(estimates))))
        axes = figure.subplots()
        if text:
            value, low, high = (x * style.scale for x in text)
            axes.axvspan(low, high, color=colour(0), alpha=0.13, linewidth=0)
            axes.axvline(value, color=colour(0), linestyle="--", linewidth=1.3)
        for place, (index, by_category) in enumerate(estimates.items()):
            offset = (place - (len(estimates) - 1) / 2) * 0.7 / len(estimates)
            for row, category in enumerate(categories):
                if category in by_category:
                    _point(axes, index, [x * style.scale for x in by_category[category]], row + offset)
        axes.set_yticks(range(len(categories)), categories)
        axes.set_ylim(len(categories) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        for row in range(1, len(categories)):
            axes.axhline(row - 0.5, color=GRID, linewidth=0.8)
        axes.set_xlabel(wrapped(style.label))
        return _svg(figure, f"{style.label} by {', '.join(categories)}")


def _point(axes: Axes, index: int, estimate: Sequence[float], height: float) -> None:
    """Draws the dot and the interval of one system."""
    value, low, high = estimate
    axes.plot([low, high], [height] * 2, color=colour(index), linewidth=1.6, solid_capstyle="round")
    axes.plot(value, height, MARKERS[index % len(MARKERS)], color=colour(index), markersize=5)


def lines(
    series: Mapping[int, tuple[Values, Values]],
    xlabel: str,
    ylabel: str,
    bands: Mapping[int, tuple[Values, Values]] | None = None,
    width: float = 3.5,
) -> str:
    """SVG: one line for each system index, (x values, y values); `bands` are their (lows, highs)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 2.4))
        axes = figure.subplots()
        for index, (x, y) in series.items():
            marker = MARKERS[index % len(MARKERS)] if len(x) <= 12 else None
            axes.plot(x, y, color=colour(index), linewidth=1.6, marker=marker, markersize=4.5)
            if bands:
                axes.fill_between(x, *bands[index], color=colour(index), alpha=0.1, linewidth=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(wrapped(ylabel))
        return _svg(figure, f"{ylabel} by {xlabel}")


def wrapped(label: str) -> str:
    """`label` in lines that fit the smallest plot: the layout makes room for its height alone."""
    return textwrap.fill(label, 30)


def _svg(figure: Figure, label: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S
    )  # it would style the whole page
    for placeholder, variable in VARIABLES.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r"#fe00(\d\d)", lambda match: f"var(--s{int(match[1])})", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r' width="[\d.]+pt"', "", re.sub(r' height="[\d.]+pt"', "", text, count=1), count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
