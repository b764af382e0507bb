"""Pages contain what was drawn, and a text of a figure cannot end the script."""

from __future__ import annotations

import json
import re
from pathlib import Path

from workers.plots.html import Page


def test_a_page_contains_its_panels_and_their_axes(tmp_path: Path) -> None:
    page = Page(2, 2, "caption </script> & more", 200)
    for number in range(3):
        page.panel(number, f"panel {number}", {"title": {"text": "x"}}, {"range": [0, 1]})
        page.draw(number, {"type": "scatter", "x": [0, 1], "y": [number, None]})
    page.note(2, 0.5, 0.5, "here", 30)
    page.line_at(0, 1.0, "red")
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert '<script src="http' not in text
    (document,) = re.findall(r"Plotly\.newPlot\('figure', (\{.*\})\)</script></body>", text)
    figure = json.loads(document)
    assert [(trace["xaxis"], trace["y"]) for trace in figure["data"]] == [
        ("x", [0, None]),
        ("x2", [1, None]),
        ("x3", [2, None]),
    ]
    assert figure["layout"]["title"]["text"] == "caption </script> & more"
    left, right, below = (figure["layout"][name] for name in ("xaxis", "xaxis2", "xaxis3"))
    assert left["domain"][1] < right["domain"][0]
    assert below["domain"] == left["domain"]
    assert figure["layout"]["yaxis3"]["domain"][1] < figure["layout"]["yaxis"]["domain"][0]
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["panel 0", "panel 1", "panel 2", "here"]
    assert figure["layout"]["shapes"][0]["x0"] == 1.0
