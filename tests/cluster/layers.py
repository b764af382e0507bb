"""Layers: the files of the images, made by the very instructions of docker/Dockerfile over the files of this machine.

Instead of downloading, they borrow: the images of others are made by stand_ins.dockerfile, and the packages are those
of the environment that runs this. Nothing of it has a network.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster.host import BOUND, Host, checked
from tests.cluster.root import Bind, Root
from tests.deployment.dockerfile import Image, images

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
STAND_INS = HERE / "stand_ins.dockerfile"
MACHINE = "machine"
#: The folders of this machine that an image has. What else it needs is borrowed, at its path on this machine.
SYSTEM = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "var", "dev", "proc", "sys"})
#: Instructions of docker/Dockerfile, by how they begin: what is done after them, or instead of them. pip builds Rung
#: with the borrowed setuptools, which is newer than that of a new environment.
AFTER = {
    "python -m venv /opt/rung": "/opt/rung/bin/pip uninstall --quiet --yes setuptools\n"
    "/opt/rung/bin/python /usr/local/bin/borrow.py"
}
INSTEAD = {"apt-get update && apt-get install -y --no-install-recommends g++ ": "g++ --version"}
#: pip must take what is here.
BUILD = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_ROOT_USER_ACTION": "ignore"}


def packages() -> list[Path]:
    """The folders of this environment with packages, the first that is searched first."""
    return [Path(one).resolve() for one in sys.path if one.endswith("site-packages")]


def borrowed() -> list[Bind]:
    """What every image has of this machine, beside its system: Python and packages."""
    folders = [Bind(path, str(path)) for path in dict.fromkeys([Path(sys.base_prefix), *packages()])]
    return [*folders, Bind(Path(sys.executable).with_name("caddy").resolve(), "/usr/local/bin/caddy")]


def known_images() -> dict[str, Image]:
    """The images of docker/Dockerfile by their targets, and the stand-ins of those of others by their names."""
    return images(STAND_INS.read_text()) | images()


class Layers:
    """The layers of images by name. What an instruction makes of the same files is made once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._images = known_images()
        self._folder = host.memory / "layers"
        self._numbers = itertools.count()
        self._made: dict[tuple[object, ...], Path] = {}

    def of(self, name: str, source: Path = REPOSITORY) -> list[Path]:
        """The layers of an image, the lowest last. `source` is the clone whose files are copied into it. Raises
        RuntimeError with what an instruction wrote if it fails."""
        if name == MACHINE:
            return [self._once((MACHINE,), self._hide), Path("/")]
        image = self._images[name]
        context = source if name in images() else HERE
        layers = self.of(image.parent, source)
        folder = self._images[image.parent].folder if image.parent in self._images else "/"
        for word, rest in image.steps:
            if word == "WORKDIR":
                folder = rest
            elif word == "RUN":
                below = tuple(layers)
                step = functools.partial(self._run, rest, below, image, folder)
                layers.insert(0, self._once((below, rest), step))
            else:
                *sources, target = rest.split()
                view = [context]
                if sources[0].startswith("--from="):
                    view = self.of(sources.pop(0).partition("=")[2], source)
                into = f"{Path(folder) / target}{'/' if target.endswith('/') else ''}"
                step = functools.partial(self._copy, sources, view, into)
                layers.insert(0, self._once((tuple(layers), tuple(view), rest), step))
        return layers

    def _once(self, key: tuple[object, ...], make: Callable[[Path], None]) -> Path:
        """A layer: the folder `upper` of a new one that `make` fills."""
        if key not in self._made:
            written = self._folder / str(next(self._numbers))
            self._host.run("mkdir", "-p", str(written / "upper"))
            make(written)
            self._made[key] = written / "upper"
        return self._made[key]

    def _hide(self, written: Path) -> None:
        """This machine's system, and nothing else of it: other folders at the top are hidden by empty ones."""
        hidden = [
            one for one in Path("/").iterdir() if one.is_dir() and not one.is_symlink() and one.name not in SYSTEM
        ]
        for one in hidden:
            mode = oct(one.stat().st_mode & 0o7777)[2:] if one.name != "root" else "0755"
            self._host.run("mkdir", "-m", mode, f"{written}/upper/{one.name}")
        mark = "import os, sys\nfor path in sys.argv[1:]: os.setxattr(path, 'trusted.overlay.opaque', b'y')"
        self._host.run(sys.executable, "-c", mark, *(f"{written}/upper/{one.name}" for one in hidden))

    def _run(self, rest: str, below: Sequence[Path], image: Image, folder: str, written: Path) -> None:
        command = next((instead for start, instead in INSTEAD.items() if rest.startswith(start)), rest)
        after = next((more for start, more in AFTER.items() if rest.startswith(start)), "true")
        root = Root(below, written, borrowed())
        script = f"{root.script()}\nmkdir -p {folder}\ncd {folder}\n{command}\n{after}"
        python = {"PYTHON": os.path.realpath(sys.executable), "BORROWED": os.pathsep.join(map(str, packages()))}
        given = {"HOME": "/root", **image.environment, **BUILD, **python}
        words = [f"{name}={value}" for name, value in given.items()]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        checked([*BOUND, *self._host.inside("env", "-i", *words, *namespaces, "sh", "-c", script)])

    def _copy(self, sources: Sequence[str], view: Sequence[Path], into: str, written: Path) -> None:
        """Of a folder, what is in it is copied. `view` is the folder whose files are copied, or layers of one."""
        above, target, lines = str(view[0]), f"{written}/upper{into.rstrip('/')}", []
        if len(view) > 1:
            above = f"{written}/view"
            lower = ":".join(map(str, view))
            lines = [f"mkdir {above}", f"mount -t overlay -o ro,lowerdir={lower} overlay {above}"]
        folder = target if into.endswith("/") else f"$(dirname {target})"
        for one in sources:
            path = os.path.normpath(f"{above}/{one}")
            lines.append(f"if [ -d {path} ]; then mkdir -p {target}; cp -R --preserve=mode,links {path}/. {target}")
            lines.append(f"else mkdir -p {folder}; cp {path} {target}; fi")
        self._host.run("unshare", "--mount", "sh", "-euc", "\n".join(lines))
