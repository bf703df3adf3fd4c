"""The U-Net with the loss that it is trained on."""

from __future__ import annotations

import torch
from transformers import CLIPTextModel

from sd_pipeline import SDDDPMScheduler, SDUNet2DConditionModel
from sd_pipeline.schedulers.signal_to_noise import min_snr_weights, snr


class DenoisingModel(torch.nn.Module):
    """The U-Net, and a text encoder that learns with it, with the loss of Algorithm 1.

    Args:
        unet (`SDUNet2DConditionModel`): The network.
        text_encoder (`CLIPTextModel`, *optional*): Trained jointly.
        scheduler (`SDDDPMScheduler`): The forward process and what is predicted.
        snr_gamma (`float`, *optional*): Gamma of min-SNR weighting; none weights all timesteps alike.
    """

    def __init__(
        self,
        unet: SDUNet2DConditionModel,
        text_encoder: CLIPTextModel | None,
        scheduler: SDDDPMScheduler,
        snr_gamma: float | None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.scheduler = scheduler
        self.snr_gamma = snr_gamma

    def forward(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        caption_rows: torch.Tensor | None = None,
        added_channels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Predict from x_t and compare: w(t) |target - prediction|^2 (report, Algorithm 1; eq. 23 without its weight).

        Args:
            latents (`torch.Tensor` of shape `(batch_size, channels, height, width)`): x_0, about unit variance.
            noise (`torch.Tensor`, same shape): epsilon.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`): t.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, length, dim)`, *optional*): Encoded captions.
            input_ids (`torch.LongTensor` of shape `(num_captions, length)`, *optional*): For a joint text encoder.
            caption_rows (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Which of them a sample has.
            added_channels (`torch.Tensor` of shape `(batch_size, 1 + channels, height, width)`, *optional*): Mask and
                latents of the masked image, for a U-Net that inpaints.

        Returns:
            `dict`: `"loss"` of shape `(batch_size,)`, float32.
        """
        if self.text_encoder is not None:
            encoder_hidden_states = self.text_encoder(input_ids)[0][caption_rows]
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        model_input = noisy_latents if added_channels is None else torch.cat([noisy_latents, added_channels], dim=1)
        prediction = self.unet(model_input, timesteps, encoder_hidden_states).sample
        target = self.scheduler.training_target(latents, noise, timesteps)
        loss = (prediction.float() - target.float()).square().flatten(1).mean(1)
        return {"loss": loss * self._weights(timesteps)}

    def _weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        if self.snr_gamma is None:
            return torch.ones(timesteps.shape, device=timesteps.device)
        alphas_cumprod = self.scheduler.alphas_cumprod.to(timesteps.device)
        ratio, previous = snr(alphas_cumprod, timesteps), snr(alphas_cumprod, timesteps - 1)
        return min_snr_weights(ratio, self.snr_gamma, self.scheduler.config["prediction_type"], previous)
