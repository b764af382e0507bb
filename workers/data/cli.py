"""Command line of data sets: `python -m workers.data.cli`, which `rung data` runs.

Reads `{"dataset": ..., "seed": ...}` of a spec as JSON from standard input, decodes the data set into the cache, and
prints the report and the size of the cache as a JSON object in the last line. Exit status: 0, or 2 if the data cannot
be read. It must not know the service or Ray.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

from search_spaces.datasets import Dataset
from workers.data import cache
from workers.data.report import report
from workers.data.splits import DataError, load


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.data.cli")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cache-root", type=Path, required=True)
    options = parser.parse_args(arguments)
    document = json.load(sys.stdin)
    try:
        dataset = TypeAdapter(Dataset).validate_python(document["dataset"])
        read = report(dataset, load(dataset, document["seed"], options.data_root, options.cache_root, every_file=True))
    except (DataError, ValueError) as error:
        print(f"rung: {error}", file=sys.stderr)
        return 2
    kept = {"folder": str(options.cache_root), "bytes": cache.size_bytes(options.cache_root)}
    print(json.dumps({"report": read.model_dump(mode="json"), "cache": kept}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
