"""The trade-off plot: what an edit keeps against how well it shows, a line for each method over its strengths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import patheffects, pyplot

from .figures import FIGURES, LOWER, Figures

PANELS = (("clip", "lpips"), ("lpips", "csfid"))
"""Figures across and up, as in the paper."""

LOOKS = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#000000", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#E69F00", "P", (0, (1, 1))),
)
"""Colour, marker and line of each method: colours of Okabe and Ito (2008), which the colour-blind tell apart,
and without any colour the markers and lines do."""

LABEL: dict[str, Any] = {
    "fontsize": 7,
    "color": "#333333",
    "path_effects": [patheffects.withStroke(linewidth=2, foreground="white")],
}
"""Strengths at their points: dark, with a light edge, so that they are read on a line of any colour."""


def draw(figures: Mapping[str, Mapping[float, Figures]], path: Path) -> None:
    """Draw the figures of methods by strength into `path` with .png and .svg."""
    with pyplot.rc_context({"font.size": 9, "svg.hashsalt": "instdiff"}):
        drawing, panels = pyplot.subplots(1, len(PANELS), figsize=(7.5, 3.4), layout="constrained")
        for axes, (across, up) in zip(panels, PANELS, strict=True):
            for (method, by_strength), (colour, marker, line) in zip(figures.items(), LOOKS, strict=False):
                points = [(row[across], row[up], strength) for strength, row in sorted(by_strength.items())]
                points = [(x, y, at) for x, y, at in points if x is not None and y is not None]
                xs, ys = ([point[axis] for point in points] for axis in (0, 1))
                axes.plot(xs, ys, color=colour, marker=marker, linestyle=line, markersize=5, label=method)
                for x, y, strength in points:
                    axes.annotate(f"{strength:g}", (x, y), (5, 5), textcoords="offset points", **LABEL)
            for name, label in ((across, axes.set_xlabel), (up, axes.set_ylabel)):
                label(f"{FIGURES[name]} ({'lower' if name in LOWER else 'higher'} is better)")
            axes.grid(alpha=0.3)
            axes.margins(0.12)  # room for the labels
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=4, frameon=False)
        for ending in (".png", ".svg"):
            drawing.savefig(path.with_suffix(ending), dpi=200)
        pyplot.close(drawing)
