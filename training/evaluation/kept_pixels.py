"""Whether what was to be kept of a picture is kept."""

from __future__ import annotations

import numpy as np
from PIL import Image


def is_kept(original: Image.Image, painted: Image.Image, kept: np.ndarray) -> bool:
    """Tell whether all pixels that were to be kept are the same.

    Args:
        original (`PIL.Image.Image`): RGB.
        painted (`PIL.Image.Image`): RGB, of the same size.
        kept (`numpy.ndarray` of shape `(height, width)`, bool): Where.
    """
    return bool((np.asarray(original) == np.asarray(painted))[kept].all())
