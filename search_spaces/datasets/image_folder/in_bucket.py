"""Images in a bucket: the data set that the same files in a folder would be.

Owns the list of the objects, by which a content is recognized, and their download into a folder that is there only
while the images are decoded. It must not know layouts, nor how images are decoded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.datasets.base import DataError, DataUnavailableError, Destination
from search_spaces.datasets.image_folder.listing import is_image_by_name, is_of_a_system
from search_spaces.datasets.image_folder.reader import ImageFolderReader, meaning
from search_spaces.phrases import counted, listed, quoted, shown
from search_spaces.storage.addresses import bucket_of
from search_spaces.storage.bucket import Bucket, Object
from search_spaces.storage.object_storage import missing_package

if TYPE_CHECKING:
    from search_spaces.datasets.image_folder import ImageFolder

THREADS = 8
LONGEST_NAME_BYTES = 255  # of a file
MAX_IMAGE_BYTES = 2**29  # a larger one is not read


class ImageBucketReader:
    """Lists the objects when it is made. One that is replaced later is noticed when it is downloaded.

    Raises DataUnavailableError where the bucket cannot be listed, or nothing is there.
    """

    def __init__(self, spec: ImageFolder) -> None:
        self._spec = spec
        self._bucket = bucket_of(spec.path)
        self._objects = listed_objects(self._bucket)

    @property
    def replaces(self) -> str | None:
        return self._bucket.address()

    def identity(self) -> list[Any]:
        """The objects' names, sizes and versions, and how they are decoded."""
        objects = hashlib.sha256()
        for found in self._objects:
            objects.update(f"{found.key}\0{found.size_bytes}\0{found.version}\n".encode())
        return [*meaning(self._spec), self._spec.test_fraction, objects.hexdigest()]

    def decode(self, destination: Destination, *, download: bool) -> dict[str, Any]:
        """As of a folder. Its texts name the bucket, not the folder of the cache."""
        folder = destination.scratch / "objects"
        left_out = self._download(folder)
        try:
            reader = ImageFolderReader(self._spec.model_copy(update={"path": "."}), folder)
            facts = reader.decode(destination, download=download)
        except DataError as error:
            raise type(error)(str(error).replace(str(folder), self._bucket.address())) from error
        return facts | {"notes": [*left_out, *facts["notes"]]}

    def _download(self, folder: Path) -> list[str]:
        """Make `folder`, with empty files in the place of those that are not read. Returns notes."""
        folder.mkdir()
        keys = {found.key for found in self._objects}
        folders = {key[:end] for key in keys for end, character in enumerate(key) if character == "/"}
        used = [found for found in self._objects if _is_file_name(found.key) and found.key not in folders]
        wanted = {found for found in used if _is_read(found)}
        size = sum(found.size_bytes for found in wanted)
        if size > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

        def fetch(found: Object) -> None:
            path = folder / found.key
            path.parent.mkdir(parents=True, exist_ok=True)
            if found in wanted:
                path.write_bytes(self._content(found))
            else:
                with path.open("wb") as file:
                    file.truncate(found.size_bytes)  # without blocks of the disk

        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(fetch, used):
                pass
        others = sorted(keys - {found.key for found in used})
        if not others:
            return []
        names = counted(
            len(others), "object whose name no file can have was", "objects whose names no files can have were"
        )
        return [f"{names} left out: {listed([quoted(shown(key)) for key in others])}"]

    def _content(self, found: Object) -> bytes:
        address = self._bucket.address(found.key)
        try:
            now, content = self._bucket.get(found.key)
        except FileNotFoundError:
            now, content = None, None
        except OSError as error:
            raise DataUnavailableError(f"image_folder: {address} cannot be read ({error.strerror})") from error
        if content is None or now != found:
            raise DataUnavailableError(f"image_folder: {address} changed while it was read; try again later")
        return content


def listed_objects(bucket: Bucket, most: int | None = None) -> list[Object]:
    """The objects of a data set, sorted by name; only the first ones with `most`. Raises DataUnavailableError."""
    address = bucket.address()
    if missing := missing_package():
        raise DataUnavailableError(f"image_folder: {address} {missing}")
    try:
        objects = (one for one in bucket.objects() if one.key and not one.key.endswith("/"))
        found = list(islice(objects, most))
    except FileNotFoundError as error:
        raise DataUnavailableError(f"image_folder: there is no bucket {bucket.name}, in which {address} is") from error
    except OSError as error:
        raise DataUnavailableError(
            f"image_folder: {address} cannot be listed ({error.strerror}); Ray's nodes need the address and the "
            f"credentials of the store in their environment ({bucket.store.variables}...)"
        ) from error
    if not found:
        raise DataUnavailableError(
            f"image_folder: there is nothing at {address}; put images into {address}/<class>/<file>"
        )
    return sorted(found, key=lambda one: one.key)


def _is_file_name(key: str) -> bool:
    parts = key.split("/")
    return "\0" not in key and all(
        part not in {"", ".", ".."} and len(part.encode()) <= LONGEST_NAME_BYTES for part in parts
    )


def _is_read(found: Object) -> bool:
    """Whether it may be an image. Without a suffix, its content tells."""
    if found.size_bytes > MAX_IMAGE_BYTES or any(map(is_of_a_system, found.key.split("/"))):
        return False
    return is_image_by_name(Path(found.key)) is not False
