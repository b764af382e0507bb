"""Damaged, identical and hostile files of image folders: each is read, or named with the reason."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from search_spaces.datasets.base import DataUnavailableError
from search_spaces.datasets.image_folder import pictures
from search_spaces.datasets.image_folder.pictures import PictureError, decode, describe
from tests.support.image_files import save_image
from tests.support.odd_pictures import (
    EPS,
    named,
    patterned,
    save_jpeg,
    save_png16,
    save_tiff,
)
from tests.support.picture_folders import everything, folder, two_classes
from workers.data.splits import DataError, load


def claim(path: Path, side: int) -> None:
    """A PNG that claims to be a square of that side."""
    save_png16(path, patterned(0, 0, 9))
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


SIX = (0x112, 3, 1, struct.pack("<H", 6))


@pytest.mark.parametrize(
    ("name", "save", "reason"),
    [
        ("1.jpg", lambda path: save_jpeg(path, Image.new("RGB", (24, 12)), (0x100, 2, 5, b"text\0"), SIX), None),
        ("1.jpg", lambda path: save_jpeg(path, Image.new("RGB", (24, 12)), SIX, (0x11A, 2, 4, b"abc\0")), None),
        ("1.jfif", lambda path: save_jpeg(path, Image.new("RGB", (24, 12))), None),
        ("photo", lambda path: save_jpeg(path, Image.new("CMYK", (24, 12))), None),
        ("1.png", lambda path: Image.new("LA", (9, 9), (3, 9)).save(path), None),
        ("1.png", lambda path: Image.new("P", (9, 9), 3).save(path, transparency=3), None),
        ("1.png", lambda path: path.write_bytes(EPS), "is not an image of a known format"),
        ("1.jpg", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic"), "is HEIC, AVIF or a video"),
        ("1.png", lambda path: claim(path, 8001), "must have at most 64 million pixels"),
        ("1.png", lambda path: claim(path, 0), "1.png ("),
        ("1.jpg", lambda path: path.write_bytes(b"\xff\xd8\xff"), "1.jpg ("),
        ("1.tif", lambda path: path.write_bytes(b"II*\0" + b"\xff" * 40), "1.tif ("),
        ("1.tif", lambda path: save_tiff(path, np.zeros((9, 9))), "1.tif (begins like TIFF, but is damaged or holds"),
        ("1.gif", lambda path: path.write_bytes(b"GIF89a" + b"\xff" * 40), "1.gif ("),
    ],
)
def test_every_file_is_read_or_named(
    tmp_path: Path, name: str, save: Callable[[Path], None], reason: str | None
) -> None:
    for index in range(3):
        save_image(tmp_path / f"pictures/left/ordinary{index}.png", (index, 0, 0))
        save_image(tmp_path / f"pictures/right/ordinary{index}.png", (0, index, 0))
    save(tmp_path / "pictures/left" / name)
    if reason is None:
        assert len(everything(load(folder(), 0, tmp_path, tmp_path / "cache"))) == 7
        return
    with pytest.raises(DataError, match=re.escape(f"image_folder: 1 damaged image in {tmp_path}")) as refused:
        load(folder(), 0, tmp_path, tmp_path / "cache")
    assert f"left/{name} (" in str(refused.value)
    assert reason in str(refused.value)
    assert len(everything(load(folder(damaged="skip"), 0, tmp_path, tmp_path / "cache"))) == 6


def test_damaged_images_are_left_out_on_request(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures", save_png16, 0, 240)
    (tmp_path / "pictures/left/cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "pictures/right/empty.jpg").touch()
    with pytest.raises(DataError, match="2 damaged images") as refused:
        load(folder(), 0, tmp_path, tmp_path / "cache")
    assert all(name in str(refused.value) for name in ("left/cut.png", "right/empty.jpg (is empty)"))
    splits = load(folder(damaged="skip"), 0, tmp_path, tmp_path / "cache")
    assert len(everything(splits)) == 20
    assert splits.notes[0].startswith("2 damaged images were left out: left/cut.png")
    save_png16(tmp_path / "pictures/right/empty.jpg", patterned(1, 0, 99))
    assert len(everything(load(folder(damaged="skip"), 0, tmp_path, tmp_path / "cache"))) == 21


@pytest.mark.parametrize("damaged", ["fail", "skip"])
def test_a_file_that_the_system_cannot_read_is_no_damaged_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: Literal["fail", "skip"]
) -> None:
    """Another node may be able to read it: it must be neither named as damaged nor left out."""
    two_classes(tmp_path / "pictures", save_png16, 0, 240)
    stale = tmp_path / "pictures/left/0.png"
    open_any = Path.open

    def open_(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == stale:
            raise OSError(116, "Stale file handle", str(path))
        return open_any(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(DataUnavailableError, match=rf"{stale} cannot be read \(Stale file handle\)"):
        load(folder(damaged=damaged), 0, tmp_path, tmp_path / "cache")


def test_a_class_whose_last_image_of_a_set_is_damaged_is_reported(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        two_classes(tmp_path / "pictures" / part, save_png16, 0, 240)
    for part in ("val", "test"):
        for path in (tmp_path / "pictures" / part / "left").iterdir():
            path.write_bytes(b"")
    notes = load(folder(damaged="skip"), 0, tmp_path, tmp_path / "cache").notes
    assert {f"the {part} set has no images of left" for part in ("validation", "test")} <= set(notes)


def test_one_is_not_many(tmp_path: Path) -> None:
    """Every note and refusal about a single file is worded for one."""
    root = tmp_path / "pictures"
    for name in ("left", "right"):
        for index in range(3):
            save_image(root / f"train/{name}/{index}.png", (index, len(name), 0))
            save_image(root / f"test/{name}/{index}.png", (9, index, len(name)))
    shutil.copy(root / "train/left/0.png", root / "test/right/copy.png")
    save_png16(root / "train/left/deep.png", patterned(1, 0, 240))
    save_tiff(root / "train/left/odd.tif", np.array([[np.nan, 240], [0, 7]], "f4"))
    save_png16(root / "test/left/deep.png", patterned(1, 0, 999))
    save_image(root / "train/left/wide.png", (1, 2, 3), (90, 9))
    Image.new("LA", (12, 12), (3, 9)).save(root / "train/left/clear.png")
    frames = [Image.new("L", (12, 12), level) for level in (1, 2)]
    frames[0].save(root / "train/left/frames.gif", save_all=True, append_images=frames[1:])
    for path in (
        "train/left/cut.png",
        "train/left/a.txt",
        "train/left/b.heic",
        "train/left/.c",
        "train/left/0_mask.png",
    ):
        (root / path).write_bytes(b"\x89PNG")
    for path in ("train/left/deep", "masks"):
        (root / path).mkdir()
    (root / "train/left/link.png").symlink_to("nothing")
    shutil.copy(root / "train/left/0.png", root / "train/0.png")
    messages = [str(note) for note in folder().check(tmp_path).notes]
    with pytest.raises(DataError) as refused:
        load(folder(), 0, tmp_path, tmp_path / "cache")
    messages += [str(refused.value), *load(folder(damaged="skip"), 0, tmp_path, tmp_path / "cache").notes]
    assert len([message for message in messages if re.search(r"\b1 \w", message)]) >= 22
    wrong = re.compile(r"\b1 (other )?(\w+s\b(?!\s+of its)|(\w+ )?\w+ (are|were|hold|have)\b)|\b1 damaged images")
    assert [message for message in messages if wrong.search(message)] == []


def test_identical_files_in_two_parts_or_classes_are_reported(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for index in range(4):
        save_image(root / f"train/a/{index}.png", (index, 0, 0))
        save_image(root / f"train/b/{index}.png", (0, index + 1, 0))
    save_image(root / "test/a/copy.png", (2, 0, 0))
    save_image(root / "test/b/wrong.png", (3, 0, 0))
    notes = load(folder(), 0, tmp_path, tmp_path / "cache").notes
    (leak,) = [note for note in notes if note.startswith("2 images of test are identical to images of train")]
    assert "test/a/copy.png = train/a/2.png" in leak
    (conflict,) = [note for note in notes if "in more than one class" in note]
    assert "test/b/wrong.png is also in a" in conflict


@pytest.mark.parametrize("deep", [False, True])
def test_equal_pixels_in_other_bytes_are_reported_as_identical(tmp_path: Path, deep: bool) -> None:
    root = tmp_path / "pictures"
    save, other = (save_png16, save_tiff) if deep else (save_image, save_image)
    for index in range(1, 5):
        for label, (channel, part) in {"a": (0, "train"), "b": (1, "train")}.items():
            values: Any = np.full((12, 12), 9000 * channel + 1000 * index, np.uint16) if deep else (index, channel, 0)
            save(root / part / label / f"{index}.png", values)
            if index == 2:
                suffix = "tif" if deep else "bmp"
                other(root / "test" / label / f"copy.{suffix}", values)
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    (leak,) = [note for note in splits.notes if note.startswith("2 images of test are identical to images of train")]
    assert "test/a/copy." in leak
    assert "= train/a/2.png" in leak
    assert not [note for note in splits.notes if "in more than one class" in note]


def test_images_that_are_transparent_everywhere_are_refused_without_advice_that_cannot_help(tmp_path: Path) -> None:
    def save(path: Path, values: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.dstack([values, np.zeros_like(values)]).astype(np.uint8), "LA").save(path)

    two_classes(tmp_path / "pictures", save, 0, 255)
    with pytest.raises(DataError, match=r"are equal once decoded .*every pixel of them is transparent") as refused:
        load(folder(), 0, tmp_path, tmp_path / "cache")
    assert "dataset.background" not in str(refused.value)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


LARGE_TEXT = zlib.compress(b"A" * 3_000_000)
PROFILE = b"profile\0\0"


@pytest.mark.parametrize(
    "large",
    [
        [(b"zTXt", b"Comment\0\0" + LARGE_TEXT)],
        [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE_TEXT)],
        [(b"iCCP", PROFILE + LARGE_TEXT)],
        [(b"tEXt", b"Comment\0" + b"A" * 40_000_000)] * 2,
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt"],
)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_large_text_in_a_png_is_ignored_and_its_turn_is_kept(
    large: list[tuple[bytes, bytes]], late: bool, mode: str
) -> None:
    values = np.arange(96, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(8, 12)
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    saved = io.BytesIO()
    Image.fromarray(values).save(saved, "PNG", exif=exif)
    plain = saved.getvalue()
    place = plain.index(b"IEND") - 4 if late else plain.index(b"IDAT") - 4
    text = b"".join(_chunk(*one) for one in large)
    description = describe(12, 8, 1, value_range=(0, 95))
    read = pictures.read(plain[:place] + text + plain[place:], description)
    assert read.pixels is not None
    assert read.pixels.tobytes() == decode(plain, description).tobytes()
    assert read.shape == (8, 12)
    assert read.sha256 != pictures.read(plain, description).sha256


def test_a_png_with_too_many_texts_says_what_to_do() -> None:
    saved = io.BytesIO()
    Image.new("L", (8, 8)).save(saved, "PNG")
    plain, small = saved.getvalue(), zlib.compress(b"A" * 900_000)
    assert len(small) < pictures.MAX_METADATA
    place = plain.index(b"IDAT") - 4
    texts = _chunk(b"zTXt", b"Comment\0\0" + small) * 80
    with pytest.raises(PictureError, match=r"^has too much text in its metadata; save it without them$"):
        decode(plain[:place] + texts + plain[place:], describe(8, 8, 1))


def test_a_jpeg_with_many_scans_is_not_decoded() -> None:
    """Each empty scan has about 100 bytes, and takes as long as the whole image."""
    saved = io.BytesIO()
    Image.fromarray(np.arange(4096).reshape(64, 64).astype(np.uint8)).save(saved, "JPEG", progressive=True)
    plain = saved.getvalue()
    last = plain[plain.rindex(pictures.SCAN) : -2]
    usual = plain.count(pictures.SCAN)
    assert 1 < usual < 20
    most = plain[:-2] + last * (pictures.MAX_SCANS - usual) + plain[-2:]
    assert decode(most, describe(64, 64, 1)).shape == (1, 64, 64)
    with pytest.raises(PictureError, match=r"^must have at most 100 scans \(got 101\)$"):
        decode(most[:-2] + last + most[-2:], describe(64, 64, 1))
    comment = b"\xff\xfe" + (2 + 200).to_bytes(2, "big") + pictures.SCAN * 100
    moving = most[:2] + comment + most[2:] + pictures.SCAN * 1000  # a thumbnail before it, and a film behind it
    assert (decode(moving, describe(64, 64, 1)) == decode(most, describe(64, 64, 1))).all()
    with pytest.raises(PictureError, match=r"^must have at most 100 scans"):
        decode(most[:2] + b"\xff\xfe\0\2" * pictures.MAX_SEGMENTS + moving[2:], describe(64, 64, 1))


@pytest.mark.parametrize("blank", [b" ", b"\n", b"#\n", b"# more\r\n"])
@pytest.mark.parametrize(("kind", "rest"), [(b"P5", b"255\n" + bytes(64)), (b"Pf", b"-1.0\n" + bytes(256))])
def test_the_header_of_a_pnm_is_short(blank: bytes, kind: bytes, rest: bytes) -> None:
    body = b"8 8 " + rest
    many = pictures.MAX_HEADER // len(blank)
    assert decode(kind + b"\n" + blank * (many // 2) + body, describe(8, 8, 1, value_range=(0, 1))).shape == (1, 8, 8)
    with pytest.raises(PictureError, match=r"^must have its header in the first 65536 bytes$"):
        decode(kind + b"\n" + blank * (many + 1) + body, describe(8, 8, 1))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(PictureError, match=r"^must be a regular file$"):
            decode(path, describe(8, 8, 3))
    with pytest.raises(PictureError, match="No such file"):
        decode(tmp_path / "absent.png", describe(8, 8, 3))


def test_names_need_not_be_utf_8(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    for index in range(6):
        save_image(named(root / "tea", b"caf\xe9%d.png" % index), (index, 0, 0))
        save_image(named(root, b"caf\xe9") / f"{index}.png", (0, index, 0))
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert splits.class_names == ("caf\\xe9", "tea")
    assert len(everything(splits)) == 12
    named(root / "tea", b"d\xe9chir\xe9.png").touch()
    with pytest.raises(DataError, match=r"tea/d\\xe9chir\\xe9\.png"):
        load(folder(), 0, tmp_path, tmp_path / "cache")


def test_ordinary_pictures_have_the_pixels_of_version_0_1(tmp_path: Path) -> None:
    """Pillow's own conversion and bilinear resizing, and the upper eight bits of 16."""
    generator = np.random.default_rng(0)
    for mode, shape in (("L", (30, 20)), ("RGB", (30, 20, 3)), ("RGBA", (30, 20, 4)), ("CMYK", (30, 20, 4))):
        values = generator.integers(0, 256, shape, dtype=np.uint8)
        if mode == "RGBA":
            values[..., 3] = 255
        image = Image.fromarray(values, mode)
        image.save(tmp_path / "one.tif")
        for channels, target in ((1, "L"), (3, "RGB")):
            expected = np.asarray(image.convert(target).resize((8, 8), Image.Resampling.BILINEAR)).reshape(8, 8, -1)
            found = decode(tmp_path / "one.tif", describe(8, 8, channels))
            assert np.array_equal(found.transpose(1, 2, 0), expected)
    sixteen = generator.integers(0, 65536, (8, 8))
    save_png16(tmp_path / "deep.png", sixteen)
    found = decode(tmp_path / "deep.png", describe(8, 8, 1, value_range=(0, 65535)))
    assert np.array_equal(found[0], (sixteen // 257).astype(np.uint8))
