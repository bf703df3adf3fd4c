"""What a run may learn from."""

from __future__ import annotations

from training.data.captioned_images import CaptionedImages
from training.data.labelled_source import LabelledSource

TrainingImages = CaptionedImages | LabelledSource
"""Images with captions, cropped and scaled; or, for segmentation, with label maps, as they are."""
