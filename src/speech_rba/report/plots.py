"""Plots as inline SVG: colours and fonts are left to the page's CSS, so that one plot serves light and dark."""

import html
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

# Placeholders for CSS variables: matplotlib wants colours, the page decides them. Systems are #fe0000, #fe0001, ...
INK, MUTED, GRID = "#fe00a0", "#fe00a1", "#fe00a2"
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"}
MARKERS = "os^DvPX*"  # colour alone tells nothing to some readers
GLYPHS = "●■▲◆▼✚✖★"
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
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


@dataclass(frozen=True)
class Metric:
    """How a score is written: `label` with its unit, shown as value * `scale` with so many decimals."""

    label: str
    scale: float
    decimals: int

    def text(self, value: float, sign: str = "") -> str:
        """`value` as written; `sign` is "+" for differences. What rounds to 0 has no minus."""
        return f"{value * self.scale:{sign}z.{self.decimals}f}".replace("-", "−")


METRICS = {
    "accuracy": Metric("accuracy (%)", 100, 1),
    "prompt_retrieval_mrr": Metric("question found by its answer (1/rank)", 1, 3),
    "chrf": Metric("chrF2 of a sentence", 100, 1),
    "unparsed": Metric("answers without a letter, wrong (%)", 100, 1),
    "refused": Metric("requests refused (%)", 100, 1),
    "followed": Metric("all instructions followed (%)", 100, 1),
    "followed_loosely": Metric("all followed, loosely (%)", 100, 1),
    "token_f1": Metric("token F1 (%)", 100, 1),
    "teacher_similarity": Metric("teacher_similarity (cosine)", 1, 3),
    "teacher_pmi": Metric(
        "mutual information of answer and question under the teacher (nats per token)", 1, 2
    ),
    "teacher_logp": Metric("log-likelihood of the teacher's answer (nats per token)", 1, 2),
}


def metric_style(name: str) -> Metric:
    """How to write the scores called `name`; one that is not known is written as it is."""
    return METRICS.get(name, Metric(name.replace("_", " "), 1, 3))


def colour(index: int) -> str:
    """The placeholder for the colour of the `index`-th system."""
    return f"#fe00{index % len(MARKERS):02d}"


def points(
    estimates: dict[int, dict[str, Estimate]],
    categories: Sequence[str],
    metric: str,
    ceiling: Estimate | None,
) -> str:
    """SVG: dots with intervals, one row a category from the top; `estimates` are by system index and category.

    `ceiling`, the text system's score, is a dashed line over a band.
    """
    style = metric_style(metric)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 0.55 + len(categories) * (0.16 + 0.1 * len(estimates))))
        axes = figure.subplots()
        if ceiling:
            value, low, high = (x * style.scale for x in ceiling)
            axes.axvspan(low, high, color=colour(0), alpha=0.13, linewidth=0)
            axes.axvline(value, color=colour(0), linestyle="--", linewidth=1.3)
        for place, (index, by_category) in enumerate(estimates.items()):
            for row, category in enumerate(categories):
                if category in by_category:
                    value, low, high = (x * style.scale for x in by_category[category])
                    height = row + (place - (len(estimates) - 1) / 2) * 0.7 / len(estimates)
                    axes.plot(
                        [low, high],
                        [height, height],
                        color=colour(index),
                        linewidth=1.6,
                        solid_capstyle="round",
                    )
                    axes.plot(value, height, MARKERS[index % len(MARKERS)], color=colour(index), markersize=5)
        axes.set_yticks(range(len(categories)), categories)
        axes.set_ylim(len(categories) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        for row in range(1, len(categories)):
            axes.axhline(row - 0.5, color=GRID, linewidth=0.8)
        axes.set_xlabel(wrapped(style.label))
        return _svg(figure, f"{style.label} by {', '.join(categories)}")


def lines(
    series: dict[int, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    bands: dict[int, tuple[Sequence[float], Sequence[float]]] | None = None,
    width: float = 3.5,
) -> str:
    """SVG: one line a system index, each (x values, y values); `bands` are their (lows, highs)."""
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
    """In lines that fit beside the smallest plot: the layout makes room for a label's height, not its width."""
    return textwrap.fill(label, 30)


def _svg(figure: Figure, label: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text[text.index("<svg") :], flags=re.S
    )  # styles the whole page
    for placeholder, variable in VARIABLES.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r"#fe00(\d\d)", lambda match: f"var(--s{int(match[1])})", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r' width="[\d.]+pt"', "", re.sub(r' height="[\d.]+pt"', "", text, count=1), count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
