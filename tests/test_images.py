"""Every kind of picture becomes what a person sees of it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_pipeline.images import to_rgb, upright_size

RAMP_16 = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)  # 0 to 65,520


def reopened(image: Image.Image, file_format: str, **options: Any) -> Image.Image:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def png(color_type: int, bit_depth: int, rows: list[bytes], width: int) -> Image.Image:
    """Write a PNG that Pillow itself cannot write (16 bits with colour or alpha)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, len(rows), bit_depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(file))


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    return to_rgb(image).getpixel((x, y))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_not_clipped(file_format: str) -> None:
    rgb = np.asarray(to_rgb(reopened(Image.fromarray(RAMP_16), file_format)))
    assert rgb.shape == (8, 8, 3)
    np.testing.assert_allclose(rgb[..., 1], RAMP_16 / 65535 * 255, atol=0.5)


def test_grey_of_32_bit_integers_is_scaled_as_16_bits() -> None:
    rgb = np.asarray(to_rgb(reopened(Image.fromarray(RAMP_16.astype(np.int32)), "TIFF")))
    np.testing.assert_allclose(rgb[..., 0], RAMP_16 / 65535 * 255, atol=0.5)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floating_point_grey_is_scaled_by_the_range_that_holds_it(white: float) -> None:
    levels = np.linspace(0, white, 64, dtype=np.float32).reshape(8, 8)
    rgb = np.asarray(to_rgb(reopened(Image.fromarray(levels), "TIFF")))
    np.testing.assert_allclose(rgb[..., 2], levels / white * 255, atol=0.5)


@pytest.mark.parametrize("levels", [[[-0.5, 0.5]], [[0.0, 1e6]], [[np.nan, 0.5]], [[np.inf, 0.5]]])
def test_grey_whose_white_nobody_can_tell_is_refused(levels: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 65535"):
        to_rgb(Image.fromarray(np.array(levels, dtype=np.float32)))


def test_sixteen_bit_colour_and_alpha() -> None:
    assert pixel(png(2, 16, [struct.pack(">3H", 65535, 32896, 0)], 1)) == (255, 128, 0)
    assert pixel(png(6, 16, [struct.pack(">4H", 65535, 0, 0, 0)], 1)) == (255, 255, 255)
    assert pixel(png(4, 16, [struct.pack(">2H", 0, 65535)], 1)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
def test_what_is_transparent_shows_white_and_hides_its_colour(mode: str) -> None:
    hidden = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    hidden.putpixel((1, 0), (60, 60, 60, 255))
    assert pixel(hidden.convert(mode), 0) == (255, 255, 255)
    assert pixel(hidden.convert(mode), 1) == (60, 60, 60)


def test_half_transparent_blends_with_white() -> None:
    assert pixel(Image.new("RGBA", (1, 1), (0, 0, 0, 128))) == (127, 127, 127)


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([250, 0, 0, 0, 0, 250])
    image.putpixel((1, 0), 1)
    assert pixel(reopened(image, "PNG"), 0) == (250, 0, 0)
    assert pixel(reopened(image, "PNG", transparency=0), 0) == (255, 255, 255)
    assert pixel(reopened(image, "PNG", transparency=0), 1) == (0, 0, 250)
    assert pixel(reopened(image, "GIF", transparency=0), 0) == (255, 255, 255)


@pytest.mark.parametrize(
    ("image", "key"),
    [
        (Image.new("L", (1, 1), 7), 7),
        (Image.new("RGB", (1, 1), (1, 2, 3)), (1, 2, 3)),
        (Image.new("I;16", (1, 1), 1000), 1000),
    ],
    ids=["L", "RGB", "I;16"],
)
def test_a_transparent_colour_key_shows_white(image: Image.Image, key: Any) -> None:
    assert pixel(reopened(image, "PNG", transparency=key)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "color"), [("1", 1), ("L", 255), ("HSV", (0, 0, 255)), ("YCbCr", (255, 128, 128))])
def test_other_modes(mode: str, color: Any) -> None:
    assert pixel(Image.new(mode, (1, 1), color)) == (255, 255, 255)


def test_cmyk_without_a_profile() -> None:
    image = reopened(
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95
    )  # Inverted, as Adobe writes it.
    assert image.mode == "CMYK"
    np.testing.assert_allclose(pixel(image, 8, 8), (255, 0, 0), atol=6)


def cmyk_profile() -> bytes:
    """Build the ICC profile of a press whose cyan ink is a neutral grey (L* = 50) and whose other inks are black."""

    def tag(kind: bytes, body: bytes) -> bytes:
        return (kind + bytes(4) + body).ljust(-(-(len(body) + 8) // 4) * 4, b"\0")

    ramp, corners = bytes(range(256)), bytearray()
    for inks in range(16):  # Cyan is the slowest of the grid's dimensions, black the fastest.
        corners += bytes((0 if inks & 0b0111 else 128 if inks & 0b1000 else 255, 128, 128))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = bytes((4, 3, 2, 0)) + identity + ramp * 4 + bytes(corners) + ramp * 3
    text = b"plain\0"
    tags = {
        b"desc": tag(b"desc", struct.pack(">I", len(text)) + text + bytes(78)),
        b"cprt": tag(b"text", text),
        b"wtpt": tag(b"XYZ ", struct.pack(">3i", 63190, 65536, 54061)),
        b"A2B0": tag(b"mft1", lut),
    }
    offset, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">2I", offset + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


@pytest.mark.parametrize(("inks", "grey"), [((0, 0, 0, 0), 255), ((255, 0, 0, 0), 119), ((0, 0, 0, 255), 0)])
def test_cmyk_goes_through_its_colour_profile(inks: tuple[int, ...], grey: int) -> None:
    image = reopened(Image.new("CMYK", (8, 8), inks), "TIFF", icc_profile=cmyk_profile())
    np.testing.assert_allclose(pixel(image), (grey, grey, grey), atol=2)  # L* = 50 is 119 in sRGB.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16", "P"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_exif_orientation_is_followed(orientation: int, mode: str, file_format: str) -> None:
    # The stored picture is the upright one, put into the position that EXIF says.
    to_stored = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    upright = Image.fromarray(RAMP_16[:6, :4]) if mode == "I;16" else Image.new(mode, (4, 6))
    if mode != "I;16":
        upright.putpixel((3, 0), 1 if mode == "P" else (255, 0, 0))
    stored = upright.transpose(Image.Transpose(to_stored[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = to_rgb(reopened(stored, file_format, exif=exif))
    assert to_rgb(shown) == shown, "not turned twice"
    assert shown.size == (4, 6)
    assert np.array_equal(np.asarray(shown), np.asarray(to_rgb(upright)))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"MM\0*\0\0\0\x08\0\x09"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_leaves_the_picture_as_it_is(file_format: str, exif: bytes) -> None:
    assert to_rgb(reopened(Image.new("RGB", (6, 4), "white"), file_format, exif=exif)).size == (6, 4)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_size_is_told_without_decoding(file_format: str, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture = reopened(Image.new("RGB", (20, 12), "red"), file_format, exif=exif.tobytes())
    size = upright_size(picture)
    assert size == ((12, 20) if orientation in (5, 6, 7, 8) else (20, 12))
    assert to_rgb(picture).size == size


def test_the_size_of_a_cut_file_or_with_damaged_exif() -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file, "PNG")
    assert upright_size(Image.open(io.BytesIO(file.getvalue()[:500]))) == (60, 40)
    picture = reopened(Image.new("RGB", (20, 12)), "PNG")
    picture.info["exif"] = b"Exif\0\0nonsense"
    assert upright_size(picture) == (20, 12)
