"""The U-Net with the loss that it is trained on."""

from __future__ import annotations

import torch
from transformers import CLIPTextModel

from sd_pipeline import SDDDPMScheduler, SDUNet2DConditionModel
from sd_pipeline.schedulers.bound_of_schedule import BoundOfSchedule, Decoder
from sd_pipeline.schedulers.signal_to_noise import min_snr_weights, snr, truncated_snr_weights
from sd_pipeline.schedulers.variational_bound import bits_per_dimension
from training.config import DiffusionConfig


class DenoisingModel(torch.nn.Module):
    """The U-Net, and a text encoder that learns with it, with the objective of a run.

    Args:
        unet (`SDUNet2DConditionModel`): The network.
        text_encoder (`CLIPTextModel`, *optional*): Trained jointly.
        scheduler (`SDDDPMScheduler`): The forward process and what is predicted.
        settings (`DiffusionConfig`): The objective, and the weights of timesteps.
        decoder (`str`, defaults to `"gaussian"`): L_0 of the bound, as in `BoundOfSchedule`.
    """

    def __init__(
        self,
        unet: SDUNet2DConditionModel,
        text_encoder: CLIPTextModel | None,
        scheduler: SDDDPMScheduler,
        settings: DiffusionConfig,
        decoder: Decoder = "gaussian",
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.scheduler = scheduler
        self.settings = settings
        # In training nothing is clipped: a clipped prediction has no gradient.
        unclipped = SDDDPMScheduler.from_config(scheduler.config, clip_sample=False, thresholding=False)
        self.bound = BoundOfSchedule(unclipped, decoder)

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
        """Predict from x_t and compare.

        simple      w(t) |target - prediction|^2                  (report, Algorithm 1; eq. 23 without its weight)
        weighted    T (L_{t-1} - C)                               (report eq. 20, 23)
        vlb         T L_{t-1}, L_0 at the first timestep          (report eq. 16)
        hybrid      simple + vlb_scale vlb, the bound with respect to the variance alone
                                                                  (Nichol and Dhariwal 2021, Eq. 16)

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
            `dict` of tensors of shape `(batch_size,)`, float32: `"loss"`, and with `hybrid` its parts `"simple"` and
            `"vlb"`. All but `simple` are in bits of each value, estimates of the sum over all timesteps.
        """
        if self.text_encoder is not None:
            encoder_hidden_states = self.text_encoder(input_ids)[0][caption_rows]
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        model_input = noisy_latents if added_channels is None else torch.cat([noisy_latents, added_channels], dim=1)
        output = self.unet(model_input, timesteps, encoder_hidden_states).sample.float()
        x_0, x_t = latents.float(), noisy_latents.float()
        if self.settings.objective == "weighted":
            return {"loss": self._bits(self.bound.mean_term(output, x_0, x_t, timesteps), x_0)}
        if self.settings.objective == "vlb":
            return {"loss": self._bits(self.bound.term(output, x_0, x_t, timesteps), x_0)}
        prediction, variance = self.scheduler.split_output(output, x_t)
        target = self.scheduler.training_target(latents, noise, timesteps)
        simple = (prediction - target.float()).square().flatten(1).mean(1) * self._weights(timesteps)
        if variance is None:
            return {"loss": simple}
        frozen_mean = torch.cat([prediction.detach(), variance], dim=1)
        vlb = self._bits(self.bound.term(frozen_mean, x_0, x_t, timesteps), x_0)
        return {"loss": simple + self.settings.vlb_scale * vlb, "simple": simple, "vlb": vlb}

    def _bits(self, nats: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Turn one term, of a timestep that was drawn evenly, into an estimate of the sum of all."""
        return len(self.scheduler) * bits_per_dimension(nats, latents[0].numel())

    def _weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        gamma, is_distilled = self.settings.snr_gamma, self.settings.distillation.is_on
        if gamma is None and not is_distilled:
            return torch.ones(timesteps.shape, device=timesteps.device)
        kind = self.scheduler.config["prediction_type"]
        alphas_cumprod = self.scheduler.alphas_cumprod.to(timesteps.device)
        ratio = snr(alphas_cumprod, timesteps)
        if gamma is None:
            return truncated_snr_weights(ratio, kind)
        return min_snr_weights(ratio, gamma, kind, snr(alphas_cumprod, timesteps - 1))
