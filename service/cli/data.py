"""Data: the command that shows a data set before anything trains on it. A process of its own reads the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.printable import echo
from service.cli.specs import read_source
from service.cli.terminal import (
    AsJson,
    CacheRoot,
    DataRoot,
    app,
    data_folder,
    home_folder,
    open_console,
    print_json,
    report_errors,
)

if TYPE_CHECKING:
    from search_spaces.experiment import ExperimentSpec


@app.command()
def data(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="a data set such as mnist, a folder of images, a YAML or JSON file, or preset:NAME"
        ),
    ],
    data_root: DataRoot = None,
    cache_root: CacheRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show a data set: classes, splits, files.

    A folder is looked for in the data root, then here. Decodes the data into the cache, where a search finds them;
    what torchvision knows is downloaded if it is absent. Needs no service.
    """
    from search_spaces.datasets.report import DataReport
    from service.cli import local_process
    from service.cli.extras import require

    with report_errors(as_json):
        require("data", "worker")
        root = data_root or data_folder()
        spec, root = _spec(name, root)
        answer = local_process.read_data(spec, data_root=root, cache_root=cache_root or home_folder() / "cache")
    if as_json:
        print_json(answer)
        return
    from service.cli.rendering import cache_use, classes, data_lines

    report = DataReport.model_validate(answer["report"])
    open_console().print(classes(report))
    for line in (*data_lines(report), cache_use(answer["cache"]["folder"], answer["cache"]["bytes"])):
        echo(line)


def _spec(name: str, data_root: Path) -> tuple[ExperimentSpec, Path]:
    """A spec with the data set that NAME means, and the folder in which it is looked for. Raises SpecError."""
    from search_spaces.datasets import Dataset, ImageFolder
    from search_spaces.parsing import read
    from search_spaces.spec import members
    from search_spaces.validation import validate

    if name == "-" or name.startswith("preset:") or (Path(name).is_file() and not (data_root / name).is_dir()):
        return validate(read(*read_source(name))), data_root
    known = {cls.model_fields["name"].default for cls in members(Dataset) if cls is not ImageFolder}
    if name in known:
        dataset = {"name": name}
    else:
        if not (data_root / name).is_dir() and Path(name).is_dir():
            folder = Path(name).resolve()
            data_root, name = folder.parent, folder.name
        dataset = {"name": "image_folder", "path": name}
    return validate({"name": "data", "dataset": dataset}), data_root
