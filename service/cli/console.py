"""Console: where tables and live views are drawn. It must not know what is drawn."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from service.cli.printable import printable


class SafeConsole(Console):
    """A console that draws texts without what a terminal would obey; its own colors and movements are kept."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
