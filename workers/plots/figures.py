"""Figures: draws curves, paths, blocks and sheets, each as a PNG by matplotlib and as a page of `workers.plots.html`.

It must not know what they show.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from workers.plots.html import Page

LINE, START, END, TARGET = "#2457a6", "#2a9d3a", "#d1322d", "#111111"
FACES = {  # (plain, marked)
    "top": ("#eef1f5", "#f6b26b"),
    "front": ("#dde2e9", "#ef8f2f"),
    "side": ("#c8cfd9", "#d87a1c"),
}
EDGE = "#8a93a0"
DPI = 110
TITLE_WIDTH = 38  # characters in a line

Point = tuple[float, float]


@dataclass(frozen=True)
class Path2D:
    """A panel with a path: its points in order, and a text about where it ends."""

    title: str
    points: list[Point]
    result: str


@dataclass(frozen=True)
class Cells:
    """One visible face of a block."""

    face: str
    marked: bool
    corners: tuple[Point, Point, Point, Point]


def curves(
    panels: Sequence[tuple[str, tuple[list[float], list[float]]]], caption: str, across: str, up: str, stem: Path
) -> list[Path]:
    """A small panel for each (title, (x, y)), all with the same scales."""
    columns, rows = _grid(len(panels), 4)
    figure, axes = _figure(columns, rows, len(panels), caption, (3.1, 2.5))
    page = Page(columns, rows, caption, 260)
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
        page.panel(number, "<br>".join(lines), {"title": {"text": across}}, {"range": [0, top]})
        page.draw(number, {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"color": LINE}, "name": title})
    return _write(figure, page, stem)


def paths(
    panels: Sequence[Path2D],
    surface: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    target: Point,
    caption: str,
    stem: Path,
) -> list[Path]:
    """Each path on the same surface (x, y, heights), its start, its end and the target marked."""
    x, y, heights = surface
    columns, rows = _grid(len(panels), 4)
    figure, axes = _figure(columns, rows, len(panels), caption, (3.6, 3.2))
    page = Page(columns, rows, caption, 330)
    levels = np.linspace(heights.min(), heights.max(), 25)
    ground = {"type": "contour", "colorscale": "Blues", "showscale": False, "ncontours": 25, "hoverinfo": "skip"}
    ground |= {"x": x[::2].tolist(), "y": y[::2].tolist(), "z": heights[::2, ::2].round(3).tolist()}
    for number, panel in enumerate(panels):
        axis = axes[number]
        limits = [float(x[0]), float(x[-1])], [float(y[0]), float(y[-1])]
        page.panel(number, f"{panel.title}<br>{panel.result}", {"range": limits[0]}, {"range": limits[1]})
        axis.contourf(x, y, heights, levels=levels, cmap="Blues", alpha=0.75)
        page.draw(number, ground)
        path_x, path_y = (list(values) for values in zip(*panel.points, strict=True))
        axis.plot(path_x, path_y, color="#222222", linewidth=1.0)
        line = {"type": "scatter", "mode": "lines", "line": {"color": "#222222", "width": 1.5}, "name": panel.title}
        page.draw(number, line | {"x": path_x, "y": path_y})
        marks = (("start", panel.points[0], START, "o"), ("end", panel.points[-1], END, "s"))
        for name, point, color, shape in (*marks, ("minimum", target, TARGET, "x")):
            axis.plot(*point, shape, color=color, markersize=7, label=name, linestyle="none")
            symbol = {"o": "circle", "s": "square", "x": "x-thin"}[shape]
            marker = {"color": color, "size": 10, "symbol": symbol, "line": {"width": 2, "color": color}}
            mark = {"type": "scatter", "mode": "markers", "marker": marker, "name": name}
            page.draw(number, mark | {"x": [point[0]], "y": [point[1]]})
        axis.set_title(f"{panel.title}\n{panel.result}", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set(xlim=limits[0], ylim=limits[1])
    axes[0].legend(loc="lower left", fontsize=8)
    return _write(figure, page, stem)


def blocks(
    panels: Sequence[tuple[str, list[Cells]]], labels: tuple[str, str, str], caption: str, stem: Path
) -> list[Path]:
    """Blocks of cubes; `labels` name the axes to the right, to the back and downwards."""
    columns = len(panels)
    figure, axes = _figure(columns, 1, columns, caption, (2.9, 3.3))
    page = Page(columns, 1, caption, 380)
    for number, (title, cells) in enumerate(panels):
        axis = axes[number]
        name = str(number + 1) if number else ""
        page.panel(number, title, {"visible": False}, {"visible": False, "scaleanchor": f"x{name}"})
        colors = [FACES[cell.face][cell.marked] for cell in cells]
        axis.add_collection(
            PolyCollection([cell.corners for cell in cells], facecolors=colors, edgecolors=EDGE, linewidths=0.7)
        )
        for color in dict.fromkeys(colors):
            same_color = [cell for cell, cell_color in zip(cells, colors, strict=True) if cell_color == color]
            page.draw(number, _polygons(same_color, color))
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
            page.note(number, place[0], place[1], text, -angle)
        axis.set_title(title, fontsize=10)
        axis.set(xlim=(left - 1.2, right + 0.9), ylim=(low - 1.2, high + 0.4))
        axis.set_aspect("equal")
        axis.axis("off")
    return _write(figure, page, stem)


def sheet(picture: NDArray[np.uint8], names: Sequence[str], columns: int, caption: str, stem: Path) -> list[Path]:
    """An image of `columns` tiles in each row. `names` label the rows; the first column is labelled as the original."""
    height, width = picture.shape[:2]
    centres = [(row + 0.5) * height / len(names) for row in range(len(names))]
    figure = Figure(figsize=(2 + 9 * width / max(width, height), 1 + 9 * height / max(width, height)))
    axis = figure.add_axes((0.16, 0.03, 0.82, 0.84))
    axis.imshow(picture, interpolation="nearest")
    axis.set_yticks(centres, names)
    axis.set_xticks([width / columns / 2], ["original"])
    axis.xaxis.tick_top()
    axis.axvline(width / columns, color=END, linewidth=1.5)
    figure.suptitle(caption, fontsize=9, wrap=True)
    page = Page(1, 1, caption, max(260, height + 20))
    beside = {"tickvals": centres, "ticktext": list(names), "range": [height, 0], "scaleanchor": "x"}
    above = {"tickvals": [width / columns / 2], "ticktext": ["original"], "side": "top", "range": [0, width]}
    page.panel(0, "", above, beside)
    page.draw(0, {"type": "image", "source": _data_address(picture)})
    page.line_at(0, width / columns, END)
    return _write(figure, page, stem)


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


def _polygons(cells: Sequence[Cells], color: str) -> dict[str, object]:
    """Faces of one colour as one trace of closed outlines, with a break after each."""
    outlines = [(*cell.corners, cell.corners[0]) for cell in cells]
    return {
        "type": "scatter",
        "mode": "lines",
        "fill": "toself",
        "fillcolor": color,
        "hoverinfo": "skip",
        "line": {"color": EDGE, "width": 1},
        "x": [x for outline in outlines for x in (*(point[0] for point in outline), None)],
        "y": [y for outline in outlines for y in (*(point[1] for point in outline), None)],
    }


def _data_address(picture: NDArray[np.uint8]) -> str:
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def _write(figure: Figure, page: Page, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, page_path = stem.with_suffix(".png"), stem.with_suffix(".html")
    figure.savefig(png, dpi=DPI)
    page.write(page_path)
    return [png, page_path]
