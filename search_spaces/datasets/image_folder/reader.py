"""Reader: the images of a folder as arrays, and what was found out about them.

Owns the passes over the files: damaged ones are left out or named, values that are not 8-bit are measured before they
are scaled, and a data set without content is refused. `layout` finds the files, `pictures` decodes one, and `findings`
words the notes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.datasets.base import DataError, Destination
from search_spaces.datasets.image_folder import findings, version_0_1
from search_spaces.datasets.image_folder.findings import Record
from search_spaces.datasets.image_folder.layout import FoundImages, find_images
from search_spaces.datasets.image_folder.listing import Status, place, status_of
from search_spaces.phrases import counted, listed, quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search_spaces.datasets.image_folder import ImageFolder

DECODING = 4  # raise it when equal files of an equal spec decode to other pixels
SAMPLED_FILES = 64  # whose status stands for all of them between two full checks
LOGGED_FILES = 1000  # damaged ones, a line each in the log of the trial
MAX_NARROW_SHARE = 0.99  # of the values in one sixteenth of the range, from which a range is probably wrong

log = logging.getLogger(__name__)


class ImageFolderReader:
    """Lists the images when it is made, and looks once at each file's status: one reader knows one content, and decodes
    no other. Raises DataError for a folder whose layout is not one of those in `layout`."""

    def __init__(self, spec: ImageFolder, data_root: Path) -> None:
        self._spec = spec
        find = version_0_1.find_images if spec.reader_version == 1 else find_images
        self._found = find(data_root / spec.path, spec.test_fraction)
        self._seen: dict[Path, Status] = {}

    @property
    def replaces(self) -> str | None:
        return os.fsencode(self._found.root.resolve()).decode("utf-8", "backslashreplace")

    def signs(self) -> list[Any]:
        """The names of all files, and the sizes and times of change of SAMPLED_FILES of them."""
        names, paths = hashlib.sha256(), []
        for part, images in self._found.parts.items():
            for label, path in images:
                names.update(f"{part}\0{label}\0".encode() + os.fsencode(path) + b"\n")
                paths.append(path)
        sample = paths[:: max(1, len(paths) // SAMPLED_FILES)]
        return [*meaning(self._spec), names.hexdigest(), [list(self._status(path)) for path in sample]]

    def identity(self) -> list[Any]:
        """The files' names, sizes and times of change, and how they are decoded."""
        files = hashlib.sha256()
        for part, images in self._found.parts.items():
            for label, path in images:
                size, changed_ns = self._status(path)
                name = os.fsencode(path.relative_to(self._found.root))
                files.update(f"{part}\0{label}\0".encode() + name)
                files.update(f"\0{size}\0{changed_ns}\n".encode())
        return [*meaning(self._spec), list(self._found.class_names), files.hexdigest()]

    def decode(self, destination: Destination, *, download: bool) -> dict[str, Any]:
        """Raises DataError for files that cannot be read, and names LISTED of them, unless they are to be skipped."""
        from search_spaces.datasets.image_folder.pictures import describe

        spec, found = self._spec, self._found
        description = describe(
            spec.size,
            spec.size,
            self.channels,
            value_range=spec.value_range,
            background=spec.background_level,
            as_version_0_1=spec.reader_version == 1,
        )
        decoded = _decode(found, destination, description, self._status)
        skipped = list(decoded.damaged.values())
        if skipped:
            self._report(skipped)
            found = _without(found, set(decoded.damaged))
            decoded = _decode(found, destination, description, self._status)
            if decoded.damaged:
                self._report(list(decoded.damaged.values()), changing=True)
        constant = decoded.constant_classes()
        if decoded.all_equal:
            raise DataError(
                f"image_folder: all {len(decoded.records)} images in {place(found.root)} are equal once decoded (every "
                f"pixel of the first: {decoded.first_pixels()}); {self._advice(decoded)}"
            )
        notes = [
            *found.notes,
            *_skipped_notes(skipped),
            *findings.notes(decoded.records, found.class_names, constant),
            *self._scaling_notes(decoded),
        ]
        for note in notes:
            log.warning("image_folder %s: %s", place(found.root), note)
        return {
            "class_names": list(found.class_names),
            "notes": notes,
            "decoding": decoded.description,
            "layout": found.summary,
            "skipped": len(skipped),
            "has_validation": "validation" in found.parts,
            "values": list(decoded.levels) if decoded.levels else None,
            **findings.facts(decoded.records),
        }

    @property
    def channels(self) -> int:
        return 3 if self._spec.color == "rgb" else 1

    def _status(self, path: Path) -> Status:
        """Of a file when it was first asked for."""
        if path not in self._seen:
            self._seen[path] = status_of(os.stat(path))
        return self._seen[path]

    def _report(self, damaged: list[str], changing: bool = False) -> None:
        """Log damaged files. Raises DataError unless they are to be skipped."""
        for one in damaged[:LOGGED_FILES]:
            log.error("image_folder: damaged: %s", one)
        if changing or self._spec.damaged != "skip":
            raise DataError(
                f"image_folder: {counted(len(damaged), 'damaged image')} in {place(self._found.root)}: "
                f"{listed(damaged)}; repair or remove {'it' if len(damaged) == 1 else 'them'}, or set dataset.damaged "
                "to skip"
            )

    def _advice(self, decoded: _Decoded) -> str:
        if self._spec.reader_version == 1:
            return "submit the spec as a new experiment without dataset.reader_version, which scales values"
        if decoded.levels:
            return f"their values are from {decoded.levels[0]:g} to {decoded.levels[1]:g}; give dataset.value_range"
        if all(record.invisible for record in decoded.records):
            return "every pixel of them is transparent, so there is nothing to see; save them without transparency"
        if any(record.composited for record in decoded.records):
            return "they have transparent pixels; give another dataset.background"
        return "a model cannot learn from them"

    def _scaling_notes(self, decoded: _Decoded) -> Iterator[str]:
        if not any(record.levels for record in decoded.records):
            return
        how = "dataset.value_range" if self._spec.value_range else "measured in the training set"
        yield from findings.scaling(decoded.records, decoded.description["value_range"], how)
        if decoded.narrow_share > MAX_NARROW_SHARE:
            yield (
                f"{decoded.narrow_share:.1%} of the values of these images lie in one sixteenth of the range, so that "
                "little is left of them; give the range that matters as dataset.value_range"
            )


