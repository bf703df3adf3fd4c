"""The one kind of error that bad data raises."""

from __future__ import annotations


class DataError(ValueError):
    """Bad data, told in one line that names the culprit: a file, a row, a column or a data set."""
