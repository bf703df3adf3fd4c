"""Bad samples are named before training, or left out with one warning."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.training.data.image_folders import cut, write_folder, write_image, write_metadata
from training.data import sample_checks
from training.data.errors import DataError
from training.data.image_folder import ImageFolderSource
from training.data.sample_checks import usable_indices


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def truncated(path: Path) -> None:
    cut(path)


def truncated_at_the_very_end(path: Path) -> None:
    cut(path, 0.97)


def no_image(path: Path) -> None:
    path.write_text("<html>not found</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def absurdly_large(path: Path) -> None:
    write_image(path, size=(300, 40))


def cmyk_truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 80).convert("CMYK").save(path)
    cut(path)


def white_unknown(path: Path) -> None:
    Image.new("F", (4, 4), -1.0).save(path, "TIFF")


BAD = [
    (truncated, ".png", "it cannot be read as an image ("),
    (truncated, ".jpg", "it cannot be read as an image (image file is truncated"),
    (truncated, ".webp", "it cannot be read as an image ("),
    (truncated, ".tif", "it cannot be read as an image ("),
    (truncated, ".bmp", "it cannot be read as an image ("),
    (truncated_at_the_very_end, ".png", "it cannot be read as an image ("),
    (truncated_at_the_very_end, ".jpg", "it cannot be read as an image ("),
    (cmyk_truncated, ".jpg", "it cannot be read as an image ("),
    (flip_a_byte, ".png", "it cannot be read as an image ("),
    (no_image, ".png", "it is not an image that can be read"),
    (empty, ".jpg", "it is not an image that can be read"),
    (absurdly_large, ".png", "300 x 40 pixels; allowed: 10000 in all (data.max_image_pixels)"),
    (white_unknown, ".tif", "it cannot be read as an image (grey values from -1 to -1; allowed: 0 to 65535)"),
]


@pytest.mark.parametrize(("spoil", "suffix", "reason"), BAD, ids=[f"{spoil.__name__}{s}" for spoil, s, _ in BAD])
def test_bad_images_are_named_before_training(
    tmp_path: Path, spoil: Callable[[Path], None], suffix: str, reason: str
) -> None:
    write_folder(tmp_path, 4, suffix)
    bad = tmp_path / f"02{suffix}"
    spoil(bad)
    source = ImageFolderSource(tmp_path, max_image_pixels=10_000)
    with pytest.raises(DataError) as caught:
        usable_indices(source, range(4), "error", "photos")
    message = str(caught.value)
    assert message.startswith(f"data.dataset 'photos': 1 of 4 samples cannot be used: {bad}: {reason}")
    assert message.endswith(" (data.on_bad_sample: skip leaves such samples out)")
    assert "\n" not in message
    with pytest.raises(DataError) as caught:
        source.image(2)
    assert str(caught.value).startswith(f"{bad}: ")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"])
def test_good_images_pass(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path, 3, suffix)
    assert usable_indices(ImageFolderSource(tmp_path), range(3), "error", "photos") == [0, 1, 2]


def spoiled_folder(folder: Path) -> ImageFolderSource:
    """Ten images: the second is cut, the third too large, the fourth gone, the fifth without a caption; one stray."""
    write_folder(folder, 10)
    rows = [{"file_name": f"{n:02d}.png", "text": None if n == 4 else f"picture {n}"} for n in range(10)]
    write_metadata(folder, rows)
    cut(folder / "01.png")
    write_image(folder / "02.png", size=(300, 40))
    (folder / "03.png").unlink()
    write_image(folder / "stray.png")
    return ImageFolderSource(folder, max_image_pixels=10_000)


def test_skipped_samples_are_counted_in_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = spoiled_folder(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert usable_indices(source, range(len(source)), "skip", "photos") == [0, 5, 6, 7, 8, 9]
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert message.startswith("left out: data.dataset 'photos': 5 of 11 samples cannot be used: ")
    for name in ("01.png", "02.png", "03.png", "04.png", "stray.png"):
        assert name in message


def test_no_warning_without_bad_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = ImageFolderSource(write_folder(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert usable_indices(source, [3, 1], "skip", "photos") == [3, 1]
    assert not caplog.records


def test_many_problems_make_no_endless_line(tmp_path: Path) -> None:
    write_folder(tmp_path, 12)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"12 of 12 samples cannot be used: .*04\.png: .*; and 7 more \(data"):
        usable_indices(ImageFolderSource(tmp_path), range(12), "error", "photos")


def test_in_large_data_sets_only_headers_are_read_unless_bad_samples_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = spoiled_folder(tmp_path)
    monkeypatch.setattr(sample_checks, "MAX_VERIFIED_IMAGES", 2)
    assert usable_indices(source, [0, 1, 5], "error", "photos") == [0, 1, 5]
    with pytest.raises(DataError, match=r"02\.png: 300 x 40 pixels"):
        usable_indices(source, [0, 1, 2], "error", "photos")
    assert usable_indices(source, [0, 1, 5], "skip", "photos") == [0, 5]


def test_pictures_beyond_pillows_own_limit_are_told_as_too_large(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "BMP")
    header = bytearray(file.getvalue())
    header[18:26] = (30_000).to_bytes(4, "little") * 2
    (tmp_path / "huge.bmp").write_bytes(header)
    write_metadata(tmp_path, [{"file_name": "huge.bmp", "text": "huge"}])
    problem = ImageFolderSource(tmp_path).problem(0, verify=False)
    assert problem == f"{tmp_path / 'huge.bmp'}: too many pixels; allowed: 100000000 in all (data.max_image_pixels)"


def test_unknown_choice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.on_bad_sample is 'ignore'; allowed: 'error', 'skip'$"):
        usable_indices(ImageFolderSource(write_folder(tmp_path)), [0], "ignore", "photos")


@pytest.mark.parametrize("limit", [0, 10**9])
def test_size_limit_out_of_range(tmp_path: Path, limit: int) -> None:
    with pytest.raises(DataError, match=f"^data.max_image_pixels is {limit}; allowed: 1 to 178956970$"):
        ImageFolderSource(write_folder(tmp_path), max_image_pixels=limit)
