"""What the denoising loop asks of the U-Net, and how: prepared for the run where that can be done, or as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from sd_pipeline.models.packed_layers import PackedLayers
from sd_pipeline.models.plain_unet import attends_to_texts, can_be_prepared, state_of, version_of
from sd_pipeline.models.prepared_unet import PreparedUNet

if TYPE_CHECKING:
    from sd_pipeline.pipelines.denoising import DenoisingInputs


# Packing takes as long as a step of a small model. Beyond this its copies are given up after a run.
_MOST_KEPT_BYTES = 2**26
_kept_layers: WeakKeyDictionary[torch.nn.Module, tuple[list[Any], PackedLayers]] = WeakKeyDictionary()


class Predictor:
    """Asks a U-Net about latents, at the timesteps of one run.

    Where `PreparedUNet` computes what the U-Net would, it is used, and prepared again when the text changes, or when
    a callback has changed the U-Net. Elsewhere the U-Net itself is called.

    Args:
        unet ([`SDUNet2DConditionModel`] or any network that is called like it): Predicts what the scheduler's
            `prediction_type` says.
        timesteps (`torch.Tensor` of shape `(num_timesteps,)`): Those of the run.
    """

    def __init__(self, unet: Any, timesteps: torch.Tensor) -> None:
        self._unet, self._timesteps = unet, timesteps
        self._prepared: PreparedUNet | None = None
        self._layers: PackedLayers | None = None
        self._seen: tuple[torch.Tensor | None, int] = (None, -1)
        self._state: list[Any] = []

    def __call__(self, sample: torch.Tensor, step: int, inputs: DenoisingInputs) -> torch.Tensor:
        """Predict.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, in_channels, height, width)`): What the U-Net looks at, or a
                part of it.
            step (`int`): The number of the timestep.
            inputs (`DenoisingInputs`): What else it is told.

        Returns:
            `torch.Tensor` of shape `(inputs.copies * batch_size, out_channels, height, width)`.
        """
        text, num_predictions = inputs.encoder_hidden_states, inputs.copies * len(sample)
        if text is not self._seen[0] or inputs.num_callbacks != self._seen[1]:
            self._look(text, inputs)
        if self._prepared is not None and _is_plain_call(inputs, sample) and self._prepared.fits(sample):
            prediction = self._prepared(sample, step)
            return repeat_batch(prediction, num_predictions // len(prediction))
        plain: torch.Tensor = self._unet(
            repeat_batch(sample, inputs.copies),
            self._timesteps[step],
            encoder_hidden_states=text,
            cross_attention_kwargs=inputs.cross_attention_kwargs,
            return_dict=False,
        )[0]
        return plain

    def _look(self, text: torch.Tensor | None, inputs: DenoisingInputs) -> None:
        """Prepare the U-Net, unless nothing has changed since it was prepared, or it cannot be."""
        is_same_text, self._seen = text is self._seen[0], (text, inputs.num_callbacks)
        if not can_be_prepared(self._unet) or (text is None and attends_to_texts(self._unet)):
            self._prepared = self._layers = None
            return
        state, state_of_text = state_of(self._unet), None if text is None else version_of(text)
        if self._layers is None or state != self._state[:-1]:
            self._layers = _packed_layers(self._unet, state)
        elif is_same_text and self._prepared is not None and self._state[-1] == state_of_text:
            return
        self._state = [*state, state_of_text]
        if text is not None and inputs.is_guided and len(text) % 2 == 0 and torch.equal(*text.chunk(2)):
            # Guidance away from the prompt itself leads nowhere: half of the predictions is a copy of the other.
            text = text.chunk(2)[0]
        self._prepared = PreparedUNet(self._unet, self._timesteps, text, self._layers)


def _packed_layers(unet: torch.nn.Module, state: list[Any]) -> PackedLayers:
    """Pack the layers of a U-Net, unless its small ones were packed in an earlier run and are the same still."""
    of_parts = [part for part in state if part is not unet]  # What is kept must not keep the U-Net itself.
    kept_state, layers = _kept_layers.get(unet, (None, None))
    if layers is None or kept_state != of_parts:
        layers = PackedLayers(unet)
        if layers.most_bytes <= _MOST_KEPT_BYTES:
            _kept_layers[unet] = of_parts, layers
    return layers


def repeat_batch(batch: torch.Tensor, copies: int) -> torch.Tensor:
    """Repeat a batch as a whole.

    Args:
        batch (`torch.Tensor` of shape `(batch_size, ...)`): Any.
        copies (`int`): How often, at least 1.

    Returns:
        `torch.Tensor` of shape `(copies * batch_size, ...)`, the batch itself where there is one copy.
    """
    return batch if copies == 1 else torch.cat([batch] * copies)


def _is_plain_call(inputs: DenoisingInputs, sample: torch.Tensor) -> bool:
    """Tell whether nobody wants gradients, autocast, or attention told of something else."""
    is_traced = torch.is_grad_enabled() or torch.is_autocast_enabled(sample.device.type)
    return not is_traced and not inputs.cross_attention_kwargs
