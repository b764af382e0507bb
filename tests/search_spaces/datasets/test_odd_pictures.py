"""Images that are not 8-bit, transparent ones, broken tags and hostile files: nothing of them is lost in silence."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search_spaces.datasets.image_folder import pictures
from search_spaces.datasets.image_folder.pictures import PictureError, decode, describe
from tests.support.image_files import save_image
from tests.support.odd_pictures import (
    EPS,
    patterned,
    save_bmp32,
    save_jpeg,
    save_packed_png,
    save_png16,
    save_tiff,
)
from tests.support.picture_folders import everything, folder, two_classes
from workers.data.splits import DataError, load

SAVE: dict[str, tuple[Callable[[Path, Any], None], str]] = {
    "uint16": (save_png16, "png"),
    "int16": (save_tiff, "tif"),
    "int32": (save_tiff, "tif"),
    "uint32": (save_tiff, "tif"),
    "float32": (save_tiff, "tif"),
    "int8": (save_tiff, "tif"),
}


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("uint16", 0, 240),
        ("uint16", 0, 4095),
        ("uint16", 0, 65535),
        ("uint16", 31000, 32000),
        ("int16", -1000, 1000),
        ("int32", -5, 70_000),
        ("uint32", 0, 4_000_000_000),
        ("float32", 0, 1),
        ("float32", -1, 1),
        ("int8", -100, 100),
    ],
)
def test_values_that_are_not_8_bit_are_scaled_by_their_range(
    tmp_path: Path, kind: str, low: float, high: float
) -> None:
    save, suffix = SAVE[kind]
    two_classes(tmp_path / "pictures", lambda path, values: save(path, values.astype(kind)), low, high, suffix)
    splits = load(folder(color="gray"), 0, tmp_path, tmp_path / "cache")
    images = everything(splits)
    assert set(images.unique().tolist()) == {0, 255}
    left = splits.train_images[splits.train_labels == 0]
    assert (left[:, 0, :, 0] == 0).all()
    assert (left[:, 0, :, -1] == 255).all()
    (note,) = (note for note in splits.notes if "values" in note)
    assert f"hold values from {low:g} to {high:g}; {low:g} became black and {high:g} white (measured" in note
    assert splits.decoding["value_range"] == [low, high]


def test_a_declared_range_is_used_instead(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures", lambda path, values: save_png16(path, values), 0, 240)
    splits = load(folder(value_range=[0, 480]), 0, tmp_path, tmp_path / "cache")
    assert set(everything(splits).unique().tolist()) == {0, 127}
    assert "(dataset.value_range)" in splits.notes[0]


def test_values_that_are_not_numbers_are_reported(tmp_path: Path) -> None:
    """NaN and infinity: what they became, also where a TIFF says that zero is white. Without another value: damaged."""
    two_classes(tmp_path / "pictures/train", lambda path, values: save_tiff(path, values.astype("f4")), 0, 1, "tif")
    odd = np.tile(np.array([np.nan, -np.inf, np.inf, 0.5], "f4"), (12, 3))
    save_tiff(tmp_path / "pictures/train/left/odd.tif", odd)
    save_tiff(tmp_path / "pictures/test/left/odd.tif", odd)
    save_tiff(tmp_path / "pictures/test/right/negative.tif", odd, inverted=True)
    save_tiff(tmp_path / "pictures/test/right/bright.tif", patterned(5, 0, 2).astype("f4"))
    splits = load(folder(color="gray"), 0, tmp_path, tmp_path / "cache")
    images, labels = splits.test()
    assert images[labels == 0][0, 0, 0, :4].tolist() == [0, 0, 255, 128]
    assert images[labels == 1][1, 0, 0, :4].tolist() == [255, 255, 0, 127]
    assert splits.facts["not_finite"] == 3
    notes = [note for note in splits.notes if "image" in note and "valu" in note]
    assert notes == [
        "24 images are not 8-bit and hold values from 0 to 2; 0 became black and 1 white (measured in the training "
        "set; the other way round in 1 of them, as their files say): train/left/0.tif, train/left/1.tif, "
        "train/left/2.tif, train/left/3.tif, train/left/4.tif and 19 more",
        "1 image holds values outside 0 to 1, which were clipped: test/right/bright.tif",
        "3 images hold NaN or infinite values; NaN and -inf became 0, inf 1: train/left/odd.tif, test/left/odd.tif, "
        "test/right/negative.tif",
    ]
    save_tiff(tmp_path / "pictures/test/left/none.tif", np.full((12, 12), np.nan, "f4"))
    with pytest.raises(DataError, match=r"1 damaged image in .*test/left/none\.tif \(has no finite value\)"):
        load(folder(color="gray"), 0, tmp_path, tmp_path / "cache")


def test_zero_stays_black_if_little_is_lost_by_it() -> None:
    assert pictures.range_of(20, 4095) == (0, 4095)
    assert pictures.range_of(31000, 32000) == (31000, 32000)
    assert pictures.range_of(7, 7) == (0, 7)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_both_bytes_of_sixteen_bit_channels_count(tmp_path: Path, channels: int) -> None:
    """Pillow keeps the upper byte: without the lower one, these images are black."""
    values = np.stack([patterned(3, 0, 240)] * channels, axis=-1)
    if channels in (2, 4):
        values[..., -1] = 65535
    save_png16(tmp_path / "deep.png", values)
    pixels = decode(tmp_path / "deep.png", describe(12, 12, 3, value_range=(0, 240)))
    assert set(np.unique(pixels)) == {0, 255}


def test_one_bright_pixel_is_reported(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures", save_png16, 0, 240)
    hot = patterned(5, 0, 240)
    hot[0, 0] = 65535
    for index in range(8):
        save_png16(tmp_path / f"pictures/left/hot{index}.png", hot)
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert any("give the range that matters as dataset.value_range" in note for note in splits.notes)


def test_transparent_images_are_drawn_on_the_background(tmp_path: Path) -> None:
    def save(path: Path, values: Any) -> None:
        image = Image.new("RGBA", (12, 12), (0, 0, 0, 0))
        image.putalpha(Image.fromarray(values.astype(np.uint8)))
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)

    two_classes(tmp_path / "pictures", save, 255, 0)
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert set(everything(splits).unique().tolist()) == {0, 255}
    assert "20 images have transparent pixels" in splits.notes[0]
    with pytest.raises(DataError, match=r"all 20 images .* are equal once decoded .*give another dataset\.background"):
        load(folder(background="black"), 0, tmp_path, tmp_path / "cache")


def test_a_class_of_equal_images_is_reported(tmp_path: Path) -> None:
    for index in range(6):
        save_image(tmp_path / f"pictures/same/{index}.png", (9, 9, 9))
        save_image(tmp_path / f"pictures/other/{index}.png", (index, 0, 0))
    notes = load(folder(), 0, tmp_path, tmp_path / "cache").notes
    assert "all images of a class are equal once decoded: same" in notes


@pytest.mark.parametrize(
    "tags",
    [
        [(0x100, 2, 5, b"text\0"), (0x112, 3, 1, struct.pack("<H", 6))],
        [(0x112, 3, 1, struct.pack("<H", 6)), (0x11A, 2, 4, b"abc\0")],
    ],
    ids=["ImageWidth", "XResolution"],
)
def test_a_jpeg_is_turned_although_another_tag_is_broken(tmp_path: Path, tags: Any) -> None:
    image = Image.new("RGB", (24, 12), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 12, 12))
    save_jpeg(tmp_path / "odd.jpg", image, *tags)
    pixels = decode(tmp_path / "odd.jpg", describe(24, 12, 3))
    assert pixels[0, :8].min() > 200, "the left half must be at the top"
    assert pixels[0, 16:].max() < 50


@pytest.mark.parametrize("error", [struct.error("odd"), TypeError("odd"), KeyError("odd"), AssertionError("odd")])
def test_whatever_pillow_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Any) -> None:
        raise error

    two_classes(tmp_path / "pictures", lambda path, values: save_image(path, (int(values[0, 3]) % 255, 1, 2)), 0, 9)
    save_image(tmp_path / "pictures/left/odd.gif", (1, 2, 3))
    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.load", fail)
    with pytest.raises(DataError, match=rf"1 damaged image .*left/odd\.gif \({type(error).__name__}: .*odd"):
        load(folder(), 0, tmp_path, tmp_path / "cache")


def test_no_other_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "1.png").write_bytes(EPS)
    with pytest.raises(PictureError, match="is not an image of a known format"):
        decode(tmp_path / "1.png", describe(8, 8, 3))
    assert not marker.exists()


@pytest.mark.parametrize(("side", "got"), [(8001, "8001x8001"), (14_000, "196 million")])
def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch, side: int, got: str
) -> None:
    """Pillow itself refuses the larger one, before it tells width and height."""
    stored = io.BytesIO()
    Image.new("1", (side, side)).save(stored, "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(PictureError, match=rf"must have at most 64 million pixels \(got {got}\)"):
        decode(stored.getvalue(), describe(8, 8, 3))


RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def two_colors(path: Path, mode: str = "RGB", **options: Any) -> None:
    """Red at the left, and blue at the right."""
    image = Image.new("RGB", (12, 12), RED)
    image.paste(BLUE, (6, 0, 12, 12))
    (image.quantize(2) if mode == "P" else image.convert(mode)).save(path, **options)


@pytest.mark.parametrize(
    ("name", "save", "left", "right"),
    [
        ("1.png", lambda path: save_packed_png(path, 1, 1), BLACK, WHITE),
        ("1.png", lambda path: save_packed_png(path, 2, 1), BLACK, WHITE),
        ("1.png", lambda path: save_packed_png(path, 4, 1), BLACK, WHITE),
        ("1.png", lambda path: save_packed_png(path, 4, 0), WHITE, (17, 17, 17)),
        ("1.png", lambda path: two_colors(path, "P", transparency=bytes([255, 0])), None, WHITE),
        ("1.png", lambda path: two_colors(path, transparency=BLUE), RED, WHITE),
        ("1.bmp", lambda path: save_bmp32(path, 0), BLUE, BLUE),
        ("1.bmp", lambda path: save_bmp32(path, 255), BLUE, BLUE),
        ("1.jpg", lambda path: two_colors(path, "CMYK", quality=100), RED, BLUE),
        ("1.jpg", lambda path: two_colors(path, quality=100, progressive=True), RED, BLUE),
        ("1.tif", lambda path: two_colors(path, "CMYK"), RED, BLUE),
        ("1.tif", lambda path: two_colors(path, "1"), None, BLACK),
        ("1.tif", lambda path: two_colors(path, save_all=True, append_images=[Image.new("L", (3, 3))]), RED, BLUE),
        ("1.webp", lambda path: two_colors(path, lossless=True, save_all=True), RED, BLUE),
        ("1.pgm", lambda path: path.write_bytes(b"P5 2 1 100\n\0\x64"), BLACK, WHITE),
        ("1.ppm", lambda path: path.write_bytes(b"P3 2 1 255 255 0 0 0 0 255 "), RED, BLUE),
    ],
)
def test_rare_kinds_of_pixels_are_read(tmp_path: Path, name: str, save: Any, left: Any, right: Any) -> None:
    save(tmp_path / name)
    pixels = decode(tmp_path / name, describe(12, 12, 3)).astype(int)
    for column, color in ((0, left), (11, right)):
        if color is not None:
            assert abs(pixels[:, :, column].T - color).max() <= 3, f"column {column}"
