"""Figures: curves, paths, blocks and sheets, each as a PNG by matplotlib.

It must not know what they show.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

LINE, START, END, TARGET = "#2457a6", "#2a9d3a", "#d1322d", "#111111"
FACES = {  # (plain, marked)
    "top": ("#eef1f5", "#f6b26b"),
    "front": ("#dde2e9", "#ef8f2f"),
    "side": ("#c8cfd9", "#d87a1c"),
}
EDGE = "#8a93a0"
DPI = 110
MOST_CELLS = 25  # names of a matrix with numbers in its cells
TITLE_WIDTH = 38  # characters in a line

Point = tuple[float, float]


@dataclass(frozen=True)
class Path2D:
    """A panel with a path: its points in order, and a text about where it ends."""

    title: str
    points: list[Point]
    result: str


@dataclass(frozen=True)
class Row:
    """A value with the ends of its interval. `kind` is what its color means."""

    label: str
    value: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True)
class Cells:
    """One visible face of a block."""

    face: str
    marked: bool
    corners: tuple[Point, Point, Point, Point]


def curves(
    panels: Sequence[tuple[str, tuple[list[float], list[float]]]], caption: str, across: str, up: str, path: Path
) -> Path:
    """A small panel for each (title, (x, y)), all with the same scales."""
    columns, rows = _grid(len(panels), 4)
    figure, axes = _figure(columns, rows, len(panels), caption, (3.1, 2.5))
    top = 1.05 * max(max(y) for _, (_, y) in panels)
    for number, (title, (x, y)) in enumerate(panels):
        axis, lines = axes[number], textwrap.wrap(title, TITLE_WIDTH)
        axis.plot(x, y, color=LINE, linewidth=1.6)
        axis.set_title("\n".join(lines), fontsize=9)
        axis.set_ylim(0, top)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
        axis.set_xlabel(across, fontsize=8)
        axis.set_ylabel(up if number % columns == 0 else "", fontsize=8)
    return _write(figure, path)


def intervals(
    panels: Sequence[tuple[str, Sequence[Row]]],
    colors: Mapping[str, str],
    caption: str,
    across: str,
    path: Path,
    *,
    from_zero: bool = False,
) -> Path:
    """A panel below the other for each (title, rows), a dot with its interval for each row; `from_zero` draws bars.

    `colors` has that of each kind of row, in the order of the legend.
    """
    kinds = [kind for kind in colors if any(row.kind == kind for _, rows in panels for row in rows)]
    heights = [len(rows) + 2 for _, rows in panels]
    lines = textwrap.wrap(caption, 88)
    figure = Figure(figsize=(8, 0.22 * sum(heights) + 0.2 * len(lines) + 1.0), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=10)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (title, rows) in zip(axes, panels, strict=True):
        for place, row in enumerate(rows):
            color = colors[row.kind]
            if from_zero:
                axis.barh(place, row.value, color=color, alpha=0.5)
            axis.plot((row.low, row.high), (place, place), color=color, linewidth=1.4)
            axis.plot(row.value, place, "o", color=color, markersize=5)
        axis.set_yticks(range(len(rows)), [textwrap.shorten(row.label, 40) for row in rows], fontsize=8)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3, axis="x")
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel(across, fontsize=8)
    marks = [axes[0].plot([], [], "o-", color=colors[kind], label=kind)[0] for kind in kinds]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, fontsize=8)
    return _write(figure, path)


def matrix(
    counts: Sequence[Sequence[int]], names: Sequence[str], caption: str, labels: tuple[str, str], path: Path
) -> Path:
    """A square of cells, the color of which is the share of their row; with at most MOST_CELLS names, the counts too.

    `labels` name the axis to the right and the one downwards.
    """
    values = np.asarray(counts, dtype=float)
    sums = values.sum(1, keepdims=True)
    shares = np.divide(values, sums, out=np.zeros_like(values), where=sums > 0)
    inches = min(3.0 + 0.42 * len(names), 12.0)
    lines = textwrap.wrap(caption, round(12 * (inches + 1)))
    figure = Figure(figsize=(inches + 1, inches + 0.2 * len(lines)), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=9)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    shown = [textwrap.shorten(name, 18, placeholder="...") or name[:18] for name in names]
    size = 8 if len(names) <= MOST_CELLS else 5
    axis.set_xticks(range(len(names)), shown, rotation=90, fontsize=size)
    axis.set_yticks(range(len(names)), shown, fontsize=size)
    axis.set_xlabel(labels[0], fontsize=9)
    axis.set_ylabel(labels[1], fontsize=9)
    for row, column in np.argwhere(values > 0).tolist() if len(names) <= MOST_CELLS else ():
        color = "white" if shares[row, column] > 0.5 else "#222222"
        axis.text(column, row, f"{values[row, column]:.0f}", ha="center", va="center", fontsize=7, color=color)
    bar = figure.colorbar(image, ax=axis, shrink=0.7)
    bar.ax.tick_params(labelsize=8)
    return _write(figure, path)


def paths(
    panels: Sequence[Path2D],
    surface: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    target: Point,
    caption: str,
    path: Path,
) -> Path:
    """Each path on the same surface (x, y, heights), its start, its end and the target marked."""
    x, y, heights = surface
    columns, rows = _grid(len(panels), 4)
    figure, axes = _figure(columns, rows, len(panels), caption, (3.6, 3.2))
    levels = np.linspace(heights.min(), heights.max(), 25)
    for number, panel in enumerate(panels):
        axis = axes[number]
        axis.contourf(x, y, heights, levels=levels, cmap="Blues", alpha=0.75)
        axis.plot(*zip(*panel.points, strict=True), color="#222222", linewidth=1.0)
        marks = (("start", panel.points[0], START, "o"), ("end", panel.points[-1], END, "s"))
        for name, point, color, shape in (*marks, ("minimum", target, TARGET, "x")):
            axis.plot(*point, shape, color=color, markersize=7, label=name, linestyle="none")
        axis.set_title(f"{panel.title}\n{panel.result}", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes[0].legend(loc="lower left", fontsize=8)
    return _write(figure, path)


def blocks(panels: Sequence[tuple[str, list[Cells]]], labels: tuple[str, str, str], caption: str, path: Path) -> Path:
    """Blocks of cubes; `labels` name the axes to the right, to the back and downwards."""
    columns = len(panels)
    figure, axes = _figure(columns, 1, columns, caption, (2.9, 3.3))
    for number, (title, cells) in enumerate(panels):
        axis = axes[number]
        colors = [FACES[cell.face][cell.marked] for cell in cells]
        axis.add_collection(
            PolyCollection([cell.corners for cell in cells], facecolors=colors, edgecolors=EDGE, linewidths=0.7)
        )
        corners = np.array([corner for cell in cells for corner in cell.corners])
        (left, low), (right, high) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        front = np.array([corner for cell in cells if cell.face == "front" for corner in cell.corners])
        width, top = float(front[:, 0].max()), float(front[:, 1].max())
        for text, place, angle in (
            (labels[0], (width / 2, low - 0.6), 0),
            (labels[1], ((right + width) / 2 + 0.75, low + (high - top) / 2 - 0.25), 35),
            (labels[2], (left - 0.6, (low + top) / 2), 90),
        ):
            axis.text(place[0], place[1], text, rotation=angle, ha="center", va="center", fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set(xlim=(left - 1.2, right + 0.9), ylim=(low - 1.2, high + 0.4))
        axis.set_aspect("equal")
        axis.axis("off")
    return _write(figure, path)


def sheet(picture: NDArray[np.uint8], names: Sequence[str], columns: int, caption: str, path: Path) -> Path:
    """An image of `columns` tiles in each row. `names` label the rows; the first column is labeled as the original."""
    height, width = picture.shape[:2]
    centers = [(row + 0.5) * height / len(names) for row in range(len(names))]
    figure = Figure(figsize=(2 + 9 * width / max(width, height), 1 + 9 * height / max(width, height)))
    axis = figure.add_axes((0.16, 0.03, 0.82, 0.84))
    axis.imshow(picture, interpolation="nearest")
    axis.set_yticks(centers, names)
    axis.set_xticks([width / columns / 2], ["original"])
    axis.xaxis.tick_top()
    axis.axvline(width / columns, color=END, linewidth=1.5)
    figure.suptitle(caption, fontsize=9, wrap=True)
    return _write(figure, path)


def _grid(panels: int, max_columns: int) -> tuple[int, int]:
    columns = min(panels, max_columns)
    return columns, math.ceil(panels / columns)


def _figure(columns: int, rows: int, panels: int, caption: str, panel_inches: Point) -> tuple[Figure, list[Axes]]:
    """A figure with margins given in inches: if matplotlib computed them, it would draw everything twice."""
    width, height = max(4.5, columns * panel_inches[0]), rows * panel_inches[1] + 0.6
    figure = Figure(figsize=(width, height))
    figure.suptitle(textwrap.fill(caption, round(width * 13)), fontsize=11, y=1 - 0.1 / height, va="top")
    figure.subplots_adjust(
        left=0.6 / width,
        right=1 - 0.15 / width,
        bottom=0.5 / height,
        top=1 - 1.0 / height,
        wspace=0.22,
        hspace=0.85 / (panel_inches[1] - 0.85),
    )
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]


def _write(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