def meaning(spec: ImageFolder) -> list[Any]:
    """JSON values of how files are decoded: of equal files, those of equal meaning give equal arrays."""
    rest = [spec.background, spec.damaged, list(spec.value_range or ())]
    return ["image_folder", [DECODING, spec.reader_version], spec.size, spec.color, *rest]


@dataclass
class _Decoded:
    """What one pass over the files gave. `damaged`: path -> name and reason. `levels`: of the training set's values."""

    description: dict[str, Any]
    records: list[Record] = field(default_factory=list)
    damaged: dict[Path, str] = field(default_factory=dict)
    levels: tuple[float, float] | None = None
    narrow_share: float = 0.0
    first: dict[int, NDArray[Any]] = field(default_factory=dict)
    varied: set[int] = field(default_factory=set)

    def see(self, label: int, pixels: NDArray[Any]) -> None:
        import numpy as np

        if label not in self.varied and not np.array_equal(self.first.setdefault(label, pixels.copy()), pixels):
            self.varied.add(label)

    @property
    def all_equal(self) -> bool:
        import numpy as np

        one, *others = self.first.values()
        return not self.varied and all(np.array_equal(one, other) for other in others)

    def constant_classes(self) -> list[int]:
        """Classes of several images that are all equal."""
        counts: dict[int, int] = {}
        for record in self.records:
            counts[record.label] = counts.get(record.label, 0) + 1
        return sorted(label for label, count in counts.items() if count > 1 and label not in self.varied)

    def first_pixels(self) -> str:
        pixels = next(iter(self.first.values()))
        low, high = int(pixels.min()), int(pixels.max())
        return str(low) if low == high else f"{low} to {high}"


