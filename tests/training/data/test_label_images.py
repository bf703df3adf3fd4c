"""Label images give exactly the numbers that they store, or one line that tells why not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_pipeline.images import upright
from sd_pipeline.pipelines.segmentation_inputs import read_images
from tests.training.data.image_folders import cut
from tests.training.data.label_files import SIZE, grey_image, label_map, save, save_stack, write_png, write_tiff
from training.data.errors import DataError
from training.data.label_images import StoredImage, read_label_map, read_picture

LIMIT = 10_000
LABELS = label_map(num_labels=200)
TURN_RIGHT = 6


def read(path: Path, page: int | None = None) -> np.ndarray:
    labels = read_label_map(StoredImage(str(path), str(path), page), LIMIT)
    assert labels.dtype == np.int32
    return labels


def fault(path: Path, page: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(path, page)
    message = str(caught.value)
    assert "\n" not in message
    name, colon, reason = message.partition(": ")
    assert (name, colon) == (str(path), ": ")
    return reason


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_of_8_and_16_bits(tmp_path: Path, suffix: str, dtype: type, largest: int) -> None:
    labels = LABELS.copy()
    labels[3, 4] = largest
    assert np.array_equal(read(save(tmp_path / f"a{suffix}", labels.astype(dtype))), labels)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiffs_of_32_bits_and_their_compressions(tmp_path: Path, compression: str) -> None:
    labels = LABELS + 1_000_000
    Image.fromarray(labels).save(tmp_path / "a.tif", compression=compression)
    assert np.array_equal(read(tmp_path / "a.tif"), labels)


def test_tiffs_of_other_integers(tmp_path: Path) -> None:
    for dtype, sample_format in ((np.uint32, 1), (np.int32, 2), (np.int16, 2), (np.uint16, 1)):
        assert np.array_equal(read(write_tiff(tmp_path / "a.tif", LABELS.astype(dtype), sample_format)), LABELS)


def test_big_endian_tiffs(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.frombytes("I;16B", SIZE, LABELS.astype(">u2").tobytes()).save(file, "TIFF")
    assert file.getvalue()[:2] == b"MM"
    labels = read_label_map(StoredImage(file.getvalue(), "a.tif"), LIMIT)
    assert np.array_equal(labels, LABELS)


def test_masks_of_one_bit(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        assert np.array_equal(read(save(tmp_path / f"a{suffix}", LABELS > 3)), LABELS > 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_of_a_palette_the_indices_count(tmp_path: Path, suffix: str) -> None:
    picture = Image.fromarray(LABELS.astype(np.uint8), mode="P")
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    picture.save(tmp_path / f"a{suffix}")
    assert np.array_equal(read(tmp_path / f"a{suffix}"), LABELS)
    few = Image.fromarray((LABELS % 4).astype(np.uint8), mode="P")
    few.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    few.save(tmp_path / "few.png", transparency=0)
    assert np.array_equal(read(tmp_path / "few.png"), LABELS % 4)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path: Path, bits: int) -> None:
    labels = LABELS % 2**bits
    per_byte = 8 // bits
    shifts = bits * np.arange(per_byte)[::-1]
    packed = (labels.reshape(SIZE[1], -1, per_byte) << shifts).sum(-1).astype(np.uint8)
    path = write_png(tmp_path / "a.png", [row.tobytes() for row in packed], SIZE, bits, 0)
    assert np.array_equal(read(path), labels)


def test_grey_in_three_or_four_opaque_channels(tmp_path: Path) -> None:
    grey = Image.fromarray(LABELS.astype(np.uint8))
    for mode in ("RGB", "RGBA", "LA"):
        for suffix in (".png", ".tif"):
            grey.convert(mode).save(tmp_path / f"a{suffix}")
            assert np.array_equal(read(tmp_path / f"a{suffix}"), LABELS)


def test_colours_and_transparency_are_refused(tmp_path: Path) -> None:
    picture = Image.fromarray(LABELS.astype(np.uint8)).convert("RGBA")
    picture.putpixel((2, 3), (5, 5, 6, 255))
    picture.save(tmp_path / "a.png")
    allowed = "allowed: integers in one channel, in a PNG or TIFF file"
    assert fault(tmp_path / "a.png") == f"a label image has one channel, and this one has colours; {allowed}"
    picture.putpixel((2, 3), (5, 5, 5, 254))
    picture.save(tmp_path / "a.png")
    expected = f"a label image has one channel, and this one is transparent in places; {allowed}"
    assert fault(tmp_path / "a.png") == expected
    picture.convert("CMYK").save(tmp_path / "a.tif")
    assert fault(tmp_path / "a.tif") == f"a label image has one channel, not those of CMYK; {allowed}"


def test_colours_of_16_bits_are_refused_as_they_are_read_as_8(tmp_path: Path) -> None:
    rows = np.repeat(LABELS.astype(">u2")[..., None], 3, axis=2)
    path = write_png(tmp_path / "a.png", [row.tobytes() for row in rows], SIZE, 16, 2)
    assert fault(path).startswith("labels of 16 bits in several channels, which are read as 8 bits; allowed: integers")


def test_floating_point_is_refused(tmp_path: Path) -> None:
    assert fault(save(tmp_path / "a.tif", LABELS.astype(np.float32))) == (
        "labels are floating point; allowed: integers"
    )


def test_negative_labels_are_refused(tmp_path: Path) -> None:
    negative = LABELS - 3
    assert fault(save(tmp_path / "a.tif", negative)) == "labels from -3 to 196; allowed: 0 to 2147483647"
    small = (LABELS % 100 - 3).astype(np.int8)
    assert fault(write_tiff(tmp_path / "b.tif", small, 2)) == "labels from -3 to 96; allowed: 0 to 2147483647"
    assert fault(write_tiff(tmp_path / "c.tif", negative.astype(np.int16), 2)).startswith("labels from -3 to 196")
    too_large = LABELS.astype(np.uint32) + 2**31
    assert fault(write_tiff(tmp_path / "d.tif", too_large, 1)).startswith("labels from -2147483648 to")


@pytest.mark.parametrize(("suffix", "name"), [(".jpg", "JPEG"), (".webp", "WEBP"), (".gif", "GIF"), (".bmp", "BMP")])
def test_files_that_may_change_numbers_are_refused(tmp_path: Path, suffix: str, name: str) -> None:
    reason = fault(save(tmp_path / f"a{suffix}", LABELS.astype(np.uint8)))
    lossy = ", which changes numbers" if name == "JPEG" else ""
    assert reason == f"labels in a {name} file{lossy}; allowed: integers in one channel, in a PNG or TIFF file"


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(LABELS.astype(np.uint8)).save(tmp_path / "a.png", "JPEG")
    assert fault(tmp_path / "a.png").startswith("labels in a JPEG file")


def test_tiffs_that_change_numbers_are_refused(tmp_path: Path) -> None:
    picture = Image.fromarray(LABELS.astype(np.uint8))
    picture.save(tmp_path / "a.tif", compression="jpeg")
    assert fault(tmp_path / "a.tif").startswith("labels in a TIFF file with jpeg compression, which changes numbers;")
    picture.save(tmp_path / "b.tif", tiffinfo={262: 0})
    assert fault(tmp_path / "b.tif").startswith("a TIFF file in which 0 is white")


def test_several_pages_where_one_is_expected(tmp_path: Path) -> None:
    path = save_stack(tmp_path / "a.tif", [LABELS.astype(np.uint8)] * 3)
    assert fault(path) == "it has 3 pages; allowed: one"
    with pytest.raises(DataError, match=r"a\.tif: it has 3 pages; allowed: one$"):
        read_picture(StoredImage(str(path), str(path)), LIMIT)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_pages(tmp_path: Path, compression: str) -> None:
    pages = [label_map(number, num_labels=9).astype(np.uint16) for number in range(3)]
    path = save_stack(tmp_path / "a.tif", pages, compression=compression)
    for number, page in enumerate(pages):
        assert np.array_equal(read(path, number), page)
    assert fault(path, 3) == "it cannot be read as an image (no more images in TIFF file)"


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def cut_at_the_end(path: Path) -> None:
    cut(path, 0.97)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("spoil", [cut, cut_at_the_end])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_cut_tiffs(tmp_path: Path, spoil: Callable[[Path], None], compression: str) -> None:
    noise = Image.fromarray(grey_image(size=(200, 40)))
    noise.save(tmp_path / "a.tif", compression=compression)
    spoil(tmp_path / "a.tif")
    assert fault(tmp_path / "a.tif").startswith(("it cannot be read as an image (", "it is not an image"))
    with pytest.raises(DataError, match=r"a\.tif: it "):
        read_picture(StoredImage(str(tmp_path / "a.tif"), "a.tif"), LIMIT)


@pytest.mark.parametrize("spoil", [cut, cut_at_the_end, flipped])
def test_damaged_pngs(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    save(tmp_path / "a.png", grey_image())
    spoil(tmp_path / "a.png")
    assert fault(tmp_path / "a.png").startswith("it cannot be read as an image (")


def test_no_image_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>not found</html>")
    assert fault(tmp_path / "a.png") == "it is not an image that can be read"
    assert fault(tmp_path / "b.png") == "the file does not exist"
    with pytest.raises(DataError, match=r"^row 3: it has no image$"):
        read_label_map(StoredImage("", "row 3"), LIMIT)


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((101, 100), np.uint8))
    cut(path, 0.5)
    expected = "100 x 101 pixels; allowed: 10000 in all (data.max_image_pixels)"
    assert fault(path) == expected
    with pytest.raises(DataError, match="100 x 101 pixels"):
        read_picture(StoredImage(str(path), "a"), LIMIT)
    pages = [np.zeros((10, 10), np.uint8), np.zeros((101, 100), np.uint8)]
    assert fault(save_stack(tmp_path / "b.tif", pages), 1) == expected


def turned(picture: Image.Image, path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = TURN_RIGHT
    picture.save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_turned_as_their_images_are(tmp_path: Path, suffix: str, dtype: type) -> None:
    path = turned(Image.fromarray(LABELS.astype(dtype)), tmp_path / f"a{suffix}")
    assert np.array_equal(read(path), np.rot90(LABELS, -1))
    picture = read_picture(StoredImage(str(path), "a"), LIMIT)
    assert np.array_equal(np.asarray(picture), np.rot90(LABELS, -1))
    assert np.array_equal(np.asarray(upright(picture)), np.rot90(LABELS, -1))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_keep_their_range(tmp_path: Path, suffix: str) -> None:
    pixels = grey_image(dtype=np.uint16)
    path = save(tmp_path / f"a{suffix}", pixels)
    picture = read_picture(StoredImage(str(path), "a"), LIMIT)
    assert np.array_equal(np.asarray(picture), pixels)
    (read_by_the_pipeline,) = read_images(picture, 1)
    (of_the_file,) = read_images(path, 1)
    assert np.array_equal(read_by_the_pipeline, of_the_file)
    assert np.allclose(read_by_the_pipeline[0], pixels / 65535)


def test_images_in_other_modes(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 4), np.uint8)
    for mode, suffix in (("RGBA", ".png"), ("RGB", ".jpg"), ("RGB", ".tif"), ("L", ".bmp"), ("P", ".gif")):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(rgba).convert(mode).save(path)
        picture = read_picture(StoredImage(str(path), "a"), LIMIT)
        assert picture.mode == mode
        for channels in (1, 3):
            assert np.array_equal(read_images(picture, channels)[0], read_images(path, channels)[0])
