from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from sd_pipeline.demo.picture_inputs import MAX_SIDE, read_painted, read_picture
from tests.pictures import picture


def painted_layer(width: int = 32, height: int = 32) -> Image.Image:
    levels = np.zeros((height, width, 4), np.uint8)
    levels[8:16, 4:20] = 255
    levels[16, 4:20] = (255, 255, 255, 100)
    return Image.fromarray(levels)


def test_picture(tmp_path):
    picture(mode="LA").save(tmp_path / "picture.png")
    read = read_picture(str(tmp_path / "picture.png"))
    assert (read.size, read.mode) == ((32, 32), "LA")


def test_what_is_no_picture(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    half = tmp_path / "half.png"
    picture().save(half)
    half.write_bytes(half.read_bytes()[:1500])
    for file in (tmp_path / "text.png", half):
        with pytest.raises(ValueError, match="damaged, or is no picture"):
            read_picture(str(file))
    with pytest.raises(ValueError, match="there is no picture yet"):
        read_picture(None)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 8), (8, MAX_SIDE + 1), (12_000, 12_000), (60_000, 60_000)])
def test_large_pictures_are_refused_before_they_are_decoded(size, tmp_path):
    file = tmp_path / "large.png"
    picture().save(file)
    content = bytearray(file.read_bytes())
    content[16:24] = b"".join(side.to_bytes(4, "big") for side in size)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"at most 1024 on each side|no picture that can be read"):
        read_picture(str(file))


def test_mask_is_what_is_painted():
    image, mask = read_painted({"background": picture(), "layers": [painted_layer()], "composite": None})
    assert image.tobytes() == picture().tobytes()
    expected = np.zeros((32, 32), np.uint8)
    expected[8:16, 4:20] = 255
    np.testing.assert_array_equal(np.asarray(mask), expected)


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        (None, "there is no picture yet"),
        ({"background": None, "layers": [painted_layer()]}, "there is no picture yet"),
        ({"background": picture(), "layers": []}, "nothing is painted yet"),
        ({"background": picture(), "layers": [Image.new("RGBA", (32, 32))]}, "nothing is painted yet"),
        ({"background": Image.new("L", (8, 1025)), "layers": []}, "the picture has 8x1025 pixels"),
    ],
)
def test_bad_paintings(edited, message):
    with pytest.raises(ValueError, match=message):
        read_painted(edited)
