"""Layers: the files of the images, made by the very instructions of docker/Dockerfile over the files of this machine.

Instead of downloading, they borrow: the images of others are made by stand_ins.dockerfile, and the packages are those
of the environment that runs this. Nothing of it has a network.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from tests.cluster.host import Host, checked
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
    """The layers of images by name, each made once. `source` is the clone whose files are copied into images."""

    def __init__(self, host: Host, source: Path = REPOSITORY) -> None:
        self.source = source
        self.images = known_images()
        self._host = host
        self._folder = host.memory / "layers"
        self._numbers = itertools.count()
        self._made: dict[str, list[Path]] = {}

    def of(self, name: str) -> list[Path]:
        """The layers of an image, the lowest last. Raises RuntimeError with what an instruction wrote if it fails."""
        if name not in self._made:
            self._made[name] = self._machine() if name == MACHINE else self._stage(self.images[name])
        return self._made[name]

    def _stage(self, image: Image) -> list[Path]:
        layers = list(self.of(image.parent))
        folder = self.images[image.parent].folder if image.parent in self.images else "/"
        for word, rest in image.steps:
            if word == "WORKDIR":
                folder = rest
                continue
            written = self._new()
            if word == "COPY":
                *sources, target = rest.split()
                self._copy(sources, f"{written}/upper{Path(folder) / target}", is_folder=target.endswith("/"))
            else:
                self._run(rest, Root(layers, written, borrowed()), image, folder)
            layers.insert(0, written / "upper")
        return layers

    def _machine(self) -> list[Path]:
        """This machine's system, and nothing else of it: other folders at the top are hidden by empty ones."""
        upper = self._new() / "upper"
        hidden = [
            one for one in Path("/").iterdir() if one.is_dir() and not one.is_symlink() and one.name not in SYSTEM
        ]
        for one in hidden:
            mode = oct(one.stat().st_mode & 0o7777)[2:] if one.name != "root" else "0755"
            self._host.run("mkdir", "-m", mode, str(upper / one.name))
        mark = "import os, sys\nfor path in sys.argv[1:]: os.setxattr(path, 'trusted.overlay.opaque', b'y')"
        self._host.run(sys.executable, "-c", mark, *(str(upper / one.name) for one in hidden))
        return [upper, Path("/")]

    def _run(self, rest: str, root: Root, image: Image, folder: str) -> None:
        command = next((instead for start, instead in INSTEAD.items() if rest.startswith(start)), rest)
        after = next((more for start, more in AFTER.items() if rest.startswith(start)), "true")
        script = f"{root.script()}\nmkdir -p {folder}\ncd {folder}\n{command}\n{after}"
        python = {"PYTHON": os.path.realpath(sys.executable), "BORROWED": os.pathsep.join(map(str, packages()))}
        given = {"HOME": "/root", **image.environment, **BUILD, **python}
        words = [f"{name}={value}" for name, value in given.items()]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        checked(self._host.inside("env", "-i", *words, *namespaces, "sh", "-c", script))

    def _copy(self, sources: list[str], target: str, *, is_folder: bool) -> None:
        """What is in a folder that is copied, and not the folder itself, comes to the target."""
        above, lines = str(self.source), []
        if sources[0].startswith("--from="):
            above = str(self._new() / "root")
            lower = ":".join(map(str, self.of(sources.pop(0).partition("=")[2])))
            lines = [f"mkdir {above}", f"mount -t overlay -o ro,lowerdir={lower} overlay {above}"]
        for one in sources:
            path = os.path.normpath(f"{above}/{one}")
            into = target if is_folder else f"$(dirname {target})"
            lines.append(f"if [ -d {path} ]; then mkdir -p {target}; cp -R --preserve=mode,links {path}/. {target}")
            lines.append(f"else mkdir -p {into}; cp {path} {target}; fi")
        self._host.run("unshare", "--mount", "sh", "-euc", "\n".join(lines))

    def _new(self) -> Path:
        folder = self._folder / str(next(self._numbers))
        self._host.run("mkdir", "-p", str(folder / "upper"))
        return folder
