"""Pages: figures as HTML pages that contain plotly.js, so that they open without a network.

Owns the grid of panels on a page, and the file. Figures are plain dicts in the form that plotly.js reads: the Python
classes of plotly would validate every point again, which takes seconds. It must not know what the panels show.
"""

from __future__ import annotations

import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

GAP_PIXELS = 70  # between panels, for ticks and titles
WIDTH_PIXELS = 1100

Trace = dict[str, Any]


class Page:
    """`columns` x `rows` panels under one caption, numbered from 0 row by row."""

    def __init__(self, columns: int, rows: int, caption: str, panel_height: int) -> None:
        self._columns = columns
        self._caption = caption
        self._height = rows * panel_height + 140
        self._across, self._up = GAP_PIXELS / WIDTH_PIXELS, GAP_PIXELS / (rows * panel_height)
        self._panel = (1 - self._across * (columns - 1)) / columns, (1 - self._up * (rows - 1)) / rows
        self._traces: list[Trace] = []
        self._layout: dict[str, Any] = {"annotations": [], "shapes": []}

    def panel(self, number: int, title: str, x: dict[str, Any], y: dict[str, Any]) -> None:
        """Add panel `number`; `x` and `y` are its axes in the form of plotly.js."""
        row, column = divmod(number, self._columns)
        left = column * (self._panel[0] + self._across)
        top = 1 - row * (self._panel[1] + self._up)
        name = _name(number)
        self._layout[f"xaxis{name}"] = {"domain": [left, left + self._panel[0]], "anchor": f"y{name}"} | x
        self._layout[f"yaxis{name}"] = {"domain": [max(0.0, top - self._panel[1]), top], "anchor": f"x{name}"} | y
        heading = {"x": left + self._panel[0] / 2, "y": top, "xref": "paper", "yref": "paper", "yanchor": "bottom"}
        self._layout["annotations"].append(heading | {"text": title, "showarrow": False, "font": {"size": 11}})

    def draw(self, number: int, trace: Trace) -> None:
        self._traces.append(trace | _axes(number))

    def note(self, number: int, x: float, y: float, text: str, angle: float = 0) -> None:
        name = _name(number)
        place = {"x": x, "y": y, "xref": f"x{name}", "yref": f"y{name}"}
        self._layout["annotations"].append(place | {"text": text, "textangle": angle, "showarrow": False})

    def line_at(self, number: int, x: float, color: str) -> None:
        """A vertical line through the whole panel."""
        name = _name(number)
        place = {"x0": x, "x1": x, "y0": 0, "y1": 1, "xref": f"x{name}", "yref": f"y{name} domain"}
        self._layout["shapes"].append(place | {"type": "line", "line": {"color": color}})

    def write(self, path: Path) -> None:
        script = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
        layout = self._layout | {
            "title": {"text": self._caption.replace("\n", "<br>"), "font": {"size": 15}},
            "height": self._height,
            "showlegend": False,
            "plot_bgcolor": "white",
        }
        figure = json.dumps({"data": self._traces, "layout": layout, "config": {"responsive": True}})
        figure = figure.replace("</", "<\\/")  # a text with </script> would end the script
        path.write_text(
            f"<!doctype html>\n<html><head><meta charset='utf-8'><title>{html.escape(self._caption)}</title>\n"
            f"<script>{script}</script></head>\n<body><div id='figure'></div>\n"
            f"<script>Plotly.newPlot('figure', {figure})</script></body></html>\n",
            encoding="utf-8",
        )


def _name(number: int) -> str:
    """The suffix of a panel's axes: plotly.js names the first pair x and y, the second x2 and y2."""
    return str(number + 1) if number else ""


def _axes(number: int) -> dict[str, str]:
    return {"xaxis": f"x{_name(number)}", "yaxis": f"y{_name(number)}"}
