"""The reverse process of a scheduler: what a network's output says of p_theta(x_{t-1} | x_t)."""

from __future__ import annotations

import torch

from sd_pipeline.schedulers.forward_process import ForwardProcessMixin
from sd_pipeline.schedulers.posterior import posterior_mean, posterior_variance, reverse_std
from sd_pipeline.schedulers.scheduler_arguments import LEARNED_VARIANCE_TYPES
from sd_pipeline.schedulers.thresholding import dynamic_threshold


class ReverseProcessMixin(ForwardProcessMixin):
    """Mean and variance of the reverse steps of a scheduler that has `alphas_cumprod` and `config`."""

    def reverse_moments(
        self, model_output: torch.Tensor, sample: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give mean and log-variance of p_theta(x_{t-1} | x_t), the step from t to t - 1 (report eq. 12, 19-21).

        The mean is that of the sampler, x_0 clipped where the sampler clips it. The log-variance is that of
        `variance_type`, except that beta_tilde, which is 0 in the step to the data, counts there as in the step
        before: the density of the data needs a variance (Nichol and Dhariwal 2021 take the same).

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, num_channels, ...)`):
                The prediction; with a learned variance, twice the channels, the variance in the second half.
            sample (`torch.Tensor` of shape `(batch_size, num_channels, ...)`): x_t.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`): t, in [0, num_train_timesteps).

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: the mean, of the shape of `sample`, and the log-variance, which
            broadcasts against it.

        Raises:
            ValueError: If the shapes do not belong together, or a timestep is out of range.
        """
        prediction, predicted_variance = self.split_output(model_output, sample)
        x_0 = self.limit_x_0(self.predict_original_sample(prediction, sample, timesteps))
        alpha_bar = self.alpha_bar(timesteps, sample)
        alpha_bar_prev = self.alpha_bar(timesteps - 1, sample, first=-1)
        mean = posterior_mean(x_0, sample, alpha_bar, alpha_bar_prev)
        first = torch.full_like(timesteps, min(1, len(self) - 1))
        least = posterior_variance(self.alpha_bar(first, sample), self.alpha_bar(first - 1, sample, first=-1))
        std = reverse_std(self.config["variance_type"], alpha_bar, alpha_bar_prev, predicted_variance, least)
        return mean, 2 * std.log()

    def split_output(
        self, model_output: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Separate the prediction from a learned variance.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, num_channels, ...)`, or twice the channels): From x_t.
            sample (`torch.Tensor` of shape `(batch_size, num_channels, ...)`): x_t.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: the prediction, of the shape of `sample`, and the number that
            the variance follows from; none where the variance is not learned.

        Raises:
            ValueError: If `model_output` has not the shape that `sample` and `variance_type` ask for.
        """
        learned = self.config["variance_type"] in LEARNED_VARIANCE_TYPES
        batch_size, num_channels, *rest = sample.shape
        expected = (batch_size, num_channels * 2 if learned else num_channels, *rest)
        if model_output.shape != expected:
            raise ValueError(
                f"model_output has shape {tuple(model_output.shape)}; a sample of shape {tuple(sample.shape)} with "
                f"variance_type={self.config['variance_type']!r} needs {expected}."
            )
        if not learned:
            return model_output, None
        prediction, variance = model_output.chunk(2, dim=1)
        return prediction, variance

    def limit_x_0(self, x_0: torch.Tensor) -> torch.Tensor:
        """Keep the predicted x_0 in the range of the data: clipped, thresholded, or left alone, as configured.

        Args:
            x_0 (`torch.Tensor`, any shape): The prediction.

        Returns:
            `torch.Tensor` of the same shape.
        """
        config = self.config
        if config["thresholding"]:
            return dynamic_threshold(x_0, config["dynamic_thresholding_ratio"], config["sample_max_value"])
        return x_0.clamp(-config["clip_sample_range"], config["clip_sample_range"]) if config["clip_sample"] else x_0
