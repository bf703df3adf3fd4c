"""The files of a segmentation: which images there are to segment, and what is written of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sd_pipeline.pipelines.image_pages import count_pages, read_page
from sd_pipeline.pipelines.segmentation_overlay import overlay

LARGEST_OF_PNG = 65_535
"""More instances do not fit into a grey PNG, which has 16 bits at most."""


@dataclass(frozen=True)
class Page:
    """An image in a file.

    Args:
        path (`Path`): The file.
        number (`int`): Which of its pages.
        name (`str`): Beginning of the names of what is written: that of the file, of several pages with the number.
    """

    path: Path
    number: int
    name: str

    def read(self) -> np.ndarray:
        """Read the image; see `image_pages.read_page`."""
        return read_page(self.path, self.number)


@dataclass(frozen=True)
class ResultFiles:
    """What is written of an image.

    Args:
        folder (`Path`): Where to.
        name (`str`): Beginning of the names of the files.
        has_overlay (`bool`): Whether there is a picture to look at.
        has_probabilities (`bool`): Whether the probabilities of all classes are kept.
    """

    folder: Path
    name: str
    has_overlay: bool
    has_probabilities: bool

    def path(self, what: str) -> Path:
        """Give a file its name, such as `NAME-labels.png` for `labels.png`."""
        return self.folder / f"{self.name}-{what}"

    def possible_paths(self) -> list[Path]:
        """List what may be written. Of the two files of instances, one will be."""
        wanted = ["labels.png", "instances.png", "instances.tif"]
        wanted += ["overlay.png"] * self.has_overlay + ["probabilities.npy"] * self.has_probabilities
        return [self.path(what) for what in wanted]

    def write(self, image: np.ndarray, output: Any) -> list[Path]:
        """Write the segmentation of the image.

        Args:
            image (`np.ndarray`): What was segmented.
            output ([`SegmentationPipelineOutput`]): Of this image alone.

        Returns:
            `list[Path]`: The files.

        Raises:
            OSError: If one cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (labels,), (instances,) = output.labels, output.instances
        paths = [self.path("labels.png"), self._write_instances(instances)]
        Image.fromarray(labels).save(paths[0])
        if self.has_overlay:
            paths.append(self.path("overlay.png"))
            overlay(image, instances).save(paths[-1])
        if self.has_probabilities:
            paths.append(self.path("probabilities.npy"))
            np.save(paths[-1], output.probabilities[0])
        return paths

    def _write_instances(self, instances: np.ndarray) -> Path:
        path, other = self.path("instances.png"), self.path("instances.tif")
        if instances.max() > LARGEST_OF_PNG:
            path, other = other, path
        Image.fromarray(instances.astype(np.uint16) if path.suffix == ".png" else instances).save(path)
        other.unlink(missing_ok=True)  # That of an older segmentation, which is being overwritten.
        return path


def list_pages(paths: Sequence[Path]) -> list[Page]:
    """List the images in files: each page of a TIFF is one.

    Args:
        paths (sequence of `Path`): The files.

    Returns:
        `list[Page]`: In their order. The pages of `stack.tif` are `stack-00` to `stack-29`.

    Raises:
        ValueError: If a file is missing or no image, or two images would have one name.
    """
    pages: dict[str, Page] = {}
    for path in paths:
        num_pages = count_pages(path)
        for number in range(num_pages):
            suffix = "" if num_pages == 1 else f"-{number:0{len(str(num_pages - 1))}}"
            page = Page(path, number, f"{path.stem}{suffix}")
            other = pages.setdefault(page.name, page)
            if other is not page:
                raise ValueError(
                    f"{other.path} and {path} would both be written as {page.name}-...: segment one alone"
                )
    return list(pages.values())


def check_result_files(files: Sequence[ResultFiles], images: Sequence[Path], overwrite: bool) -> None:
    """Check that results can be written, and replace nothing but older results.

    Args:
        files (sequence of [`ResultFiles`]): Of all images.
        images (sequence of `Path`): The files that are read.
        overwrite (`bool`): Whether files that exist may be replaced.

    Raises:
        ValueError: If something is in the way.
    """
    for folder in {result.folder for result in files}:
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise ValueError(f"{existing} is a file; --output must be a folder, new or not")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ValueError(f"{existing} cannot be written to; give another --output")
    read = {image.resolve() for image in images}
    for path in (path for result in files for path in result.possible_paths()):
        if path.resolve() in read:
            raise ValueError(f"{path} is one of the images; give another --output")
        if path.is_dir() or (path.exists() and not overwrite):
            raise ValueError(f"{path} exists{'' if path.is_dir() else '; --overwrite replaces it'}")
