"""Any picture as a person sees it: upright and in RGB.

Pillow's own `convert("RGB")` clips 16-bit grey to white, turns floating point black, shows what transparency hid and
leaves a picture lying on its side when EXIF says how to turn it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INFO_OF_COLORS = ("icc_profile", "transparency")
_WHITE_OF_INTEGERS = (65535,)
WHITE_OF_FLOATS = (1, 255, 65535)
WIDE_MODES = {
    "I;16": _WHITE_OF_INTEGERS,
    "I;16B": _WHITE_OF_INTEGERS,
    "I;16L": _WHITE_OF_INTEGERS,
    "I;16N": _WHITE_OF_INTEGERS,
    "I": _WHITE_OF_INTEGERS,
    "F": WHITE_OF_FLOATS,
}
"""Modes of grey with more than 8 bits, with what may be white in them."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any picture upright and into RGB, as a person sees it on a white page.

    Grey of 16 bits is scaled (65535 is white), grey of 32-bit integers too; floating point grey is taken to range up
    to the smallest of 1, 255 and 65535 that holds its largest value. What is transparent shows white. CMYK goes
    through its colour profile where it has one.

    Args:
        image (`PIL.Image.Image`): A picture in any mode.

    Returns:
        `PIL.Image.Image`: the picture in RGB.

    Raises:
        ValueError: If grey values are negative, not finite or above 65535, so that nobody can tell which is white.
    """
    image = upright(image)
    if image.mode in WIDE_MODES:
        return _wide_grey_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        to_srgb = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
        return to_srgb.apply(image)
    return image.convert("RGB")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Tell how large `to_rgb` makes a picture that is opened but not decoded, from its header.

    EXIF that a PNG has behind its pixels is overlooked.

    Args:
        image (`PIL.Image.Image`): A picture in any mode.

    Returns:
        `tuple[int, int]`: width and height, in pixels, of the upright picture.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Versions of Pillow differ in whether the size of an opened TIFF is that of the upright picture.
        width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        orientation = image.tag_v2.get(_EXIF_ORIENTATION)
    else:
        width, height = image.size
        try:
            # That of PNG would decode the picture to look behind it.
            orientation = Image.Image.getexif(image).get(_EXIF_ORIENTATION)
        except Exception:  # As in `upright`.
            orientation = None
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture as EXIF says.

    Args:
        image (`PIL.Image.Image`): A picture in any mode; it is decoded.

    Returns:
        `PIL.Image.Image`: the picture in the same mode.
    """
    image.load()  # Which turns a TIFF already.
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # Damaged EXIF, whose parsing raises anything, tells no orientation.
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    turned = image.transpose(turn)
    # What tells the orientation would turn it again, if anybody read it once more.
    turned.info = {key: turned.info[key] for key in _INFO_OF_COLORS if key in turned.info}
    return turned


def _wide_grey_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    allowed = WIDE_MODES[image.mode]
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= allowed[-1]):
        raise ValueError(f"grey values from {lowest:g} to {highest:g}; allowed: 0 to {allowed[-1]}")
    white = next(value for value in allowed if highest <= value)
    grey = np.rint(values * (255 / white)).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")
