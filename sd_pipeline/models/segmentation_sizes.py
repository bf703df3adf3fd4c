"""Sizes of the 2015 U-Net: which images fit, how large their segmentation is, and what a pixel of it depends on.

Every unpadded convolution takes a border of one pixel, so the network segments the middle of its input only. Sides
are counted in pixels; `num_levels` resolutions have `num_levels - 1` poolings between them.
"""

from __future__ import annotations

_CONVOLUTIONS = 2
"""Of each block of the network, 3x3; together they take so many pixels from each end of a side."""


def output_size(size: int, num_levels: int, is_padded: bool = False) -> int:
    """Tell the side of the segmentation of an image: 388 for 572 with five levels.

    Args:
        size (`int`): Side of the image.
        num_levels (`int`): At least 1.
        is_padded (`bool`, defaults to `False`): Whether convolutions are padded, and nothing is lost.

    Returns:
        `int`: At least 1.

    Raises:
        ValueError: If the side cannot be halved so often, or nothing is left of it.
    """
    least, multiple = _least_size(num_levels, is_padded), 2 ** (num_levels - 1)
    if size < least or (size - least) % multiple:
        fits = least + -(-max(0, size - least) // multiple) * multiple
        raise ValueError(
            f"a side of {size} pixels does not fit {num_levels} levels; allowed: {least}, {least + multiple}, "
            f"{least + 2 * multiple}, ...; the next one is {fits}"
        )
    return size if is_padded else size - 2 * margin(num_levels)


def input_size(least_output_size: int, num_levels: int, is_padded: bool = False) -> int:
    """Tell the smallest side of an image whose segmentation has at least a certain side.

    Args:
        least_output_size (`int`): At least 1.
        num_levels (`int`): At least 1.
        is_padded (`bool`, defaults to `False`): Whether convolutions are padded.

    Returns:
        `int`: It fits the network.
    """
    least, multiple = _least_size(num_levels, is_padded), 2 ** (num_levels - 1)
    wanted = least_output_size + (0 if is_padded else 2 * margin(num_levels))
    return least + -(-max(0, wanted - least) // multiple) * multiple


def crop(level: int, num_levels: int) -> int:
    """Tell how many pixels are cropped from each end of a feature map of the contracting path: 4, 16, 40, 88.

    Args:
        level (`int`): In [0, num_levels - 1), the finest first.
        num_levels (`int`): At least 2.

    Returns:
        `int`: In pixels of that level.
    """
    # The block below, and what was cropped there and lost in the block after it, at twice the resolution.
    below = num_levels - 2 - level
    return 2 * _CONVOLUTIONS if below == 0 else 2 * (crop(level + 1, num_levels) + 2 * _CONVOLUTIONS)


def margin(num_levels: int) -> int:
    """Tell how much larger an image is than its segmentation, on each side, without padding: 92 with five levels.

    Args:
        num_levels (`int`): At least 1.

    Returns:
        `int`: In pixels.
    """
    return _CONVOLUTIONS if num_levels == 1 else 2 * _CONVOLUTIONS + crop(0, num_levels)


def receptive_field(num_levels: int) -> int:
    """Tell the side of the square of input pixels that one pixel of the segmentation depends on, at the most.

    Where a pixel lies relative to the poolings decides, so others may depend on fewer.

    Args:
        num_levels (`int`): At least 1.

    Returns:
        `int`: In pixels.
    """
    spans = (_expanding(0, place, place, num_levels) for place in range(2 ** (num_levels - 1)))
    return max(last - first + 1 for first, last in spans)


def _least_size(num_levels: int, is_padded: bool) -> int:
    multiple = 2 ** (num_levels - 1)
    if is_padded:
        return multiple
    # Going up from a lowest feature map of one pixel; below that, sides only grow by the multiple.
    size = 1 + 2 * _CONVOLUTIONS
    for _ in range(num_levels - 1):
        size = 2 * size + 2 * _CONVOLUTIONS
    while size <= 2 * margin(num_levels):
        size += multiple
    return size


def _contracting(level: int, first: int, last: int) -> tuple[int, int]:
    """Tell which input pixels some pixels of the contracting path's feature map depend on."""
    last += 2 * _CONVOLUTIONS
    return (first, last) if level == 0 else _contracting(level - 1, 2 * first, 2 * last + 1)


def _expanding(level: int, first: int, last: int, num_levels: int) -> tuple[int, int]:
    """Tell which input pixels some pixels of the expanding path's feature map depend on."""
    if level == num_levels - 1:
        return _contracting(level, first, last)
    last += 2 * _CONVOLUTIONS
    cropped = crop(level, num_levels)
    across = _contracting(level, first + cropped, last + cropped)
    below = _expanding(level + 1, first // 2, last // 2, num_levels)
    return min(across[0], below[0]), max(across[1], below[1])
