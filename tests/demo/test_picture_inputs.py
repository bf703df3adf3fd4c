from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from sd_pipeline.demo.picture_inputs import MAX_SIDE, measure_first, read_painted, read_picture
from tests.pictures import picture

gr = pytest.importorskip("gradio")
from gradio.components.image_editor import EditorData, EditorDataBlobs  # noqa: E402
from gradio.data_classes import FileData  # noqa: E402


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


def large_picture(size: tuple[int, int]) -> bytes:
    """A small picture whose header tells another size."""
    file = BytesIO()
    picture().save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = b"".join(side.to_bytes(4, "big") for side in size)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


TOO_LARGE = [(MAX_SIDE + 1, 8), (8, MAX_SIDE + 1), (12_000, 12_000), (60_000, 60_000)]
REFUSED = r"at most 1024 on each side|no picture that can be read"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", TOO_LARGE)
def test_large_pictures_are_refused_before_they_are_decoded(size, tmp_path):
    file = tmp_path / "large.png"
    file.write_bytes(large_picture(size))
    with pytest.raises(ValueError, match=REFUSED):
        read_picture(str(file))


@pytest.fixture
def nothing_is_decoded(monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", TOO_LARGE)
@pytest.mark.parametrize("part", ["background", "layers", "composite"])
@pytest.mark.parametrize("is_blob", [False, True], ids=["uploaded", "sent by the brush"])
def test_the_editor_measures_before_it_decodes(is_blob, part, size, tmp_path, nothing_is_decoded):
    editor = measure_first(gr.ImageEditor(type="pil"))
    file: Any = large_picture(size)
    if not is_blob:
        (tmp_path / "large.png").write_bytes(file)
        file = FileData(path=str(tmp_path / "large.png"))
    parts = {"background": None, "layers": [], "composite": None, part: [file] if part == "layers" else file}
    payload = EditorData(background=None, layers=[], composite=None, id="1") if is_blob else EditorData(**parts)
    if is_blob:
        editor.blob_storage["1"] = EditorDataBlobs(**parts)
    with pytest.raises(gr.Error, match=REFUSED):
        editor.preprocess(payload)


def test_the_editor_takes_what_is_small_enough(tmp_path):
    editor = measure_first(gr.ImageEditor(type="pil"))
    picture().save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    small, text = (FileData(path=str(tmp_path / name)) for name in ("small.png", "text.png"))
    sent = editor.preprocess(EditorData(background=small, layers=[], composite=None))
    assert sent is not None
    assert sent["background"].tobytes() == picture().convert("RGBA").tobytes()
    with pytest.raises(gr.Error, match="damaged, or is no picture"):
        editor.preprocess(EditorData(background=text, layers=[], composite=None))


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
