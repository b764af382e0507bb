"""Drawing: curves, paths, blocks and sheets on paper: a PNG by matplotlib, and a page by plotly.

The page holds plotly.js itself and opens without a network. What the pictures mean is not known here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from numpy.typing import NDArray
from plotly.subplots import make_subplots

LINE, START, END, TARGET = "#2457a6", "#2a9d3a", "#d1322d", "#111111"
FACES = {  # (plain, marked)
    "top": ("#eef1f5", "#f6b26b"),
    "front": ("#dde2e9", "#ef8f2f"),
    "side": ("#c8cfd9", "#d87a1c"),
}
EDGE = "#8a93a0"
DPI = 110

Point = tuple[float, float]


@dataclass(frozen=True)
class Path2D:
    """A panel with a path: its points in order, and a word on where it ended."""

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
    """A small panel for each (title, (x, y)), all on the same scales."""
    columns, rows = _grid(len(panels), 4)
    figure, axes = _figure(columns, rows, caption, (3.1, 2.4))
    titles = ["<br>".join(textwrap.wrap(title, 38)) for title, _ in panels]
    page = _page(columns, rows, titles, caption, 260)
    top = 1.05 * max(max(y) for _, (_, y) in panels)
    for number, (title, (x, y)) in enumerate(panels):
        axes[number].plot(x, y, color=LINE, linewidth=1.6)
        axes[number].set_title(textwrap.fill(title, 38), fontsize=9)
        axes[number].set_ylim(0, top)
        axes[number].grid(alpha=0.3)
        axes[number].set_xlabel(across, fontsize=8)
        axes[number].set_ylabel(up if number % columns == 0 else "", fontsize=8)
        row, column = divmod(number, columns)
        page.add_trace(
            go.Scatter(x=x, y=y, mode="lines", line={"color": LINE}, name=title), row=row + 1, col=column + 1
        )
    page.update_xaxes(title=across)
    page.update_yaxes(range=[0, top])
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
    figure, axes = _figure(columns, rows, caption, (3.6, 3.1))
    page = _page(columns, rows, [f"{panel.title}: {panel.result}" for panel in panels], caption, 330)
    levels = np.linspace(heights.min(), heights.max(), 25)
    for number, panel in enumerate(panels):
        axis = axes[number]
        axis.contourf(x, y, heights, levels=levels, cmap="Blues", alpha=0.75)
        row, column = divmod(number, columns)
        cell = {"row": row + 1, "col": column + 1}
        page.add_trace(
            go.Contour(x=x, y=y, z=heights, colorscale="Blues", showscale=False, ncontours=25, hoverinfo="skip"), **cell
        )
        walked = [list(values) for values in zip(*panel.points, strict=True)]
        axis.plot(*walked, color="#222222", linewidth=1.0)
        line = {"color": "#222222", "width": 1.5}
        page.add_trace(go.Scatter(x=walked[0], y=walked[1], mode="lines", line=line, name=panel.title), **cell)
        marks = (("start", panel.points[0], START, "o"), ("end", panel.points[-1], END, "s"))
        for name, point, color, shape in (*marks, ("minimum", target, TARGET, "x")):
            axis.plot(*point, shape, color=color, markersize=7, label=name, linestyle="none")
            symbol = {"o": "circle", "s": "square", "x": "x-thin"}[shape]
            marker = {"color": color, "size": 10, "symbol": symbol, "line": {"width": 2, "color": color}}
            page.add_trace(go.Scatter(x=[point[0]], y=[point[1]], mode="markers", marker=marker, name=name), **cell)
        axis.set_title(f"{panel.title}\n{panel.result}", fontsize=9)
        axis.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes[0].legend(loc="lower left", fontsize=8)
    page.update_xaxes(range=[x[0], x[-1]])
    page.update_yaxes(range=[y[0], y[-1]])
    return _write(figure, page, stem)


def blocks(
    panels: Sequence[tuple[str, list[Cells]]], labels: tuple[str, str, str], caption: str, stem: Path
) -> list[Path]:
    """Blocks of cubes; `labels` name the axes to the right, to the back and downwards."""
    columns = len(panels)
    figure, axes = _figure(columns, 1, caption, (2.9, 3.3))
    page = _page(columns, 1, [title for title, _ in panels], caption, 380)
    for number, (title, cells) in enumerate(panels):
        axis = axes[number]
        for cell in cells:
            color = FACES[cell.face][cell.marked]
            axis.add_patch(Polygon(cell.corners, closed=True, facecolor=color, edgecolor=EDGE, linewidth=0.7))
            x, y = (list(values) for values in zip(*cell.corners, cell.corners[0], strict=True))
            page.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    fill="toself",
                    mode="lines",
                    fillcolor=color,
                    line={"color": EDGE, "width": 1},
                    hoverinfo="skip",
                ),
                row=1,
                col=number + 1,
            )
        corners = np.array([corner for cell in cells for corner in cell.corners])
        (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
        front = np.array([corner for cell in cells if cell.face == "front" for corner in cell.corners])
        width, top = float(front[:, 0].max()), float(front[:, 1].max())
        for text, place, angle in (
            (labels[0], (width / 2, low - 0.6), 0),
            (labels[1], ((right + width) / 2 + 0.75, low + (high - top) / 2 - 0.25), 35),
            (labels[2], (left - 0.6, (low + top) / 2), 90),
        ):
            axis.text(place[0], place[1], text, rotation=angle, ha="center", va="center", fontsize=8)
            page.add_annotation(
                x=place[0], y=place[1], text=text, textangle=-angle, showarrow=False, row=1, col=number + 1
            )
        axis.set_title(title, fontsize=10)
        axis.set(xlim=(left - 1.2, right + 0.9), ylim=(low - 1.2, high + 0.4))
        axis.set_aspect("equal")
        axis.axis("off")
    page.update_xaxes(visible=False)
    page.update_yaxes(visible=False)
    for number in range(columns):
        page.update_yaxes(scaleanchor=f"x{number + 1 if number else ''}", row=1, col=number + 1)
    return _write(figure, page, stem)


def sheet(picture: NDArray[np.uint8], names: Sequence[str], columns: int, caption: str, stem: Path) -> list[Path]:
    """A picture of `columns` tiles a row; `names` of the rows stand at its left, the first column is the original."""
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
    page = go.Figure(go.Image(z=picture))
    page.add_vline(x=width / columns, line_color=END)
    page.update_layout(
        title={"text": caption.replace("\n", "<br>"), "font": {"size": 13}}, height=max(400, height + 160)
    )
    page.update_yaxes(tickvals=centres, ticktext=list(names))
    page.update_xaxes(tickvals=[width / columns / 2], ticktext=["original"])
    return _write(figure, page, stem)


def _grid(panels: int, most_columns: int) -> tuple[int, int]:
    columns = min(panels, most_columns)
    return columns, math.ceil(panels / columns)


def _figure(columns: int, rows: int, caption: str, panel_inches: Point) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(columns * panel_inches[0], rows * panel_inches[1] + 0.5), layout="constrained")
    figure.suptitle(caption, fontsize=11)
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(columns * rows)]


def _page(columns: int, rows: int, titles: list[str], caption: str, panel_height: int) -> Any:
    page = make_subplots(rows=rows, cols=columns, subplot_titles=titles)
    page.update_layout(
        title={"text": caption, "font": {"size": 15}},
        height=rows * panel_height + 120,
        showlegend=False,
        plot_bgcolor="white",
    )
    page.update_annotations(font_size=11)
    return page


def _write(figure: Figure, page: Any, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    for axis in figure.axes:
        if not axis.has_data() and not axis.patches:
            axis.remove()  # an empty place at the end of the grid
    png, html = stem.with_suffix(".png"), stem.with_suffix(".html")
    figure.savefig(png, dpi=DPI)
    page.write_html(html, include_plotlyjs=True)
    return [png, html]
