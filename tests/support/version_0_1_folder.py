"""Image folders that version 0.1 reads differently from later versions, and digests of what was read from them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.odd_pictures import save_png16

SIDE = 8


def write_folders(root: Path) -> None:
    """`flat`: classes beside a folder `val` and a hidden one. `parts`: train, val and test."""
    for number, folder in enumerate(("flat/owl", "flat/wren", "flat/val", "flat/__MACOSX", "flat/.hidden")):
        _write_class(root / folder, number)
    for number, (part, name) in enumerate((p, c) for p in ("train", "val", "test") for c in ("owl", "wren")):
        _write_class(root / "parts" / part / name, 10 + number)


def digests(splits: Any) -> dict[str, Any]:
    """Classes, and a digest of the images and labels of each split, in their order."""
    parts = {
        "train": (splits.train_images, splits.train_labels),
        "validation": (splits.validation_images, splits.validation_labels),
        "test": splits.test(),
    }
    found = {part: _digest(images, labels) for part, (images, labels) in parts.items()}
    return {"classes": list(splits.class_names), "mean": [round(value, 6) for value in splits.mean.tolist()], **found}


def _write_class(folder: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)

    def pixels(channels: int) -> NDArray[np.uint8]:
        return generator.integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)

    folder.mkdir(parents=True)
    for index in range(5):
        Image.fromarray(pixels(3)).save(folder / f"{index}.png")
    Image.fromarray(pixels(3)).save(folder / "0_mask.png")
    Image.fromarray(pixels(4)).save(folder / "transparent.png")
    Image.fromarray(pixels(2)).save(folder / "gray-alpha.png")
    palette = Image.fromarray(pixels(1)[..., 0] % 16, "P")
    palette.putpalette(generator.integers(0, 256, 48, dtype=np.uint8).tobytes())
    palette.save(folder / "palette.png", transparency=3)
    save_png16(folder / "deep.png", generator.integers(0, 65536, (SIDE, SIDE), dtype=np.uint16))
    save_png16(folder / "deep-color.png", generator.integers(0, 65536, (SIDE, SIDE, 3), dtype=np.uint16))
    Image.fromarray(pixels(3)).save(folder / "turned.tif", exif=_turned())
    Image.fromarray(pixels(3)).save(folder / "upper.PNG")
    Image.fromarray(pixels(3)).save(folder / "photo.jfif", format="JPEG")
    Image.fromarray(pixels(3)).save(folder / "no-suffix", format="PNG")
    Image.fromarray(pixels(3)).save(folder / ".hidden.png")
    (folder / "readme.txt").write_text("no image")
    (folder / "nested").mkdir()
    Image.fromarray(pixels(3)).save(folder / "nested" / "0.png")


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _digest(images: Any, labels: Any) -> str:
    """Of uint8 [N, C, H, W] and int64 [N]."""
    content = np.asarray(images[:]).tobytes() + np.asarray(labels).tobytes()
    return f"{len(labels)} {hashlib.sha256(content).hexdigest()[:16]}"