def _decode(
    found: FoundImages, destination: Destination, description: dict[str, Any], expected: Callable[[Path], Status]
) -> _Decoded:
    """Decode all files into new arrays. If some are damaged, the arrays are of no use."""
    from search_spaces.datasets.image_folder.pictures import range_of
    from search_spaces.datasets.image_folder.reading import Damaged, read_pictures

    decoded, size, channels = _Decoded(description), description["height"], description["channels"]
    arrays: dict[str, NDArray[Any]] = {}
    unscaled: dict[str, list[int]] = {}
    lows: list[float] = []
    highs: list[float] = []
    for part, files in found.parts.items():
        arrays[part] = destination.create_array(f"{part}_images", (len(files), channels, size, size), "uint8")
        destination.create_array(f"{part}_labels", (len(files),), "int64")[:] = [label for label, _ in files]
        for index, picture in enumerate(read_pictures([path for _, path in files], description, expected)):
            label, path = files[index]
            if isinstance(picture, Damaged):
                decoded.damaged[path] = f"{found.name(path)} ({picture.reason})"
                continue
            if picture.levels is not None and part == "train":
                lows.append(picture.levels[0])
                highs.append(picture.levels[1])
            if picture.pixels is None:
                unscaled.setdefault(part, []).append(index)
            else:
                arrays[part][index] = picture.pixels
                decoded.see(label, picture.pixels)
            decoded.records.append(
                Record(
                    part,
                    label,
                    found.name(path),
                    picture.sha256,
                    picture.shape,
                    picture.mode,
                    picture.levels,
                    picture.composited,
                    picture.frames,
                    picture.inverted,
                    picture.not_finite,
                    picture.invisible,
                    "" if picture.pixels is None else _digest(picture.pixels),
                )
            )
    decoded.levels = (min(lows), max(highs)) if lows else None
    if unscaled and not decoded.damaged:
        if decoded.levels is None:
            raise DataError(
                f"image_folder: the training set in {place(found.root)} is 8-bit, but "
                f"{counted(sum(map(len, unscaled.values())), 'other image is', 'other images are')} not; give "
                "dataset.value_range, the values that are black and white in them"
            )
        decoded.description = {**description, "value_range": list(range_of(*decoded.levels))}
        _scale(found, arrays, unscaled, decoded, expected)
    return decoded


def _scale(
    found: FoundImages,
    arrays: dict[str, NDArray[Any]],
    unscaled: dict[str, list[int]],
    decoded: _Decoded,
    expected: Callable[[Path], Status],
) -> None:
    """Read once more the images that are not 8-bit, now that the range of their values is known."""
    import numpy as np

    from search_spaces.datasets.image_folder.reading import Damaged, read_pictures

    counts, start = np.zeros(256, np.int64), 0
    for part, images in found.parts.items():
        indices = unscaled.get(part, [])
        files = [images[index] for index in indices]
        pictures = read_pictures([path for _, path in files], decoded.description, expected)
        for index, (label, path), picture in zip(indices, files, pictures, strict=True):
            if isinstance(picture, Damaged) or picture.pixels is None:
                raise DataError(f"image_folder: {found.name(path)} changed while it was read")
            arrays[part][index] = picture.pixels
            decoded.see(label, picture.pixels)
            counts += np.bincount(picture.pixels.reshape(-1), minlength=256)
            decoded.records[start + index] = replace(
                decoded.records[start + index],
                composited=picture.composited,
                invisible=picture.invisible,
                pixels_sha256=_digest(picture.pixels),
            )
        start += len(images)
    decoded.narrow_share = float(np.convolve(counts, np.ones(16, np.int64), "valid").max() / counts.sum())


def _digest(pixels: NDArray[Any]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _without(found: FoundImages, damaged: set[Path]) -> FoundImages:
    """The images without damaged ones. Raises DataError where a part or a class of the training set is left empty."""
    parts = {
        part: tuple((label, path) for label, path in images if path not in damaged)
        for part, images in found.parts.items()
    }
    empty = [part for part, images in parts.items() if not images]
    left = {label for label, _ in parts["train"]}
    empty += [f"the class {quoted(name)}" for label, name in enumerate(found.class_names) if label not in left]
    if empty:
        raise DataError(
            f"image_folder: without the {counted(len(damaged), 'damaged image')} in {place(found.root)}, no image is "
            f"left of {listed(empty)}"
        )
    return replace(found, parts=parts)


def _skipped_notes(skipped: list[str]) -> Iterator[str]:
    if skipped:
        yield f"{counted(len(skipped), 'damaged image was', 'damaged images were')} left out: {listed(skipped)}"
