"""The one kind of error that bad data raises."""

from __future__ import annotations

import re

_NAME_OF_ERROR = re.compile(r"[\w.]+Error: ")


class DataError(ValueError):
    """Bad data, told in one line that names the culprit: a file, a row, a column or a data set.

    Args:
        message (`str`): The line. A traceback that ends with it, as a `DataLoader` hands over the error of a worker,
            is left out.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().rsplit("\n", 1)[-1]
        super().__init__(message if last == message else _NAME_OF_ERROR.sub("", last, count=1))
