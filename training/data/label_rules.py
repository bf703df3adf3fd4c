"""What the numbers of a label map may be, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.errors import DataError

LABEL_TYPES = ("instances", "classes")
_WHITE = 255


@dataclass(frozen=True)
class LabelRules:
    """What is checked about every label map of a data set.

    Args:
        label_type (`str`, defaults to `"instances"`): `"instances"`: 0 is background and every other number an object.
            `"classes"`: numbers are classes.
        num_classes (`int`, defaults to 2): How many classes the network tells apart.

    Raises:
        DataError: If there is no such type, or it cannot have so many classes.
    """

    label_type: str = "instances"
    num_classes: int = 2

    def __post_init__(self) -> None:
        if self.label_type not in LABEL_TYPES:
            allowed = ", ".join(repr(label_type) for label_type in LABEL_TYPES)
            raise DataError(f"data.label_type is {self.label_type!r}; allowed: {allowed}")
        if self.label_type == "instances" and self.num_classes != 2:
            raise DataError(
                f"segmentation.unet.num_classes is {self.num_classes}; allowed for data.label_type 'instances': 2, as "
                "instances have two classes: background and object"
            )
        if self.num_classes < 2:
            raise DataError(f"segmentation.unet.num_classes is {self.num_classes}; allowed: at least 2")

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Check a label map, and read a black and white mask, of 0 and 255 alone, as classes 0 and 1.

        Args:
            labels (`np.ndarray` of shape `(height, width)`, int32): Numbers as they are stored, at least 0.

        Returns:
            `np.ndarray` of shape `(height, width)`, int32: instances, or classes in [0, num_classes).

        Raises:
            DataError: If a class is too large; the message does not name the file.
        """
        if self.label_type == "instances":
            return labels
        if self.num_classes == 2 and bool(np.isin(labels, (0, _WHITE)).all()):
            return labels // _WHITE
        largest = int(labels.max())
        if largest >= self.num_classes:
            raise DataError(
                f"a class of {largest}; allowed: 0 to {self.num_classes - 1}, as segmentation.unet.num_classes is "
                f"{self.num_classes}" + (", or a mask of 0 and 255" if self.num_classes == 2 else "")
            )
        return labels

    def classes_in(self, labels: np.ndarray) -> set[int]:
        """Tell which classes a network has to tell apart in a label map.

        Args:
            labels (`np.ndarray` of shape `(height, width)`, int32): What `apply` gives.

        Returns:
            `set[int]`: the classes. Of instances: 0 where there is background or a border between two of them, 1 where
            there is one of them.
        """
        numbers = np.unique(labels)
        if self.label_type == "classes":
            return set(numbers.tolist())
        objects = np.count_nonzero(numbers)
        has_background = objects < len(numbers) or objects > 1
        return ({0} if has_background else set()) | ({1} if objects else set())


def separated(instances: np.ndarray) -> np.ndarray:
    """Give the classes of pixels, 1 in cells, with a line of background between cells that touch.

    Ronneberger et al. (2015) introduce such borders, so that what is connected is one cell.

    Args:
        instances (`np.ndarray` of shape `(height, width)`): Integers; 0 is background.

    Returns:
        `np.ndarray` of this shape, uint8: 0 or 1.
    """
    foreground = instances > 0
    # The pixels on both sides of where two cells meet, but none that meet background only.
    apart = np.zeros(instances.shape, dtype=bool)
    for axis in (0, 1):
        first, second = [slice(None)] * 2, [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        one, other = instances[tuple(first)], instances[tuple(second)]
        meet = (one != other) & (one > 0) & (other > 0)
        apart[tuple(first)] |= meet
        apart[tuple(second)] |= meet
    return (foreground & ~apart).astype(np.uint8)


def pixel_classes(labels: np.ndarray, label_type: str) -> np.ndarray:
    """Tell the classes that a network is to find.

    Args:
        labels (`np.ndarray` of shape `(height, width)`): Integers, as `LabelRules.apply` gives them.
        label_type (`str`): Of `LABEL_TYPES`. Instances that touch get a line of background between them.

    Returns:
        `np.ndarray` of this shape, integers.
    """
    return separated(labels) if label_type == "instances" else labels
