"""Borrow: gives the environment of an image the packages of this machine's environment, and their commands.

It runs in the image, with the image's Python. The folders are those of the variable BORROWED; their own .pth files are
not read, so that Rung is the image's own.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

SCRIPT = """#!/opt/rung/bin/python
import sys
from {module} import {first}
sys.exit({function}())
"""

if __name__ == "__main__":
    folders = os.environ["BORROWED"].split(os.pathsep)
    (Path(sysconfig.get_path("purelib")) / "borrowed.pth").write_text("\n".join(folders))
    sys.path += folders
    for one in entry_points(group="console_scripts"):
        script = Path(sysconfig.get_path("scripts")) / one.name
        if one.name != "rung" and not script.exists():
            first = one.attr.partition(".")[0]
            script.write_text(SCRIPT.format(module=one.module, first=first, function=one.attr))
            script.chmod(0o755)
