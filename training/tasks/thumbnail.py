"""Drawing a thumbnail from the states of a text encoder: what teaches it where the things of a caption stand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

THUMBNAIL_SIZE = 8


class ThumbnailDecoder(nn.Module):
    """One transformer layer whose queries are the places of a small picture and whose memory are a caption's states.

    The contrast of a batch is won by naming what is in a picture; that two things are the other way round is seldom
    the difference between two of its captions, so a text encoder learns late, or never, to put a relation into its
    states. Here no picture is right before it does. The layer has no text of its own: what it draws, they must say.

    Args:
        hidden_size (`int`): Width of the text encoder.
        num_attention_heads (`int`): Heads of its attention, and of this.
    """

    def __init__(self, hidden_size: int, num_attention_heads: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(THUMBNAIL_SIZE**2, hidden_size))
        self.layer = nn.TransformerDecoderLayer(
            hidden_size,
            num_attention_heads,
            4 * hidden_size,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.to_rgb = nn.Linear(hidden_size, 3)

    def forward(self, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        """Draw one thumbnail a caption.

        Args:
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): The states.

        Returns:
            `torch.Tensor` of shape `(batch_size, 3, THUMBNAIL_SIZE, THUMBNAIL_SIZE)`.
        """
        places = self.places.expand(len(encoder_hidden_states), -1, -1)
        colors: torch.Tensor = self.to_rgb(self.layer(places, encoder_hidden_states))
        return colors.transpose(1, 2).unflatten(2, (THUMBNAIL_SIZE, THUMBNAIL_SIZE))


def thumbnail_error(thumbnails: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
    """Mean squared difference from the pictures, reduced by averaging.

    Args:
        thumbnails (`torch.Tensor` of shape `(batch_size, 3, THUMBNAIL_SIZE, THUMBNAIL_SIZE)`): What was drawn.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): The pictures, in [-1, 1].

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32.
    """
    reduced = F.adaptive_avg_pool2d(pixel_values.float(), THUMBNAIL_SIZE)
    return (thumbnails.float() - reduced).square().flatten(1).mean(1)
