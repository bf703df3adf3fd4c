"""The on-disk and Hub format of a finished model."""
